"""A full disk: the reason is named, and no half-made machine is left."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from pymachine.errors import StoreError
from pymachine.store.record import Machine
from pymachine.store.store import Store
from pymachine.system import files, os_errors
from support.runner import PROGRAM, Pymachine, private_store

CREATE = "create -d none --url tcp://127.0.0.1:1"


@pytest.fixture
def program() -> Iterator[Pymachine]:
    with private_store() as made:
        made(*CREATE.split(), "first")  # and so the store has its CA
        yield made


def test_a_create_that_cannot_save_its_record_leaves_no_machine(program: Pymachine) -> None:
    done = program.run(["bash", "-c", f"ulimit -f 1; {PROGRAM} {CREATE} second"], code=None)
    assert done.code != 0
    assert f"cannot write {program.store}/machines/second/config.json: File too large" in done.stderr
    assert "Hint: Raise the limit on the size of files" in done.stderr
    assert program("ls", "-q").stdout == "first\n"
    assert os.listdir(program.store / "machines") == ["first"]  # noqa: PTH208 (hidden ones too)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting takes root")
def test_a_create_on_a_full_disk_leaves_no_machine(program: Pymachine) -> None:
    script = (
        f"cp -a {program.store} {program.home}/kept && mount -t tmpfs -o size=128k none {program.store} && "
        f"cp -a {program.home}/kept/. {program.store}/ && {{ cat /dev/zero > {program.store}/ballast; "
        f"{PROGRAM} {CREATE} second; echo code $?; {PROGRAM} ls -q; ls -A {program.store}/machines; }}"
    )
    done = program.run(["unshare", "--mount", "bash", "-c", script])
    assert done.stdout.endswith("code 1\nfirst\nfirst\n"), done.text
    assert "No space left on device" in done.stderr
    assert "Hint: Free some space on that disk" in done.stderr


@pytest.mark.parametrize("problem", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_first_save_that_is_interrupted_leaves_no_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, problem: BaseException
) -> None:
    store = Store(tmp_path)
    real = files.atomic_write
    machine = Machine(name="a", driver_name="none", driver={})

    def cut_short(path: Path, data: bytes | str, *, mode: int = 0o600) -> None:
        real(path, "half", mode=mode)
        raise problem

    monkeypatch.setattr(files, "atomic_write", cut_short)
    with pytest.raises((StoreError, KeyboardInterrupt)):
        store.save(machine)
    assert store.names() == []
    monkeypatch.setattr(files, "atomic_write", real)
    store.save(machine)
    monkeypatch.setattr(files, "atomic_write", cut_short)
    with pytest.raises((StoreError, KeyboardInterrupt)):
        store.save(machine)
    assert store.names() == ["a"]  # a machine that existed is never removed


@pytest.mark.parametrize(
    ("error", "text", "helps"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "x: No space left on device", "Free some space"),
        (OSError(errno.EACCES, "Permission denied"), "x: Permission denied", "Check who owns it"),
        (OSError(errno.EACCES, "Permission denied", "/etc/x"), "x: Permission denied: /etc/x", "/etc belongs to root"),
        (OSError(errno.EROFS, "Read-only file system", "x"), "x: Read-only file system", "read-only"),
        (OSError(errno.EMFILE, "Too many open files"), "x: Too many open files", "ulimit -n"),
        (OSError("no errno"), "x: no errno", ""),
        (OSError(), "x: OSError", ""),
        (OSError(errno.EACCES, "Permission denied", "/{0}/x"), "x: Permission denied: /{0}/x", "/ belongs to root"),
    ],
)
def test_an_os_error_names_its_cause_and_a_remedy(error: OSError, text: str, helps: str) -> None:
    wrapped = os_errors.wrapped(StoreError, "x", error)
    assert wrapped.brief == text
    assert helps in wrapped.hint
    assert "{" not in wrapped.hint


def test_os_errors_are_worded_in_one_module() -> None:
    """A hint that does not depend on the operating system's error is wrong for most errors."""
    pattern = re.compile(r'raise \w+\(\s*f"[^"]*\{error\.strerror')
    root = Path(__file__).parents[2]
    modules = [path for part in ("src", "drivers") for path in (root / part).rglob("*.py")]
    assert modules
    assert [path.name for path in modules if pattern.search(path.read_text())] == []
