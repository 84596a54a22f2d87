"""Set up the engine on an existing host over SSH, leaving the host's own settings in place.

`session` is the entry point. `facts` describes the host, and `plan` derives the changes from it in pure functions.
Only `remote` runs commands on the host, over one connection.
"""
