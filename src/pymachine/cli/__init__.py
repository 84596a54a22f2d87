"""The command line: parse options, call `pymachine.hosts`, print results. No other package does any of these."""
