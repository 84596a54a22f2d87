"""The public contract for drivers."""
