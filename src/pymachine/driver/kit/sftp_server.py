"""Serve one folder of the host over SFTP to a client that is not trusted; for folders shared by reverse SSHFS.

The guest runs ``sshfs -o passive``, which is an SFTP client on its standard input and output, and the host answers over
the SSH session in which it runs. OpenSSH's sftp-server serves the whole file system.

This is an implementation of its own, of version 3 and of OpenSSH's extensions that sshfs uses. paramiko's SFTPServer
is as quick as needed (200 MB over sshfs on two busy cores: written at 260 MB/s, read at 236 MB/s), but it fails for
hostile and for unusual clients. It requires names in UTF-8, so one other name makes a folder unlistable. It completes
truncated requests with zero bytes. It accepts packets of 16 MB. Extensions can be added only by replacing its private
methods, and without them sshfs has no hard links, no fsync, no sizes of file systems and no atomic renames. The
confined file operations, which are the larger part, are this project's own in any case.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import BinaryIO

from pymachine.driver.kit.sftp import protocol
from pymachine.driver.kit.sftp.confined_folder import ConfinedFolder
from pymachine.driver.kit.sftp.session import Session


def serve(root: Path, *, read_only: bool, incoming: BinaryIO | int, outgoing: BinaryIO | int) -> None:
    """Answer an SFTP client, to which `root` is the root folder, until the stream ends.

    The streams are file descriptors or binary files, which must block, and are left open. The client can change nothing
    if `read_only` is set. Otherwise its files belong to the user of this process, and changes of their owner have no
    effect. A client may have as many files open as half of this process's limit, and at most `handles.MOST_HANDLES`. So
    this belongs in a process of its own, whose limit of open files has been raised.

    Raises OSError if `root` is no folder that can be read, or if the system cannot confine paths, as on Windows.
    """
    requests, replies = _reader(incoming), _writer(outgoing)
    with (
        ConfinedFolder(root) as folder,
        Session(folder, read_only=read_only) as session,
        contextlib.suppress(ConnectionError),  # the client has closed its end, which ends the stream as well
    ):
        for packet in protocol.read_packets(requests):
            protocol.write_packet(replies, session.answer(packet))


def _reader(stream: BinaryIO | int) -> BinaryIO:
    return os.fdopen(stream, "rb", protocol.LONGEST_PACKET, closefd=False) if isinstance(stream, int) else stream


def _writer(stream: BinaryIO | int) -> BinaryIO:
    return os.fdopen(stream, "wb", 0, closefd=False) if isinstance(stream, int) else stream
