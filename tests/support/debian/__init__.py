"""A Debian system that boots to systemd and OpenSSH: built from Debian's packages without root, run by plain QEMU.

It is what a user of the driver ``generic`` brings: a host that is none of pymachine's making. No maintainer script
runs when it is built; what those would have done is done here, so that `apt-get install` works in it for real.
"""
