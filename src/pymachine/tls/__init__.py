"""Certificates and TLS handshakes."""
