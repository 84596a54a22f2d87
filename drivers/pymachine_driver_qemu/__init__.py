"""The embedded default driver: one rootless QEMU process a machine."""
