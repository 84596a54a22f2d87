"""Replay commands recorded from docker-machine 0.16.2 on pymachine, under the name docker-machine.

`tests/recorded/stores.json` describes the stores that the commands ran on. `cases.json` has the store, arguments,
environment and stdin of each command, and docker-machine's exit code, stdout and stderr (null for a help text, which
was not recorded). ``@STORE@``, ``@HOME@`` and ``@WORK@`` stand for folders. `wanted.toml` lists intended differences.

``python -m support.recorded [TEXT]`` (in ``tests``) prints the differences for commands that contain TEXT.
"""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from support.runner import PROGRAM, REPOSITORY

FOLDER = REPOSITORY / "tests" / "recorded"
NAME = "docker-machine"
PARTS = ("code", "stdout", "stderr")
SECONDS = 120
WORKERS = 2
# docker-machine runs these on several machines at once, so the order of output lines varies.
PARALLEL_COMMANDS = frozenset(("kill", "provision", "restart", "start", "stop", "upgrade"))


@dataclass(frozen=True)
class Case:
    """A recorded command; output that was not recorded is None."""

    store: str
    argv: tuple[str, ...]
    env: dict[str, str | None]
    stdin: str
    code: int
    stdout: str | None
    stderr: str | None

    @property
    def key(self) -> str:
        """The name of the case in `wanted.toml`: the store, then the command as typed in a shell."""
        variables = [f"{name}={shlex.quote(value)}" for name, value in self.env.items() if value is not None]
        removed = [f"-u {name}" for name, value in self.env.items() if value is None]
        before = ["env", *removed, *variables] if self.env else []
        after = [f"<<< {self.stdin.strip()}"] if self.stdin else []
        return f"{self.store}: {' '.join([*before, shlex.join([NAME, *self.argv]), *after])}"

    def differs(self, got: Result) -> tuple[str, ...]:
        """Return the parts in which `got` differs from the recording."""
        return tuple(part for part in PARTS if not self._same(part, got))

    def _same(self, part: str, got: Result) -> bool:
        recorded, actual = getattr(self, part), getattr(got, part)
        if recorded is None:
            return True
        if part == "stdout" and PARALLEL_COMMANDS.intersection(self.argv[:1]):
            return sorted(recorded.splitlines()) == sorted(actual.splitlines())
        return bool(recorded == actual)


@dataclass(frozen=True)
class Result:
    """The result of pymachine, without a hint that it may add to docker-machine's text."""

    code: int
    stdout: str
    stderr: str


@dataclass(frozen=True)
class Reason:
    """Why some differences are intended; `row` is the first cell of its row in the documentation's table."""

    row: str
    cases: dict[str, tuple[str, ...]]


def cases() -> list[Case]:
    """Return all recorded commands."""
    return [
        Case(**{**case, "argv": tuple(case["argv"]), "stdin": case["stdin"] or ""})
        for case in json.loads((FOLDER / "cases.json").read_text())
    ]


def reasons() -> list[Reason]:
    """Return the intended differences, by reason."""
    found = tomllib.loads((FOLDER / "wanted.toml").read_text())["difference"]
    return [
        Reason(entry["row"], {key: tuple(parts.split()) for key, parts in entry["cases"].items()}) for entry in found
    ]


def replay(chosen: list[Case]) -> list[tuple[Case, Result]]:
    """Run each of `chosen` on its own store."""
    with tempfile.TemporaryDirectory(prefix="recorded-") as folder, ThreadPoolExecutor(WORKERS) as pool:
        certificates = Path(folder) / "certificates"
        _make_certificates(certificates)
        stores = json.loads((FOLDER / "stores.json").read_text())

        def run(numbered: tuple[int, Case]) -> tuple[Case, Result]:
            number, case = numbered
            with _Stage(Path(folder).resolve() / str(number), certificates) as stage:
                stage.fill_store(stores[case.store])
                return case, stage.run(case)

        return list(pool.map(run, enumerate(chosen)))


