"""A Debian host with systemd and OpenSSH: built from Debian's packages without root, run by plain QEMU.

It serves as the existing host that a user of the driver ``generic`` has. The build runs no maintainer scripts and does
their work itself, so that `apt-get install` really works on the host.
"""
