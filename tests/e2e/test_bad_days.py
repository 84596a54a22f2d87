"""What goes wrong says what and how to mend it, and leaves nothing that `rm` cannot remove."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from support.runner import PROGRAM, Pymachine, private_store

# One of the lines that `create` says at each of its steps: resumed from a template that is there, and from power-on.
STEPS = [
    ("Running pre-create checks", ()),
    ("Creating machine", ()),
    ("Creating SSH key", ()),
    ("Waiting for the machine to resume", ()),
    ("Checking connection to Docker", ()),
    ("Waiting for the machine to start", ("--no-template",)),
    (r"Waiting for the machine to start \(", ("--no-template",)),
    ("Checking connection to Docker", ("--no-template",)),
]
OTHER = ("create", "--driver", "none", "--url", "tcp://127.0.0.1:2376", "other")


@pytest.fixture
def store(pymachine: Pymachine) -> Pymachine:
    """A store with one machine, which nothing of the following may touch."""
    pymachine(*OTHER)
    return pymachine


def only_the_other_is_left(program: Pymachine) -> bool:
    return program("ls", "-q").stdout.split() == ["other"] and not program.remaining_processes()


def stopped_at(program: Pymachine, step: str, flags: tuple[str, ...], number: signal.Signals) -> int:
    """Send a signal to a `create` once it says that it is at `step`; its exit code."""
    process = program.start("create", *flags, "x")
    assert process.stdout
    said = []
    for line in process.stdout:
        said.append(line)
        if re.search(step, line):
            break
    else:
        pytest.fail(f"no line matches {step!r} in:\n{''.join(said)}")
    # Ctrl-C on a terminal reaches the whole group.
    (os.killpg if number is signal.SIGINT else os.kill)(process.pid, number)
    process.communicate(timeout=120)
    return process.returncode


@pytest.fixture(scope="module", autouse=True)
def template() -> None:
    """The one that all tests share, so that none of the following waits for it to be made."""
    with private_store() as program:
        program("template", "build")


@pytest.mark.parametrize(("step", "flags"), STEPS)
def test_ctrl_c_at_each_step_undoes_the_create(store: Pymachine, step: str, flags: tuple[str, ...]) -> None:
    assert stopped_at(store, step, flags, signal.SIGINT) != 0
    assert only_the_other_is_left(store)


@pytest.mark.parametrize(("step", "flags"), STEPS)
def test_kill_9_at_each_step_leaves_what_rm_removes(store: Pymachine, step: str, flags: tuple[str, ...]) -> None:
    stopped_at(store, step, flags, signal.SIGKILL)
    if "x" in store("ls", "-q").stdout.split():
        store("rm", "-y", "x")
    assert only_the_other_is_left(store)


def test_a_guest_that_does_not_boot_in_time_is_given_up(store: Pymachine) -> None:
    outcome = store("create", "--no-template", "x", code=None, env={"PYMACHINE_BOOT_TIMEOUT": "3"})
    assert outcome.code != 0
    assert re.search(r"3 (s|seconds)|in time|timed out|timeout", outcome.stderr, re.IGNORECASE)
    assert only_the_other_is_left(store)


@pytest.mark.parametrize("name", ["", "../x", "-rf", "a/b", "x" * 300, "ä"])
def test_a_name_that_no_host_can_have(store: Pymachine, name: str) -> None:
    outcome = store("create", *(["--"] if name.startswith("-") else []), name, code=None)
    assert outcome.code != 0
    assert outcome.stderr.strip()
    assert "Traceback" not in outcome.text
    assert only_the_other_is_left(store)


def test_a_name_that_is_taken(store: Pymachine) -> None:
    assert 'Docker machine "other" already exists' in store("create", "other", code=None).stderr
    assert only_the_other_is_left(store)


def test_an_unknown_driver_and_an_unknown_option(store: Pymachine) -> None:
    assert "nonesuch" in store("create", "--driver", "nonesuch", "x", code=None).stderr
    outcome = store("create", "--no-such-flag", "x", code=None)
    assert outcome.code != 0
    assert "no-such-flag" in outcome.text
    assert only_the_other_is_left(store)


def test_no_qemu(store: Pymachine, tmp_path: Path) -> None:
    outcome = store("create", "x", code=None, env={"PATH": str(tmp_path)})
    assert outcome.code == 3
    assert "qemu" in outcome.stderr.lower()
    assert "install" in outcome.stderr.lower()
    assert only_the_other_is_left(store)


def test_a_mirror_that_is_down(store: Pymachine, tmp_path: Path) -> None:
    """Port 1 of the loopback is nobody's."""
    env = {"PYMACHINE_MIRROR": "http://127.0.0.1:1/debian", "PYMACHINE_CACHE": str(tmp_path / "cache")}
    outcome = store("create", "x", code=None, env=env)
    assert outcome.code != 0
    assert "127.0.0.1:1" in outcome.stderr
    assert "mirror" in outcome.stderr.lower()
    assert only_the_other_is_left(store)


def test_an_image_file_that_is_not_one(store: Pymachine, tmp_path: Path) -> None:
    junk = tmp_path / "junk.iso"
    junk.write_bytes(b"not an image " * 4096)
    for path in (junk, tmp_path / "missing.iso"):
        outcome = store("create", "--qemu-boot2docker-url", str(path), "x", code=None)
        assert outcome.code != 0
        assert path.name in outcome.stderr
        assert only_the_other_is_left(store)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"ConfigVersion": 99}', "\0" * 100])
def test_a_corrupt_record(store: Pymachine, text: str) -> None:
    store("create", "--driver", "none", "--url", "tcp://127.0.0.1:2377", "broken")
    (store.store / "machines" / "broken" / "config.json").write_text(text)
    listed = store("ls", "-t", "5").stdout
    assert "broken" in listed
    assert "other" in listed
    assert store("status", "broken", code=None).code != 0
    env = store("env", "broken", code=None)
    assert (env.code != 0, env.stdout) == (True, "")
    assert "Traceback" not in env.stderr
    store("rm", "-y", "-f", "broken")
    assert only_the_other_is_left(store)


def test_a_store_that_cannot_be_written(pymachine: Pymachine, tmp_path: Path) -> None:
    """A file where the folder should be stops root too, whom modes do not."""
    blocker = tmp_path / "file"
    blocker.write_text("")
    for root in (blocker, blocker / "store", Path("/proc/store")):
        outcome = pymachine("-s", str(root), *OTHER, code=None)
        assert outcome.code != 0
        assert str(root) in outcome.stderr
        assert "Traceback" not in outcome.text


def test_a_full_disk(pymachine: Pymachine) -> None:
    """The store is a small file system in memory, mounted in a namespace of the test's own."""
    pymachine.store.mkdir()
    mount = f"mount -t tmpfs -o size=24m none {pymachine.store}"
    namespace = ["unshare", "--mount", "--map-root-user", "sh", "-c"]
    if subprocess.run([*namespace, mount], capture_output=True, check=False).returncode:
        pytest.skip("no mount namespaces here")
    script = f"{mount} && {PROGRAM} create x; echo code=$?; {PROGRAM} ls -q"
    outcome = pymachine.run([*namespace, script])
    assert outcome.stdout.rstrip().endswith("code=1") or outcome.stdout.rstrip().endswith("code=3")
    assert "space" in outcome.stderr
    assert "Traceback" not in outcome.text
    assert pymachine.remaining_processes() == {}
