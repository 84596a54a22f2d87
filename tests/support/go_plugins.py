"""A docker-machine plug-in program in Go, built from the folder `go_plugin`, and the log of what its clients do.

Its package `behaviour` describes the faults that a test can choose, and the log's lines.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

SOURCE = Path(__file__).parent / "go_plugin"
OURGO = "docker-machine-driver-ourgo"
OTHERGO = "docker-machine-driver-othergo"
WITH_BUILT_INS = ("docker-machine", "rancher-machine")
_BUILD_SECONDS = 600


@dataclass(frozen=True)
class GoPlugins:
    """The built program under its four names in one folder."""

    folder: Path

    def program(self, name: str) -> Path:
        """Return the path of the program under one of its names."""
        return self.folder / name

    def linked(self, folder: Path, *names: str) -> Path:
        """Put the program into `folder` under `names`, such as ``docker-machine-driver-vmware``, and return `folder`.

        A name that is not one of the four is a driver without machines, like `OTHERGO`.
        """
        for name in names:
            _link(self.program(OURGO), folder / name)
        return folder


def plugin_environment(**variables: str) -> dict[str, str]:
    """Return the variables that start the program as a plug-in, and further ones."""
    return {**os.environ, "MACHINE_PLUGIN_TOKEN": "42", **variables}


def built(folder: Path) -> GoPlugins:
    """Build the program in `folder` unless another worker of the test run has done so or is doing so."""
    folder.mkdir(parents=True, exist_ok=True)
    programs = folder / "programs"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not programs.exists():
            _build(folder / "program")
            unfinished = folder / "unfinished"
            unfinished.mkdir(exist_ok=True)
            for name in (OURGO, OTHERGO, *WITH_BUILT_INS):
                _link(folder / "program", unfinished / name)
            unfinished.rename(programs)
    return GoPlugins(programs)


def _build(program: Path) -> None:
    # The paths of the program's sources, its symbols and debug data are not needed.
    run_go("build", "-trimpath", "-ldflags", "-s -w", "-o", str(program), ".", cache=program.parent)


def run_go(*words: str, cache: Path, env: Mapping[str, str] | None = None) -> str:
    """Run a command of Go's toolchain in the program's source folder, without the network, and return its output.

    `cache` holds Go's build cache if the home folder cannot.
    """
    environment = {**os.environ, "CGO_ENABLED": "0", "GOPROXY": "off", "GOTOOLCHAIN": "local", **(env or {})}
    environment["PATH"] = os.pathsep.join(["/usr/local/go/bin", environment["PATH"]])
    home = Path(environment.get("HOME", "/nonexistent"))
    if "GOCACHE" not in environment and not os.access(home, os.W_OK):
        environment["GOCACHE"] = str(cache / "go-build")
    done = subprocess.run(
        ["go", *words], cwd=SOURCE, env=environment, capture_output=True, text=True, timeout=_BUILD_SECONDS, check=False
    )
    assert done.returncode == 0, f"go {' '.join(words)} ended with {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


def _link(source: Path, target: Path) -> None:
    # The program needs its own name, which symbolic links could hide.
    try:
        target.hardlink_to(source)
    except OSError:  # another file system
        shutil.copy2(source, target)


class Event(NamedTuple):
    """A line of the log."""

    kind: str
    pid: int
    words: tuple[str, ...]


@dataclass(frozen=True)
class EventLog:
    """The log that all programs with its `environment` write."""

    path: Path

    def environment(self, *behaviour: str) -> dict[str, str]:
        """Return the variables for programs that log here, with faults such as ``"hang=GetState"``."""
        return {"GO_PLUGIN_LOG": str(self.path), "GO_PLUGIN_BEHAVIOUR": ",".join(behaviour)}

    def events(self, kind: str = "") -> list[Event]:
        """Return all events in order, or those of one kind."""
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []
        split = (line.split() for line in lines)
        return [Event(one[0], int(one[1]), tuple(one[2:])) for one in split if kind in ("", one[0])]

    def starts(self) -> list[str]:
        """Return the driver's name for each program that was started."""
        return [event.words[0] for event in self.events("start")]

    def calls(self) -> list[str]:
        """Return the methods that clients have called, except for heartbeats."""
        return [event.words[0] for event in self.events("call") if event.words[0] != "Heartbeat"]

    def created(self) -> list[str]:
        """Return the instances that were created."""
        return [event.words[1] for event in self.events("created")]

    def removed(self) -> list[str]:
        """Return the instances whose removal was requested; ``-`` stands for one that the client could not name."""
        return [event.words[1] for event in self.events("removed")]

    def remaining(self) -> list[str]:
        """Return the instances that were created and not removed: in a cloud they would cost money."""
        removed = self.removed()
        return [instance for instance in self.created() if instance not in removed]
