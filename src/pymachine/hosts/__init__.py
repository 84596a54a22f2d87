"""What can be done to a machine, one file for each operation."""
