"""Raise inotify events in a guest for changes that this host makes in shared folders.

A guest's kernel raises events only for changes that its own programs make. While a container has mounted a shared
folder, a process on the host watches that folder, and reports changes to the guest's script ``share-events``:

- `follower`: the process, from the guest's first line to the end of the machine;
- `host_changes`: watch folders of the host;
- `own_changes`: recognize the changes that came from the guest itself, for which it has raised an event already;
- `reported_files`: recognize the changes of owner by which the guest raises events;
- `messages`: the messages between guest and host.
"""
