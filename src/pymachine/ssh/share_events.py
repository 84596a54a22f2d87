"""Raise inotify events in a machine, over SSH, for changes that this host makes in shared folders.

A thread of the keeper holds a connection to the machine, on which the guest's script ``share-events`` and the kit's
`Follower` exchange messages. It connects again after a lost connection or a reboot.
"""

from __future__ import annotations

import json
import secrets
import shlex
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Self

from pymachine.driver.kit.share_events.follower import Follower
from pymachine.driver.shares import Share, ShareEvents
from pymachine.errors import PymachineError
from pymachine.ssh import remote_script
from pymachine.ssh.target import Target
from pymachine.system import os_errors, printable
from pymachine.system.wait import GrowingPause

RUN_FOLDERS = ("/run/containerd", "/run/docker/containerd", "/run/snap.docker/containerd")
"""Folders in which the engine's containerd may have its socket: the system's, the engine's own, and snap's."""
# A machine that lacks a program gets it seldom, and each try is a login.
_REFUSED_PAUSE = 300.0
# Longer than it takes to end ssh; see `remote_script.end`.
_END_SECONDS = 10.0
# The exit code of `_CHECK` if a program is missing.
_LACKING = 69
_CHECK = """
PATH=$PATH:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
LC_ALL=C
export PATH LC_ALL
for each in bash inotifywait; do
    if ! command -v $each > /dev/null; then
        echo "$each is not installed" >&2
        exit 69
    fi
done
"""

Say = Callable[[str], None]
FindTarget = Callable[[], Target]


@dataclass(frozen=True)
class _Wanted:
    """The shares that raise events, and the names of folders without them."""

    shares: tuple[Share, ...]
    left_out: frozenset[str]
    over_sshfs: bool
    mounts: int
    attempt: int


class _Connection:
    """One connection to the machine."""

    def __init__(self, wanted: _Wanted, *, script: str, run_folders: Sequence[str], say: Say) -> None:
        self._wanted = wanted
        self._run_folders = run_folders
        self._script = script
        self._say = say
        # Each connection has marks of its own: the script of a lost one may still run.
        self._marks = f"/run/pymachine/share-events-{secrets.token_hex(8)}"
        self._ours, self._theirs = socket.socketpair()
        self._process: subprocess.Popen[bytes] | None = None

    def end(self) -> None:
        """End the connection soon. It may be called by any thread."""
        self._shut()
        if process := self._process:
            # ssh does not end with its input while the machine is silent.
            process.terminate()

    def _shut(self) -> None:
        with suppress(OSError):  # it has ended already
            self._ours.shutdown(socket.SHUT_RDWR)

    def run(self, target: Target) -> tuple[str, bool]:
        """Raise events until the connection ends. Return why, and whether the machine cannot raise any.

        Raises `SshError`, OSError.
        """
        with self._ours, self._theirs, remote_script.command(target) as argv:
            number = self._theirs.fileno()
            process = subprocess.Popen(argv, stdin=number, stdout=number, stderr=subprocess.PIPE)
            self._process = process
            try:
                self._theirs.close()
                assert process.stderr is not None  # noqa: S101 (for the type checker)
                messages = remote_script.Messages(process.stderr)
                problem = remote_script.begin(self._ours, self._message(), purpose="raise events")
                if problem is None:
                    self._follow()
            finally:
                self._ours.close()
                code = remote_script.end(process)
            text = messages.text()
            process.stderr.close()
        problem = problem or remote_script.login_problem(target, code, text)
        return problem or remote_script.refusal(target, code, text), code == _LACKING

    def _follow(self) -> None:
        self._say("ready to raise events for changes in the shared folders")
        number = self._ours.fileno()
        follower = Follower(
            self._wanted.shares,
            left_out=self._wanted.left_out,
            incoming=number,
            outgoing=number,
            say=self._say,
            marks_folder=self._marks,
            idle_seconds=None,
            # A hypervisor's file server may open the file, and wait for another program if that is a named pipe.
            only_plain_files=not self._wanted.over_sshfs,
        )
        try:
            follower.run()
        finally:
            self._shut()
            follower.await_reader()

    def _message(self) -> bytes:
        """Return what is sent to the machine's root shell: it starts the script in bash."""
        paths = [str(share.guest_path) for share in self._wanted.shares]
        read_only = [str(share.guest_path) for share in self._wanted.shares if share.read_only]
        settings = (
            f"MARKS={shlex.quote(self._marks)}\nRUN_FOLDERS={shlex.quote(' '.join(self._run_folders))}\n"
            f"SHARES=({shlex.join(paths)})\nIN_JSON=({shlex.join(map(_in_json, paths))})\n"
            f"READ_ONLY=({shlex.join(read_only)})\nKEEP_OPEN={'' if self._wanted.over_sshfs else 'yes'}\n"
        )
        start = f"exec bash -c {shlex.quote(settings + self._script)} share-events stdio"
        return f"{_CHECK}{start}\n".encode(errors="surrogateescape")


