"""A client of QEMU's 9p server that needs no guest: it drives a virtio-9p device through QEMU's test protocol, qtest.

It sends what a guest's kernel would send, and also what only a hostile one would.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# The virtual processor is stopped. The machine microvm has only devices on virtio-mmio.
_MACHINE = ("-machine", "microvm", "-accel", "tcg", "-S", "-nodefaults", "-display", "none")
_MODERN = ("-global", "virtio-mmio.force-legacy=false")
_TRANSPORTS = range(0xFEB00000, 0xFEB00000 + 24 * 0x200, 0x200)
_DEVICE_ID, _9P = 0x08, 9
# Registers of virtio-mmio, version 2.
_FEATURES, _FEATURES_WORD, _NOTIFY, _STATUS = 0x20, 0x24, 0x50, 0x70
_QUEUE, _QUEUE_SIZE, _QUEUE_READY, _DESCRIPTORS, _AVAILABLE, _USED = 0x30, 0x38, 0x44, 0x80, 0x90, 0xA0
_ACKNOWLEDGED, _FEATURES_OK, _DRIVER_OK = 3, 8 | 3, 4 | 8 | 3
# Where the queue and the messages are in the guest's memory, and the longest message.
_RING, _REQUEST, _REPLY, _SIZE = 0x100000, 0x110000, 0x120000, 8192
_SECONDS = 60.0

TLOPEN, TLCREATE, TSYMLINK, TMKNOD, TSETATTR, TXATTRCREATE = 12, 14, 16, 18, 26, 32
TLINK, TMKDIR, TRENAMEAT, TUNLINKAT = 70, 72, 74, 76
TVERSION, TATTACH, TWALK, TWRITE, TCLUNK = 100, 104, 110, 118, 120
_RLERROR = 7
# The ids of the shared folder, of the file that a request is about, and of no file.
_ROOT, _FILE, _NONE = (struct.pack("<I", number) for number in (1, 2, 0xFFFFFFFF))
# Flags of Linux on x86, whatever the host is.
_CREATE_FLAGS = 0o302
_REMOVE_FOLDER = 0x200
_SET_MODE, _SET_UID, _SET_GID, _SET_SIZE, _SET_MTIME, _SET_THIS_MTIME = 1, 2, 4, 8, 0x20, 0x100


def arguments(qtest: Path, shared: Path) -> list[str]:
    """Return QEMU's arguments for a machine that shares the folder `shared`."""
    return [
        *_MACHINE,
        *_MODERN,
        *("-qtest", f"unix:{qtest},server=on,wait=off"),
        # Without this, the protocol is logged to stderr.
        *("-qtest-log", "none"),
        *("-fsdev", f"local,id=s0,path={shared},security_model=none"),
        *("-device", "virtio-9p-device,fsdev=s0,mount_tag=s0"),
    ]


