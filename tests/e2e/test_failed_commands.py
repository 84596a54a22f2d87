"""Failed and interrupted commands report the cause and a fix, and leave nothing that `rm` cannot remove."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from support.runner import PROGRAM, Pymachine, private_store

# A line that `create` prints at each step, when it resumes an existing template and when it boots from power-on.
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
    """A store with one machine, which no test may change."""
    pymachine(*OTHER)
    return pymachine


def only_other_is_left(program: Pymachine) -> bool:
    return program("ls", "-q").stdout.split() == ["other"] and not program.remaining_processes()


def stopped_at(program: Pymachine, step: str, flags: tuple[str, ...], number: signal.Signals) -> int:
    """Send a signal to `create` when it prints `step`; return its exit code."""
    process = program.start("create", *flags, "x")
    assert process.stdout
    output = []
    for line in process.stdout:
        output.append(line)
        if re.search(step, line):
            break
    else:
        pytest.fail(f"no line matches {step!r} in:\n{''.join(output)}")
    # Ctrl-C on a terminal reaches the whole group.
    (os.killpg if number is signal.SIGINT else os.kill)(process.pid, number)
    process.communicate(timeout=120)
    return process.returncode


@pytest.fixture(scope="module", autouse=True)
def template() -> None:
    """Build the template that all tests share in advance, so that no test waits for it."""
    with private_store() as program:
        program("template", "build")


@pytest.mark.parametrize(("step", "flags"), STEPS)
def test_ctrl_c_at_each_step_undoes_the_create(store: Pymachine, step: str, flags: tuple[str, ...]) -> None:
    assert stopped_at(store, step, flags, signal.SIGINT) != 0
    assert only_other_is_left(store)


# Without the last step, at which a booted machine has the same parts as one that was resumed.
@pytest.mark.parametrize(("step", "flags"), STEPS[:-1])
def test_rm_cleans_up_after_kill_9_at_each_step(store: Pymachine, step: str, flags: tuple[str, ...]) -> None:
    stopped_at(store, step, flags, signal.SIGKILL)
    if "x" in store("ls", "-q").stdout.split():
        store("rm", "-y", "x")
    assert only_other_is_left(store)


def test_a_guest_that_does_not_boot_in_time_is_removed(store: Pymachine) -> None:
    outcome = store("create", "--no-template", "x", code=None, env={"PYMACHINE_BOOT_TIMEOUT": "3"})
    assert outcome.code != 0
    assert re.search(r"3 (s|seconds)|in time|timed out|timeout", outcome.stderr, re.IGNORECASE)
    assert only_other_is_left(store)


@pytest.mark.parametrize("name", ["", "../x", "-rf", "a/b", "x" * 300, "ä"])
def test_an_invalid_name_is_refused(store: Pymachine, name: str) -> None:
    outcome = store("create", *(["--"] if name.startswith("-") else []), name, code=None)
    assert outcome.code != 0
    assert outcome.stderr.strip()
    assert "Traceback" not in outcome.text
    assert only_other_is_left(store)


def test_a_taken_name_is_refused(store: Pymachine) -> None:
    assert 'Docker machine "other" already exists' in store("create", "other", code=None).stderr
    assert only_other_is_left(store)


def test_unknown_drivers_and_options_are_refused(store: Pymachine) -> None:
    assert "nonesuch" in store("create", "--driver", "nonesuch", "x", code=None).stderr
    outcome = store("create", "--no-such-flag", "x", code=None)
    assert outcome.code != 0
    assert "no-such-flag" in outcome.text
    assert only_other_is_left(store)


def test_a_missing_qemu_is_reported(store: Pymachine, tmp_path: Path) -> None:
    outcome = store("create", "x", code=None, env={"PATH": str(tmp_path)})
    assert outcome.code == 3
    assert "qemu" in outcome.stderr.lower()
    assert "install" in outcome.stderr.lower()
    assert only_other_is_left(store)


def test_an_unreachable_mirror_is_reported(store: Pymachine, tmp_path: Path) -> None:
    """Nothing listens on port 1 of the loopback."""
    env = {"PYMACHINE_MIRROR": "http://127.0.0.1:1/debian", "PYMACHINE_CACHE": str(tmp_path / "cache")}
    outcome = store("create", "x", code=None, env=env)
    assert outcome.code != 0
    assert "127.0.0.1:1" in outcome.stderr
    assert "mirror" in outcome.stderr.lower()
    assert only_other_is_left(store)


def test_an_invalid_or_missing_image_file_is_reported(store: Pymachine, tmp_path: Path) -> None:
    junk = tmp_path / "junk.iso"
    junk.write_bytes(b"not an image " * 4096)
    for path in (junk, tmp_path / "missing.iso"):
        outcome = store("create", "--qemu-boot2docker-url", str(path), "x", code=None)
        assert outcome.code != 0
        assert path.name in outcome.stderr
        assert only_other_is_left(store)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"ConfigVersion": 99}', "\0" * 100])
def test_a_machine_with_a_corrupt_record_is_listed_and_can_be_removed(store: Pymachine, text: str) -> None:
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
    assert only_other_is_left(store)


def test_a_store_that_cannot_be_written_is_reported(pymachine: Pymachine, tmp_path: Path) -> None:
    """A file in place of the folder stops root too; modes would not."""
    blocker = tmp_path / "file"
    blocker.write_text("")
    for root in (blocker, blocker / "store", Path("/proc/store")):
        outcome = pymachine("-s", str(root), *OTHER, code=None)
        assert outcome.code != 0
        assert str(root) in outcome.stderr
        assert "Traceback" not in outcome.text


def test_create_on_a_full_disk_fails_cleanly(pymachine: Pymachine) -> None:
    """The store is a small file system in memory, mounted in its own namespace."""
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
