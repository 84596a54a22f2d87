"""The operations on machines, one file each."""
