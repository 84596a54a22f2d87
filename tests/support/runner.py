"""Run the installed ``pymachine`` as a user would: in another process, on its own store."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from support import processes

REPOSITORY = Path(__file__).resolve().parents[2]
PROGRAM = Path(sys.executable).parent / "pymachine"
# For software emulation on a busy host: far above measured times, below pytest's time limit for a test.
BOOT_SECONDS = "600"
# A boot in emulation takes 26 seconds of processor time with one CPU and 31 with two. Since tests run in parallel, a
# second CPU makes no machine faster. The tutorial's machine has the default number.
ONE_CPU = {"QEMU_CPU_COUNT": "1"}
DEFAULT_CPUS = {"QEMU_CPU_COUNT": "2"}
# With this, all that runs in an emulated guest takes a fifth less processor time. The contract suites use the default.
NO_ASLR = {"QEMU_NO_ASLR": "true", "LIBVIRT_NO_ASLR": "true"}


def cache_folder() -> Path:
    """Return the folder in which all test runs of this user share downloaded packages and built images."""
    chosen = os.environ.get("PYMACHINE_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(chosen) if chosen else Path(base) / "pymachine-tests"


def search_path() -> str:
    """Return PATH with this interpreter's programs, and those that scripts/setup installs in .venv/bin."""
    return os.pathsep.join([str(PROGRAM.parent), os.environ.get("PATH", ""), str(REPOSITORY / ".venv" / "bin")])


@dataclass(frozen=True)
class Outcome:
    """The exit code and output of a run."""

    code: int
    stdout: str
    stderr: str

    @property
    def text(self) -> str:
        """Stdout and stderr together."""
        return self.stdout + self.stderr


@dataclass
class Pymachine:
    """The program on one store, with its own home folder."""

    store: Path
    home: Path
    env: dict[str, str] = field(default_factory=dict)
    wrapper: Sequence[str] = ()
    """The beginning of the command that starts every program, such as `support.unprivileged.as_user`."""
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    def environment(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        """Return the variables for this store's processes, without the caller's DOCKER_ and MACHINE_ variables and CI.

        A CI job shares other folders with its machines than a user. Proxies would be used by the machines' engines.
        """
        without = {"CI", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"}
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("DOCKER_", "MACHINE_")) and name.upper() not in without
        }
        own = {
            "HOME": str(self.home),
            "SHELL": "/bin/bash",
            "PATH": search_path(),
            "MACHINE_STORAGE_PATH": str(self.store),
            "PYMACHINE_CACHE": str(cache_folder()),
            "PYMACHINE_BOOT_TIMEOUT": BOOT_SECONDS,
        }
        return {**kept, **own, **ONE_CPU, **NO_ASLR, **self.env, **(extra or {})}

    def __call__(
        self,
        *words: str,
        code: int | None = 0,
        stdin: str = "",
        env: Mapping[str, str] | None = None,
        timeout: float = 800,
    ) -> Outcome:
        """Run ``pymachine WORDS`` and expect exit code `code`, or any if it is None."""
        return self.run([str(PROGRAM), *words], code=code, stdin=stdin, env=env, timeout=timeout)

    def run(
        self,
        argv: list[str],
        *,
        code: int | None = 0,
        stdin: str = "",
        env: Mapping[str, str] | None = None,
        timeout: float = 800,
    ) -> Outcome:
        """Run any program with this store's variables."""
        done = subprocess.run(
            [*self.wrapper, *argv],
            input=stdin,
            env=self.environment(env),
            capture_output=True,
            text=True,
            errors="surrogateescape",
            timeout=timeout,
            check=False,
            cwd=self.home,
        )
        outcome = Outcome(done.returncode, done.stdout, done.stderr)
        if code is not None and outcome.code != code:
            raise AssertionError(
                f"{argv} ended with {outcome.code}, expected {code}\n--- stdout\n{outcome.stdout}"
                f"\n--- stderr\n{outcome.stderr}{self.guest_logs()}"
            )
        return outcome

    def start(self, *words: str, env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        """Start ``pymachine WORDS`` in its own process group; the caller reads its output.

        `remove_all` ends it if it still runs.
        """
        process = subprocess.Popen(
            [*self.wrapper, str(PROGRAM), *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=self.environment(env),
            text=True,
            cwd=self.home,
            start_new_session=True,
        )
        self.started.append(process)
        return process

    def shell(self, script: str, *, code: int | None = 0, timeout: float = 300) -> Outcome:
        """Run `script` in bash, after ``eval "$(pymachine env intro)"``, as the tutorial does."""
        words = f'set -eu\neval "$(pymachine env intro)"\n{script}'
        return self.run(["bash", "-c", words], code=code, timeout=timeout)

    def processes(self) -> dict[int, str]:
        """Return the running processes that name this store on their command line, as pid -> command."""
        found = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                command = _command_line(entry)
                if str(self.store) in command:
                    found[int(entry.name)] = command
        return found

    def remaining_processes(self, *, ignored: Collection[int] = ()) -> dict[int, str]:
        """Wait up to 30 seconds for the processes of this store to end, except `ignored`; return those that did not.

        A port forwarder ends soon after its QEMU.
        """
        deadline = time.monotonic() + 30
        while True:
            found = {pid: command for pid, command in self.processes().items() if pid not in ignored}
            if not found or time.monotonic() > deadline:
                return found
            time.sleep(0.1)

    def guest_logs(self, lines: int = 40) -> str:
        """Return the last lines of each machine's logs, for the report of a failed test."""
        sections = []
        for log in sorted(self.store.glob("machines/*/*.log")):
            tail = log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:]
            sections.append(f"\n--- {log.name} of {log.parent.name}\n" + "\n".join(tail))
        return "".join(sections)

    def remove_all(self) -> None:
        """End the started processes and remove every machine; kill processes that `rm` leaves."""
        for process in self.started:
            if process.poll() is None:
                processes.end(process)
        machines = self.store / "machines"
        names = sorted(entry.name for entry in machines.iterdir()) if machines.is_dir() else []
        if names:
            self("rm", "-y", "-f", *names, code=None)
        for pid in self.processes():
            with suppress(ProcessLookupError):  # it has ended meanwhile
                os.kill(pid, 9)


def _command_line(entry: Path) -> str:
    """Return a process's command line; empty for one that ended or is a zombie."""
    try:
        return (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


@contextmanager
def private_store(**env: str) -> Iterator[Pymachine]:
    """Yield the program on an empty store in a temporary folder with a short path; remove all of it afterwards."""
    base = Path(tempfile.mkdtemp(prefix="pm-", dir="/tmp"))
    home = base / "home"
    home.mkdir()
    program = Pymachine(base / "store", home, dict(env))
    try:
        yield program
    finally:
        program.remove_all()
        shutil.rmtree(base, ignore_errors=True)
