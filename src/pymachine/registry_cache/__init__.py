"""A pull-through registry on this host for all machines of the user: docker-registry, and a process that keeps it up.

- `control`: start it, end it, and report its status
- `keeper`: the process that starts docker-registry, starts it again, and keeps its storage below the limit
- `state`: its settings, also for `create`, which asks whether it runs
- `storage`: the blobs on the disk
- `configuration`: the configuration of docker-registry
- `report`: why docker-registry does not run
- `place`: the names of its files, and its errors
"""
