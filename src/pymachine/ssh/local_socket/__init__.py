"""A unix socket on this host that reaches a machine's engine over SSH, for programs without TLS.

- `place`: where the socket is
- `forwarder`: keeps it connected, by OpenSSH's client
- `status`: the file in which the forwarder records whether it is connected
- `process`: the forwarder's process, which runs in the background
"""
