"""Whether this host has an IPv6 loopback: containers often lack it."""

from __future__ import annotations

import socket

import pytest


def _has_loopback() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


NEEDS_LOOPBACK = pytest.mark.skipif(not _has_loopback(), reason="this host has no ::1")