class Client:
    """A connection to the 9p server of the QEMU with the socket `qtest`. Its methods raise `OSError` as Linux does."""

    def __init__(self, qtest: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(_SECONDS)
        self.socket.connect(str(qtest))
        self.lines = self.socket.makefile("rb")
        self.count = 0
        self.base = next(base for base in _TRANSPORTS if self._read_register(base + _DEVICE_ID) == _9P)
        self._start()
        self._call(TVERSION, struct.pack("<I", _SIZE) + _text("9P2000.L"))
        self._call(TATTACH, _ROOT + _NONE + _text("root") + _text("") + struct.pack("<I", 0))

    def close(self) -> None:
        """Close the connection."""
        self.lines.close()
        self.socket.close()

    def mkdir(self, name: str, mode: int) -> None:
        """Create a folder."""
        with self._folder_of(name) as (folder, last):
            self._call(TMKDIR, folder + _text(last) + struct.pack("<II", mode, 0))

    def mknod(self, name: str, mode: int, *, major: int = 0, minor: int = 0) -> None:
        """Create a device node, FIFO, socket or file, as the type in `mode` says."""
        with self._folder_of(name) as (folder, last):
            self._call(TMKNOD, folder + _text(last) + struct.pack("<IIII", mode, major, minor, 0))

    def create(self, name: str, mode: int) -> None:
        """Create an empty file."""
        with self._folder_of(name) as (folder, last):
            self._call(TLCREATE, folder + _text(last) + struct.pack("<III", _CREATE_FLAGS, mode, 0))

    def write(self, name: str, data: bytes) -> None:
        """Write to the beginning of a file."""
        with self._walked(name) as fid:
            self._call(TLOPEN, fid + struct.pack("<I", os.O_WRONLY))
            self._call(TWRITE, fid + struct.pack("<QI", 0, len(data)) + data)

    def chmod(self, name: str, mode: int) -> None:
        """Set a mode."""
        self._set(name, _SET_MODE, mode=mode)

    def chown(self, name: str, uid: int, gid: int) -> None:
        """Set an owner and a group."""
        self._set(name, _SET_UID | _SET_GID, uid=uid, gid=gid)

    def truncate(self, name: str, size: int) -> None:
        """Set a size."""
        self._set(name, _SET_SIZE, size=size)

    def set_time(self, name: str, seconds: int | None = None) -> None:
        """Set the time of the last change, to now without `seconds`."""
        self._set(name, _SET_MTIME | (0 if seconds is None else _SET_THIS_MTIME), seconds=seconds or 0)

    def set_attribute(self, name: str, attribute: str, value: bytes) -> None:
        """Set an extended attribute. The server does that, or fails, when the file's id is released."""
        with self._walked(name) as fid:
            self._call(TXATTRCREATE, fid + _text(attribute) + struct.pack("<QI", len(value), 0))
            self._call(TWRITE, fid + struct.pack("<QI", 0, len(value)) + value)

    def symlink(self, name: str, target: str) -> None:
        """Create a symbolic link."""
        with self._folder_of(name) as (folder, last):
            self._call(TSYMLINK, folder + _text(last) + _text(target) + struct.pack("<I", 0))

    def link(self, name: str, new: str) -> None:
        """Create the hard link `new` in the shared folder itself."""
        with self._walked(name) as fid:
            self._call(TLINK, _ROOT + fid + _text(new))

    def rename(self, name: str, new: str) -> None:
        """Rename a file in the shared folder itself."""
        self._call(TRENAMEAT, _ROOT + _text(name) + _ROOT + _text(new))

    def remove(self, name: str, *, is_folder: bool = False) -> None:
        """Remove a file or an empty folder."""
        with self._folder_of(name) as (folder, last):
            self._call(TUNLINKAT, folder + _text(last) + struct.pack("<I", _REMOVE_FOLDER if is_folder else 0))

    def _set(
        self, name: str, valid: int, *, mode: int = 0, uid: int = 0, gid: int = 0, size: int = 0, seconds: int = 0
    ) -> None:
        with self._walked(name) as fid:
            self._call(TSETATTR, fid + struct.pack("<IIIIQQQQQ", valid, mode, uid, gid, size, 0, 0, seconds, 0))

    @contextmanager
    def _walked(self, name: str) -> Iterator[bytes]:
        """Yield the id of a file during the block."""
        parts = [part for part in name.split("/") if part]
        self._call(TWALK, _ROOT + _FILE + struct.pack("<H", len(parts)) + b"".join(map(_text, parts)))
        try:
            yield _FILE
        finally:
            self._call(TCLUNK, _FILE)

    @contextmanager
    def _folder_of(self, name: str) -> Iterator[tuple[bytes, str]]:
        folder, _, last = name.rpartition("/")
        with self._walked(folder) as fid:
            yield fid, last

    def _call(self, kind: int, body: bytes) -> bytes:
        """Send a request and return the body of the reply. Raises `OSError` if that is an error."""
        request = struct.pack("<IBH", len(body) + 7, kind, 0) + body
        self._write(_REQUEST, request)
        # Two descriptors: the request, followed by the buffer for the reply, which the device writes.
        descriptors = (_REQUEST, len(request), 1, 1, _REPLY, _SIZE, 2, 0)
        self._write(_RING, struct.pack("<QIHHQIHH", *descriptors))
        self._write(_RING + 0x1000 + 4 + 2 * (self.count % 2), struct.pack("<H", 0))
        self.count += 1
        self._write(_RING + 0x1000 + 2, struct.pack("<H", self.count))
        self._write_register(self.base + _NOTIFY, 0)
        deadline = time.monotonic() + _SECONDS
        while struct.unpack("<H", self._read(_RING + 0x2000 + 2, 2))[0] != self.count:
            assert time.monotonic() < deadline, "the 9p server does not answer"
            time.sleep(0.001)
        size, answer, _ = struct.unpack("<IBH", self._read(_REPLY, 7))
        content = self._read(_REPLY + 7, size - 7) if size > 7 else b""
        if answer == _RLERROR:
            raise OSError(struct.unpack("<I", content)[0], f"9p request {kind}")
        assert answer == kind + 1
        return content

    def _start(self) -> None:
        """Set the device up, with one queue of two descriptors."""
        registers = [(_STATUS, 0), (_STATUS, _ACKNOWLEDGED), (_FEATURES_WORD, 1), (_FEATURES, 1)]
        registers += [(_STATUS, _FEATURES_OK), (_QUEUE, 0), (_QUEUE_SIZE, 2), (_DESCRIPTORS, _RING)]
        registers += [(_AVAILABLE, _RING + 0x1000), (_USED, _RING + 0x2000), (_QUEUE_READY, 1), (_STATUS, _DRIVER_OK)]
        for register, value in registers:
            self._write_register(self.base + register, value)

    def _command(self, line: str) -> str:
        self.socket.sendall(f"{line}\n".encode())
        answer = self.lines.readline().decode().split()
        while answer and answer[0] == "IRQ":
            answer = self.lines.readline().decode().split()
        assert answer[:1] == ["OK"], answer
        return answer[1] if len(answer) > 1 else ""

    def _write_register(self, address: int, value: int) -> None:
        self._command(f"writel {address:#x} {value:#x}")

    def _read_register(self, address: int) -> int:
        return int(self._command(f"readl {address:#x}"), 16)

    def _write(self, address: int, data: bytes) -> None:
        self._command(f"write {address:#x} {len(data):#x} 0x{data.hex()}")

    def _read(self, address: int, size: int) -> bytes:
        return bytes.fromhex(self._command(f"read {address:#x} {size:#x}")[2:])


def _text(value: str) -> bytes:
    encoded = value.encode()
    return struct.pack("<H", len(encoded)) + encoded