class Events:
    """Raises events in one machine. Use it in a ``with`` statement, which ends that."""

    def __init__(self, *, target: FindTarget, script: str, say: Say, run_folders: Sequence[str] = RUN_FOLDERS) -> None:
        """`script` is the text of the guest's ``share-events``. `run_folders` is like `RUN_FOLDERS`."""
        self._target = target
        self._script = script
        self._say = say
        self._run_folders = run_folders
        self._lock = threading.Condition()
        self._wanted: _Wanted | None = None
        self._connection: _Connection | None = None
        self._thread: threading.Thread | None = None
        self._problem = ""
        self._attempt = 0

    def __enter__(self) -> Self:
        """Return the object."""
        return self

    def __exit__(self, *exception: object) -> None:
        """End the connection, and wait a while until it has ended."""
        self.follow((), None)
        if thread := self._thread:
            thread.join(_END_SECONDS)

    def follow(
        self, shares: Sequence[Share], events: ShareEvents | None, *, over_sshfs: bool = True, mounts: int = 0
    ) -> None:
        """Raise events for changes in exactly these shares from now on, or none without `events`.

        `over_sshfs` says whether the machine has mounted them by SSHFS, or else by its hypervisor's file system.
        `mounts` is how many mounts there have been: with another number, the machine watches the folders again.
        """
        wanted = None
        if shares and events:
            wanted = _Wanted(tuple(shares), frozenset(events.left_out), over_sshfs, mounts, self._attempt)
        with self._lock:
            if wanted == self._wanted:
                return
            self._wanted = wanted
            self._lock.notify_all()
            if self._connection:
                self._connection.end()
            if wanted and not (self._thread and self._thread.is_alive()):
                self._thread = threading.Thread(target=self._run, daemon=True)
                self._thread.start()

    def retry(self) -> None:
        """Connect again now if there is no connection, although the machine has refused one."""
        with self._lock:
            if self._wanted and self._problem:
                self._attempt += 1
                self._wanted = replace(self._wanted, attempt=self._attempt)
                self._lock.notify_all()

    def _run(self) -> None:
        """Connect as long as events are wanted."""
        pauses, pause, wanted = GrowingPause(), 0.0, None
        while wanted := self._next(wanted, pause):
            began = time.monotonic()
            why, is_refused = self._connect(wanted)
            if wanted != self._wanted:
                pauses, pause = GrowingPause(), 0.0
                continue
            if why != self._problem:
                self._problem = why
                self._say(f"no events for changes in the shared folders: {printable.line(why)}")
            pause = pauses.after(time.monotonic() - began)
            if is_refused:
                pause = _REFUSED_PAUSE

    def _next(self, before: _Wanted | None, pause: float) -> _Wanted | None:
        """Wait for `pause` seconds, or until other events than `before` are wanted.

        Return which, or None to end the thread.
        """
        with self._lock:
            self._lock.wait_for(lambda: self._wanted != before, pause)
            if self._wanted is None:
                self._thread = None
            return self._wanted

    def _connect(self, wanted: _Wanted) -> tuple[str, bool]:
        try:
            with self._lock:
                if wanted != self._wanted:
                    return "", False
                connection = _Connection(wanted, script=self._script, run_folders=self._run_folders, say=self._begun)
                self._connection = connection
            return connection.run(self._target())
        except PymachineError as error:
            return error.brief, False
        except OSError as error:
            return os_errors.reason(error), False
        except Exception as error:  # noqa: BLE001 (a fault of ours: without this thread there would be no events)
            return repr(error), False
        finally:
            with self._lock:
                self._connection = None

    def _begun(self, text: str) -> None:
        self._problem = ""
        self._say(text)


def _in_json(path: str) -> str:
    """Return a path as it is between the quotes of a JSON string of Go's encoder, which escapes these characters."""
    text = json.dumps(path, ensure_ascii=False)[1:-1]
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text
