"""The engine's HTTP API and settings, and docker contexts."""
