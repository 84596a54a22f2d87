"""Drivers in docker-machine's plug-in programs, ``docker-machine-driver-*``, and those built into docker-machine.

A program is started when something is asked of a machine. It serves one driver over Go's net/rpc, with values in gob.
"""
