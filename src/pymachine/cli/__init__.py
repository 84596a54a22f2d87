"""The command line: reads options, calls `pymachine.hosts.manager`, prints; the only layer that does any of these."""
