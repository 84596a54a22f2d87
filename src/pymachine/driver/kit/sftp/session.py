"""The reply to each request of an SFTP client."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from types import TracebackType
from typing import Self

from pymachine.driver.kit.sftp import confined_folder, protocol
from pymachine.driver.kit.sftp.confined_folder import ConfinedFolder
from pymachine.driver.kit.sftp.handles import Handles, OpenFile, OpenFolder
from pymachine.driver.kit.sftp.protocol import Attributes, Fields, MalformedError, OpenFlag, Reply, Request, Status

Answer = tuple[Reply, bytes]

# All other requests are refused for a read-only folder. OPEN is checked by its flags, SETSTAT and FSETSTAT by the
# attributes, EXTENDED by its name.
_READING = frozenset(
    {
        Request.OPEN,
        Request.CLOSE,
        Request.READ,
        Request.LSTAT,
        Request.FSTAT,
        Request.SETSTAT,
        Request.FSETSTAT,
        Request.OPENDIR,
        Request.READDIR,
        Request.REALPATH,
        Request.STAT,
        Request.READLINK,
        Request.EXTENDED,
    }
)
_READING_EXTENSIONS = frozenset(
    {b"statvfs@openssh.com", b"fsync@openssh.com", b"limits@openssh.com", b"lsetstat@openssh.com"}
)
_VERSIONS = {
    b"posix-rename@openssh.com": b"1",
    b"hardlink@openssh.com": b"1",
    b"statvfs@openssh.com": b"2",
    b"fsync@openssh.com": b"1",
    b"lsetstat@openssh.com": b"1",
    b"limits@openssh.com": b"1",
}
_DEFAULT_FILE_MODE = 0o644
_DEFAULT_FOLDER_MODE = 0o755
# The flags of a file system in the reply to statvfs@openssh.com.
_IS_READ_ONLY = 1
_HAS_NO_SETUID = 2


class Session:
    """Answers one client's requests, in their order."""

    def __init__(self, folder: ConfinedFolder, *, read_only: bool) -> None:
        self._folder = folder
        self._read_only = read_only
        self._handles = Handles()
        self._requests: dict[int, Callable[[Fields], Answer]] = {
            Request.OPEN: self._open,
            Request.CLOSE: self._close,
            Request.READ: self._read,
            Request.WRITE: self._write,
            Request.LSTAT: self._stat,
            Request.FSTAT: self._fstat,
            Request.SETSTAT: self._setstat,
            Request.FSETSTAT: self._fsetstat,
            Request.OPENDIR: self._opendir,
            Request.READDIR: self._readdir,
            Request.REMOVE: self._remove,
            Request.MKDIR: self._mkdir,
            Request.RMDIR: self._rmdir,
            Request.REALPATH: self._realpath,
            # No link is followed here: its target has a meaning only for the client.
            Request.STAT: self._stat,
            Request.RENAME: self._rename,
            Request.READLINK: self._readlink,
            Request.SYMLINK: self._symlink,
            Request.EXTENDED: self._extended,
        }
        self._extensions: dict[bytes, Callable[[Fields], Answer]] = {
            b"posix-rename@openssh.com": self._posix_rename,
            b"hardlink@openssh.com": self._hardlink,
            b"statvfs@openssh.com": self._statvfs,
            b"fsync@openssh.com": self._fsync,
            b"lsetstat@openssh.com": self._setstat,
            b"limits@openssh.com": self._limits,
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._handles.close_all()

    def answer(self, packet: bytes) -> bytes:
        """Return the reply to a packet, which may contain anything."""
        number = 0
        fields = Fields(packet)
        try:
            kind, number = fields.head()
            if kind == Request.INIT:  # which has the client's version in place of a number
                return protocol.reply_packet(Reply.VERSION, protocol.VERSION, _extension_list())
            reply, content = self._perform(kind, fields)
        except MalformedError as error:
            reply, content = Reply.STATUS, protocol.status(Status.BAD_MESSAGE, str(error))
        except OSError as error:
            reply, content = Reply.STATUS, protocol.status_of(error)
        return protocol.reply_packet(reply, number, content)

    def _perform(self, kind: int, fields: Fields) -> Answer:
        perform = self._requests.get(kind)
        if perform is None:
            return _status(Status.OP_UNSUPPORTED)
        if kind not in _READING:
            self._require_writable()
        return perform(fields)

    def _require_writable(self) -> None:
        if self._read_only:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    def _require_settable(self, wanted: Attributes) -> None:
        """Raise OSError if the folder is read-only, except where only owners are set, which changes nothing.

        A guest raises inotify events in that way: see `pymachine.driver.kit.share_events`.
        """
        if wanted != Attributes():
            self._require_writable()

    # Files.

    def _open(self, fields: Fields) -> Answer:
        path, wanted, attributes = fields.string(), fields.uint32(), fields.attributes()
        if wanted != OpenFlag.READ:
            self._require_writable()
        self._handles.require_room()
        mode = _DEFAULT_FILE_MODE if attributes.mode is None else attributes.mode
        descriptor = self._folder.open_file(path, _system_flags(wanted), mode)
        return self._handle(OpenFile(descriptor, appends=bool(wanted & OpenFlag.APPEND)))

    def _close(self, fields: Fields) -> Answer:
        self._handles.close(fields.string())
        return _status(Status.OK)

    def _read(self, fields: Fields) -> Answer:
        handle, offset, length = fields.string(), fields.offset(), fields.uint32()
        data = self._handles.file(handle).read(offset, length)
        return (Reply.DATA, protocol.string(data)) if data else _status(Status.EOF)

    def _write(self, fields: Fields) -> Answer:
        handle, offset, data = fields.string(), fields.offset(), fields.data()
        self._handles.file(handle).write(offset, data)
        return _status(Status.OK)

    def _fsync(self, fields: Fields) -> Answer:
        os.fsync(self._handles.find(fields.string()).descriptor)
        return _status(Status.OK)

    # Attributes.

    def _stat(self, fields: Fields) -> Answer:
        return Reply.ATTRS, protocol.attributes(self._folder.stat(fields.string()))

    def _fstat(self, fields: Fields) -> Answer:
        return Reply.ATTRS, protocol.attributes(os.fstat(self._handles.find(fields.string()).descriptor))

    def _setstat(self, fields: Fields) -> Answer:
        path, wanted = fields.string(), fields.attributes()
        self._require_settable(wanted)
        self._folder.set_attributes(path, wanted)
        return _status(Status.OK)

    def _fsetstat(self, fields: Fields) -> Answer:
        handle, wanted = fields.string(), fields.attributes()
        self._require_settable(wanted)
        confined_folder.change_open_file(self._handles.find(handle).descriptor, wanted)
        return _status(Status.OK)

    # Folders and names.

    def _opendir(self, fields: Fields) -> Answer:
        path = fields.string()
        self._handles.require_room()
        return self._handle(OpenFolder(self._folder.open_folder(path)))

    def _readdir(self, fields: Fields) -> Answer:
        entries = self._handles.folder(fields.string()).next_entries()
        return (Reply.NAME, protocol.names(entries)) if entries else _status(Status.EOF)

    def _mkdir(self, fields: Fields) -> Answer:
        path, attributes = fields.string(), fields.attributes()
        mode = _DEFAULT_FOLDER_MODE if attributes.mode is None else attributes.mode
        self._folder.make_folder(path, mode)
        return _status(Status.OK)

    def _rmdir(self, fields: Fields) -> Answer:
        self._folder.remove_folder(fields.string())
        return _status(Status.OK)

    def _remove(self, fields: Fields) -> Answer:
        self._folder.remove(fields.string())
        return _status(Status.OK)

    def _rename(self, fields: Fields) -> Answer:
        """Rename as version 3 does it: nothing is replaced. OpenSSH, too, checks this before it renames."""
        old, new = fields.string(), fields.string()
        try:
            self._folder.stat(new)
        except FileNotFoundError:
            self._folder.rename(old, new)
            return _status(Status.OK)
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))

    def _posix_rename(self, fields: Fields) -> Answer:
        old, new = fields.string(), fields.string()
        self._folder.rename(old, new)
        return _status(Status.OK)

    def _hardlink(self, fields: Fields) -> Answer:
        old, new = fields.string(), fields.string()
        self._folder.hard_link(old, new)
        return _status(Status.OK)

    def _symlink(self, fields: Fields) -> Answer:
        # The order of OpenSSH and its clients, which is not that of the protocol's draft.
        target, path = fields.string(), fields.string()
        self._folder.symbolic_link(target, path)
        return _status(Status.OK)

    def _readlink(self, fields: Fields) -> Answer:
        return Reply.NAME, protocol.names([protocol.name(self._folder.read_link(fields.string()))])

    def _realpath(self, fields: Fields) -> Answer:
        path = b"/" + b"/".join(confined_folder.components(fields.string()))
        return Reply.NAME, protocol.names([protocol.name(path)])

    # Extensions.

    def _extended(self, fields: Fields) -> Answer:
        name = fields.string()
        perform = self._extensions.get(name)
        if perform is None:
            return _status(Status.OP_UNSUPPORTED)
        if name not in _READING_EXTENSIONS:
            self._require_writable()
        return perform(fields)

    def _statvfs(self, fields: Fields) -> Answer:
        found = self._folder.file_system(fields.string())
        sizes = (found.f_bsize, found.f_frsize, found.f_blocks, found.f_bfree, found.f_bavail)
        files = (found.f_files, found.f_ffree, found.f_favail)
        flags = _HAS_NO_SETUID | (_IS_READ_ONLY if self._read_only else 0)
        return Reply.EXTENDED_REPLY, protocol.numbers64(*sizes, *files, found.f_fsid, flags, found.f_namemax)

    def _limits(self, _fields: Fields) -> Answer:
        longest = protocol.LONGEST_DATA
        limits = protocol.numbers64(protocol.LONGEST_PACKET, longest, longest, self._handles.most)
        return Reply.EXTENDED_REPLY, limits

    def _handle(self, opened: OpenFile | OpenFolder) -> Answer:
        return Reply.HANDLE, protocol.string(self._handles.add(opened))


def _status(code: Status) -> Answer:
    return Reply.STATUS, protocol.status(code)


def _extension_list() -> bytes:
    return b"".join(protocol.string(name) + protocol.string(version) for name, version in _VERSIONS.items())


def _system_flags(wanted: int) -> int:
    """Translate OPEN's flags to those of the system."""
    if wanted & (OpenFlag.WRITE | OpenFlag.APPEND):
        flags = os.O_RDWR if wanted & OpenFlag.READ else os.O_WRONLY
    else:
        flags = os.O_RDONLY
    flags |= os.O_APPEND if wanted & OpenFlag.APPEND else 0
    flags |= os.O_CREAT if wanted & OpenFlag.CREATE else 0
    flags |= os.O_TRUNC if wanted & OpenFlag.TRUNCATE else 0
    return flags | (os.O_EXCL if wanted & OpenFlag.EXCLUSIVE else 0)
