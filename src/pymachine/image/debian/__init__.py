"""Debian's repositories and packages."""
