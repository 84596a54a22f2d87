"""The protocol between host and guest on a virtio-serial port, the identity channel; for drivers with such a port.

To the guest: ``IDENTITY 1 <bytes> <sha256> <unix time>`` and the tar; ``SEED`` with the same arguments for a guest that
becomes a template; ``FORGET`` with them, and zeros, for a running machine that becomes one; and for a resumed template
the shell script that makes it a machine. From the guest, one line each: ``STAGE <name> <seconds since power-on>``, ``OK
<sha256>``, ``ERROR <text>``. Each driver transports the bytes itself.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import shlex
import tarfile
from collections.abc import Collection, Mapping

from pymachine.driver.contract import Json
from pymachine.errors import DriverError
from pymachine.system.wait import Deadline

PORT = "org.pymachine.identity"
"""The port's name, in the guest /dev/virtio-ports/org.pymachine.identity."""
CONTAINERS_PORT = "org.pymachine.containers"
"""The name of the port on which a guest with containers reports its open ports; see `guest_listeners`."""
SHARES_PORT = "org.pymachine.shares"
"""The name of the port for changes in shared folders; see `share_events`."""
VERSION = 1
_LONGEST_LINE = 4096
# An image has about twelve. The limit is for hostile guests, which could report new ones without end.
_MOST_STAGES = 100
# More than the guest's kernel has buffers for the port, as the guest's `channel` expects it after FORGET.
_PADDING = 16 * 65536
FIRST_STAGE = "init"
# The guest's engine answers from these stages on. OK alone only confirms the identity.
ENGINE_STAGES = frozenset({"engine", "ready"})
SSH_STAGES = frozenset({"ssh"})
# A guest with a seed is idle, ready to be frozen.
SETTLED_STAGES = frozenset({"settled"})
# The engine's settings, which a clone keeps if its template has the same. If one of the last two differs, the engine
# restarts.
_ENGINE_MEMBERS = ("daemon.json", "registry-cache", "engine.env", "engine.args", "engine.proxies", "engine.restart")
_RESTARTING_MEMBERS = ("engine.proxies", "engine.restart")


class GuestError(DriverError):
    """The guest did not start, or did not accept its identity."""

    code = "guest"


class GuestReportedError(GuestError):
    """The guest reports that it cannot apply its identity or its engine's options."""

    code = "guest-report"


class GuestEndedError(GuestError):
    """The machine ended before its guest was up."""


class GuestTimeoutError(GuestError):
    """The guest did not start in time."""

    code = "guest-timeout"


def message(tar: bytes, *, now: float, word: str = "IDENTITY") -> bytes:
    """Return the message that sends an identity, or a template's seed (`word` SEED); `now` is in seconds since 1970."""
    return f"{word} {VERSION} {len(tar)} {digest(tar)} {int(now)}\n".encode() + tar


def forget_message(seed: bytes, *, now: float) -> bytes:
    """Return the message that makes a running machine a template, whose clones share `seed`."""
    return message(seed, now=now, word="FORGET") + bytes(_PADDING)


def activation_script(tar: bytes, *, seed: bytes, now: float) -> bytes:
    """Return the script that turns a template made with `seed` into the machine whose identity is `tar`.

    See ``await_activation`` in the guest's ``channel``. Raises `GuestReportedError` for an identity that is not text.
    """
    members, common = _members(tar), _members(seed)
    engine = {name: members.get(name) for name in _ENGINE_MEMBERS}
    if engine == {name: common.get(name) for name in _ENGINE_MEMBERS}:
        change = "same"
    else:
        same = all(members.get(name) == common.get(name) for name in _RESTARTING_MEMBERS)
        change = "reload" if same else "restart"
    # A machine of a named template does not wait for its engine to reload the host's registry cache.
    late = change == "reload" and _without_registry_cache(engine) == _without_registry_cache(common)
    try:
        changed = {name: content for name, content in members.items() if common.get(name) != content}
        gone = {name: b"" for name in common if name not in members}
        commands = [f"put {name} {shlex.quote(content.decode())}" for name, content in (changed | gone).items()]
        name = shlex.quote(members["hostname"].decode().strip())
    except (UnicodeDecodeError, KeyError) as error:
        raise GuestReportedError("the identity is not text, or has no hostname") from error
    if late:
        commands.append(f"late_change={change}")
        change = "same"
    return "\n".join([*commands, f"become {name} {int(now)} {digest(tar)} {change}", ""]).encode()


