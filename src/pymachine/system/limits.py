"""Numbers that several modules share. The fast path of `env` imports this, so it imports nothing itself."""

CHUNK_BYTES = 64 * 1024
"""How much is read from a pipe, file or socket at once."""
LONGEST_RECORD_BYTES = 4 * 1024 * 1024
"""A record has some 4 KB, and the texts of libvirt's patches."""
RENEW_CERTIFICATES_SECONDS = 30 * 24 * 3600
"""This long before certificates expire, commands warn and `start` renews them."""
