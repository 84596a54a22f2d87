"""Hosts that exist already: the engine is installed and set up over SSH, without fighting what is there.

`provisioner` is the way in. What a host is (`facts`) and what it is to be (`plan`) meet in pure functions; only
`remote` talks to the host, over one connection.
"""
