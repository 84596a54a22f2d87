"""The command line: reads options, calls `pymachine.manager`, prints; the only layer that does any of these."""
