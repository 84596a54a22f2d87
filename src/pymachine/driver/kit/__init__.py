"""Modules for what many drivers need; a driver uses those that fit.

- `system`: run programs, wait, write files, report progress
- `identity_channel`: the protocol over which a guest is sent its identity
- `search_domains`: the host's DNS search domains, for guests that resolve names as the host does
- `listen_address`: loopback addresses and ports for machines that are reached through forwarded ports
- `user_network`, `guest_listeners`, `forwarded_ports`, `port_forwarding`: forward the ports that are open in the guest
- `listen_queues`: connections that wait for a server that does not accept them
- `option_checks`: check the values of flags and of `modify`
- `accelerator`, `probe_cache`: choose hardware virtualisation only where it has booted Linux
- `machine_files`: room for a machine, the marker of a new disk, files kept aside while they are replaced
- `crashes`: boot once more after the hypervisor crashed, and switch off after a failed boot
- `transactions`: notes about unfinished changes of a machine, for the case that a command is killed
"""
