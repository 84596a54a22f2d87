"""Optional building blocks for drivers.

- `system`: run programs, wait, write files, report progress
- `identity_channel`: the protocol that sends a guest its identity
- `identity_files`: add a driver's own files to an identity
- `name_resolution`: the host's search domains and its `/etc/hosts`, for guests that use the host's resolver
- `search_domains`, `host_names`: read them
- `listen_address`: loopback addresses and ports for machines that are reached through forwarded ports
- `user_network`, `guest_listeners`, `forwarded_ports`, `port_forwarding`: forward the ports that are open in the guest
- `ipv6_ports`: offer forwarded ports on ::1 too
- `listen_queues`: longer listen queues for QEMU's forwarded ports
- `option_checks`: check the values of options and of `modify`
- `host_memory`: the default memory of machines
- `accelerator`, `probe_cache`: choose hardware virtualisation only if it has booted Linux
- `kernel_parameters`: the kernel's parameters for guests that get their identity over a channel
- `guest_mounts`: tell a guest with pymachine's image which shared folders to mount
- `share_events`: raise inotify events in a guest for changes that this host makes in shared folders
- `sftp_server`, `sftp`: serve a folder of the host to a guest that is not trusted, for reverse SSHFS
- `machine_files`: check disk space, mark new disks, and keep files that are being replaced
- `crashes`: boot again after the hypervisor crashed, and switch off after a failed boot
- `transactions`: notes about unfinished changes of a machine, in case a command is killed
"""