def _without_registry_cache(members: Mapping[str, bytes | None]) -> Mapping[str, Json]:
    """Return the settings in daemon.json except for the mirror of ``registry-cache``."""
    settings: dict[str, Json] = json.loads(members.get("daemon.json") or b"{}")
    address = (members.get("registry-cache") or b"").partition(b"\n")[0].decode()
    mirrors = [mirror for mirror in settings.pop("registry-mirrors", []) if mirror != f"https://{address}"]
    return {**settings, "registry-mirrors": mirrors}


def _members(tar: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        return {entry.name: file.read() for entry in archive if (file := archive.extractfile(entry))}


def digest(tar: bytes) -> str:
    """Return the digest with which the guest's OK must confirm."""
    return hashlib.sha256(tar).hexdigest()


class Progress:
    """The guest's reports so far. It does no input or output, so tests need no guest."""

    def __init__(self, expected: str, *, stages: Collection[str] = ENGINE_STAGES) -> None:
        """Expect the identity's digest `expected` and, unless `stages` is empty, one of these stages."""
        self.stages: dict[str, float] = {}
        """When each stage was reached, in seconds since power-on, in the order of the guest's reports."""
        self._expected = expected
        self._awaited = frozenset(stages)
        self._applied = False
        self._buffer = b""

    def await_one_of(self, stages: Collection[str]) -> None:
        """Expect one of `stages` instead of the earlier ones."""
        self._awaited = frozenset(stages)

    @property
    def is_up(self) -> bool:
        """Whether the identity is applied and one of the expected stages was reached."""
        return self._applied and (not self._awaited or bool(self._awaited & self.stages.keys()))

    @property
    def last_stage(self) -> str:
        """The stage that was reached last, or "" before the first."""
        return next(reversed(self.stages), "")

    def feed(self, data: bytes) -> bool:
        """Process the guest's data, in pieces of any size. Raises `GuestReportedError` if it reports an error.

        Return whether the guest has restarted, for example after a kernel panic. Data sent before is lost then.
        """
        restarted = False
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        self._buffer = self._buffer[-_LONGEST_LINE:]
        for line in lines:
            restarted = self._line(line[:_LONGEST_LINE].decode(errors="replace").strip()) or restarted
        return restarted

    def durations(self) -> dict[str, float]:
        """Return the seconds from each stage's predecessor to the stage, by stage name."""
        passed: dict[str, float] = {}
        before = 0.0
        for name, at in sorted(self.stages.items(), key=lambda item: item[1]):
            passed[name] = round(at - before, 2)
            before = at
        return passed

    def _line(self, line: str) -> bool:
        restarted = False
        word, _, rest = line.partition(" ")
        if word == "STAGE":
            stage = re.fullmatch(r"([a-z-]{1,40}) (\d{1,7}(?:\.\d{1,6})?)", rest)
            if stage:
                restarted = stage[1] == FIRST_STAGE and FIRST_STAGE in self.stages
                if restarted:
                    self.stages.clear()
                    self._applied = False
                if len(self.stages) < _MOST_STAGES:
                    self.stages[stage[1]] = float(stage[2])
        elif word == "OK":
            # Another digest confirms an identity that another process sent before.
            self._applied = self._applied or rest.strip() == self._expected
        elif word == "ERROR":
            raise GuestReportedError(f"the guest reports: {rest or 'an error'}")
        return restarted


def ended(progress: Progress, *, details: str = "") -> GuestEndedError:
    """Return the error for a guest that closed the channel."""
    stage = progress.last_stage or "none"
    return GuestEndedError(f"the machine switched itself off while it booted (last stage: {stage})", details=details)


def too_late(progress: Progress, deadline: Deadline) -> str:
    """Return the message about a guest that was not up at the `deadline`."""
    stage = progress.last_stage
    how_far = f"its last stage was {stage!r}" if stage else "it reported no stage at all"
    return f"the guest did not come up within {deadline.seconds:g} seconds: {how_far}"