def _make_certificates(folder: Path) -> None:
    """Make a CA and a client certificate in `folder`, with docker-machine's file names."""
    folder.mkdir()
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    days = ("-days", "1080")
    _openssl(folder, "req", "-x509", *key, "-keyout", "ca-key.pem", "-out", "ca.pem", *days, "-subj", "/O=recorded")
    _openssl(folder, "req", "-new", *key, "-keyout", "key.pem", "-out", "request", "-subj", "/O=recorded.client")
    signed_by = ("-CA", "ca.pem", "-CAkey", "ca-key.pem", "-CAcreateserial")
    _openssl(folder, "x509", "-req", "-in", "request", *signed_by, "-out", "cert.pem", *days)


def _openssl(folder: Path, *words: str) -> None:
    subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)


class _Stage:
    """The folders of one run: a store, a home, and the program under docker-machine's name."""

    def __init__(self, root: Path, certificates: Path) -> None:
        self.root, self.certificates = root, certificates
        self.folders = {"@STORE@": root / "store", "@HOME@": root / "home", "@BIN@": root / "bin", "@WORK@": root}

    def __enter__(self) -> Self:
        self.folders["@HOME@"].mkdir(parents=True)
        self.folders["@BIN@"].mkdir()
        (self.folders["@BIN@"] / NAME).symlink_to(PROGRAM)
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.root)

    def filled(self, text: str) -> str:
        """Return `text` with placeholders replaced by folders."""
        for placeholder, folder in self.folders.items():
            text = text.replace(placeholder, str(folder))
        return text

    def blanked(self, output: bytes) -> str:
        """Return `output` with folders replaced by placeholders."""
        text = output.decode(errors="replace")
        for placeholder, folder in self.folders.items():
            text = text.replace(str(folder), placeholder)
        return text

    def fill_store(self, described: dict[str, Any]) -> None:
        """Create the store that `stores.json` describes."""
        store = self.folders["@STORE@"]
        (store / "machines").mkdir(parents=True)
        self._copy_certificates(described["certs"], store / "certs")
        for name, files in described["machines"].items():
            folder = store / "machines" / name
            folder.mkdir(mode=0o700)
            if files["config.json"] is not None:
                (folder / "config.json").write_text(self.filled(files["config.json"]))
            self._copy_certificates(files["certs"], folder)

    def _copy_certificates(self, names: list[str], folder: Path) -> None:
        if names:
            folder.mkdir(exist_ok=True)
        for name in names:
            shutil.copy(self.certificates / name, folder / name)

    def run(self, case: Case) -> Result:
        """Run the command of `case`."""
        program = self.folders["@BIN@"] / NAME
        environment: dict[str, str | None] = {
            "HOME": str(self.folders["@HOME@"]),
            "SHELL": "/bin/bash",
            "LANG": "C.UTF-8",
            "TERM": "dumb",
            "MACHINE_STORAGE_PATH": str(self.folders["@STORE@"]),
            "PYMACHINE_CACHE": str(self.root / "cache"),
            "PATH": f"{program.parent}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            **case.env,
        }
        done = subprocess.run(
            [NAME, *map(self.filled, case.argv)],
            executable=program,
            env={name: self.filled(value) for name, value in environment.items() if value is not None},
            input=self.filled(case.stdin).encode(),
            capture_output=True,
            timeout=SECONDS,
            cwd=self.folders["@HOME@"],
            check=False,
        )
        stderr = self.blanked(done.stderr).partition("Hint: ")[0]
        return Result(done.returncode, self.blanked(done.stdout), stderr)


def _report(chosen: list[Case]) -> Iterator[str]:
    counts = dict.fromkeys(PARTS, 0)
    for case, got in replay(chosen):
        differing = case.differs(got)
        if differing:
            yield f'{json.dumps(case.key)} = "{" ".join(differing)}"'
        for part in differing:
            counts[part] += 1
            yield f"    recorded {part}: {getattr(case, part)!r}"
            yield f"    got      {part}: {getattr(got, part)!r}"
    yield f"{len(chosen)} commands; differing: {counts}"


if __name__ == "__main__":
    text = " ".join(sys.argv[1:])
    print("\n".join(_report([case for case in cases() if text in case.key])))  # noqa: T201 (a tool for the terminal)
