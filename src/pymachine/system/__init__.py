"""The operating system: processes, signals, files, waiting, progress."""
