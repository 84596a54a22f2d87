"""The identity channel's protocol, as both ends of a virtio-serial port speak it; for drivers that have such a port.

To the guest: ``IDENTITY 1 <bytes> <sha256> <unix time>`` and the tar; ``SEED`` with the same instead, to a guest that
is to be a template; and to a template that was resumed the words of its shell by which it becomes a machine. From the
guest, a line each: ``STAGE <name> <seconds since power-on>``, ``OK <sha256>``, ``ERROR <text>``. How the bytes get
there is the driver's business.
"""

from __future__ import annotations

import hashlib
import io
import re
import shlex
import tarfile
from collections.abc import Collection

from pymachine.errors import DriverError
from pymachine.system.wait import Deadline

PORT = "org.pymachine.identity"
"""The port's name: the guest has it as /dev/virtio-ports/org.pymachine.identity."""
CONTAINERS_PORT = "org.pymachine.containers"
"""Another port's name: the guest reports there what listens in it while it has containers, see `listeners`."""
VERSION = 1
_LONGEST_LINE = 4096
# An image has a dozen; a hostile guest could report new ones without end.
_MOST_STAGES = 100
FIRST_STAGE = "init"
# The guest's engine answers once one of these was said; OK alone is about the identity.
ENGINE_STAGES = frozenset({"engine", "ready"})
SSH_STAGES = frozenset({"ssh"})
# Nothing moves any more in a guest with a seed.
SETTLED_STAGES = frozenset({"settled"})
# What a clone need not be told if its template knows it already; the last one tells whether the engine has to restart.
_ENGINE_MEMBERS = ("daemon.json", "engine.env", "engine.args", "engine.restart")


class GuestError(DriverError):
    """The guest did not come up, or did not accept its identity."""

    code = "guest"


class GuestReportedError(GuestError):
    """The guest reports that it cannot use its identity or its engine options."""

    code = "guest-report"


class GuestEndedError(GuestError):
    """The machine ended before its guest was up."""


class GuestTimeoutError(GuestError):
    """The guest did not come up in time."""

    code = "guest-timeout"


def message(tar: bytes, *, now: float, word: str = "IDENTITY") -> bytes:
    """What is sent for an identity, or (`word` SEED) for what a template has; `now` is in seconds since 1970."""
    return f"{word} {VERSION} {len(tar)} {digest(tar)} {int(now)}\n".encode() + tar


def activation_script(tar: bytes, *, seed: bytes, now: float) -> bytes:
    """Return the script that turns a template made with `seed` into the machine whose identity is `tar`.

    See ``await_life`` in the guest's ``channel``. Raises `GuestReportedError` for an identity that is not text.
    """
    members, common = _members(tar), _members(seed)
    engine = {name: members.get(name) for name in _ENGINE_MEMBERS}
    if engine == {name: common.get(name) for name in _ENGINE_MEMBERS}:
        change = "same"
    else:
        change = "reload" if members.get("engine.restart") == common.get("engine.restart") else "restart"
    try:
        changed = {name: content for name, content in members.items() if common.get(name) != content}
        gone = {name: b"" for name in common if name not in members}
        words = [f"put {name} {shlex.quote(content.decode())}" for name, content in (changed | gone).items()]
        name = shlex.quote(members["hostname"].decode().strip())
    except (UnicodeDecodeError, KeyError) as error:
        raise GuestReportedError("the identity is not text, or has no hostname") from error
    return "\n".join([*words, f"become {name} {int(now)} {digest(tar)} {change}", ""]).encode()


def _members(tar: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        return {entry.name: file.read() for entry in archive if (file := archive.extractfile(entry))}


def digest(tar: bytes) -> str:
    """What the guest's OK must name."""
    return hashlib.sha256(tar).hexdigest()


class Progress:
    """What the guest has said so far; pure, so that it can be tested without one."""

    def __init__(self, expected: str, *, stages: Collection[str] = ENGINE_STAGES) -> None:
        """`expected` is the identity's digest; one of `stages`, if there are any, is awaited beside it."""
        self.stages: dict[str, float] = {}
        """Seconds since power-on at which each stage was reached, in the order in which the guest told."""
        self._expected = expected
        self._awaited = frozenset(stages)
        self._applied = False
        self._buffer = b""

    def await_one_of(self, stages: Collection[str]) -> None:
        """Await another stage than before."""
        self._awaited = frozenset(stages)

    @property
    def is_up(self) -> bool:
        """Whether the identity is in place, and an awaited stage was reached."""
        return self._applied and (not self._awaited or bool(self._awaited & self.stages.keys()))

    @property
    def last_stage(self) -> str:
        """The stage that was reached last; empty before the first."""
        return next(reversed(self.stages), "")

    def feed(self, data: bytes) -> bool:
        """Take what the guest sent, in whatever pieces. Raises `GuestReportedError` when it reports an error.

        Returns whether the guest has begun anew (its kernel panicked, say): what it was sent before is lost.
        """
        anew = False
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        self._buffer = self._buffer[-_LONGEST_LINE:]
        for line in lines:
            anew = self._line(line[:_LONGEST_LINE].decode(errors="replace").strip()) or anew
        return anew

    def durations(self) -> dict[str, float]:
        """How many seconds passed from one stage to the next, by the later one's name."""
        passed: dict[str, float] = {}
        before = 0.0
        for name, at in sorted(self.stages.items(), key=lambda item: item[1]):
            passed[name] = round(at - before, 2)
            before = at
        return passed

    def _line(self, line: str) -> bool:
        anew = False
        word, _, rest = line.partition(" ")
        if word == "STAGE":
            stage = re.fullmatch(r"([a-z-]{1,40}) (\d{1,7}(?:\.\d{1,6})?)", rest)
            if stage:
                anew = stage[1] == FIRST_STAGE and FIRST_STAGE in self.stages
                if anew:
                    self.stages.clear()
                    self._applied = False
                if len(self.stages) < _MOST_STAGES:
                    self.stages[stage[1]] = float(stage[2])
        elif word == "OK":
            # Another digest is the answer to an identity that somebody sent before us.
            self._applied = self._applied or rest.strip() == self._expected
        elif word == "ERROR":
            raise GuestReportedError(f"the guest reports: {rest or 'an error'}")
        return anew


def ended(progress: Progress, *, details: str = "") -> GuestEndedError:
    """The error of a guest whose end of the channel went away."""
    stage = progress.last_stage or "none"
    return GuestEndedError(f"the machine switched itself off while it booted (last stage: {stage})", details=details)


def too_late(progress: Progress, deadline: Deadline) -> str:
    """What to say of a guest that was not up at the `deadline`."""
    stage = progress.last_stage
    how_far = f"its last stage was {stage!r}" if stage else "it reported no stage at all"
    return f"the guest did not come up within {deadline.seconds:g} seconds: {how_far}"
