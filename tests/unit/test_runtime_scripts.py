"""The guest's scripts between the engine and runc, with the real busybox. tests/e2e has them with the real engine."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

import pymachine.image

SCRIPTS = Path(pymachine.image.__file__).parent / "rootfs" / "root" / "usr" / "lib" / "pymachine"
HOOK = {"path": "/proc/1025/exe", "args": ["libnetwork-setkey", "-exec-root=/run/docker", "c0ffee", "cafe"]}
OTHER_HOOK = {"path": "/proc/1025/exe", "args": ["another", "word"]}
REPLACED = {"path": "/usr/lib/pymachine/network-hook", "args": ["network-hook", *HOOK["args"][1:]]}
# A program in a container gets this text as it is.
SAME_TEXT = json.dumps(HOOK, separators=(",", ":"))


def run(
    name: str, *words: str, state: str = "", changes: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    text = (SCRIPTS / name).read_text()
    for before, after in (changes or {}).items():
        assert before in text
        text = text.replace(before, after)
    argv = ["busybox", "ash", "-c", text, name, *words]
    return subprocess.run(argv, input=state, capture_output=True, text=True, check=False)


def run_runc(*words: str) -> str:
    """Return the words that runc gets."""
    return run("runtime/runc", *words, changes={"/usr/sbin/runc": "/bin/echo"}).stdout


def test_only_the_hook_of_the_engine_is_replaced(tmp_path: Path) -> None:
    config = {"process": {"args": ["echo", SAME_TEXT]}, "hooks": {"prestart": [HOOK, OTHER_HOOK]}}
    (tmp_path / "config.json").write_text(json.dumps(config, separators=(",", ":")))  # as Go writes it
    words = ("--root", "/run/r", "create", "--bundle", str(tmp_path), "--pid-file", "/run/p", "c0ffee")
    (tmp_path / "config.json").chmod(0o600)
    assert run_runc(*words) == " ".join(words) + "\n"
    assert (tmp_path / "config.json").stat().st_mode & 0o777 == 0o600
    config["hooks"] = {"prestart": [REPLACED, OTHER_HOOK]}
    assert json.loads((tmp_path / "config.json").read_text()) == config


def test_other_commands_reach_runc_as_they_are() -> None:
    words = ("--log", "/run/a b", "exec", "--process", "/tmp/p", "c0ffee")
    assert run_runc(*words) == " ".join(words) + "\n"


def test_runc_runs_also_without_the_file_and_its_exit_code_is_passed_on(tmp_path: Path) -> None:
    changes = {"exec /usr/sbin/runc": "echo ran; exit 7; :"}
    done = run("runtime/runc", "create", "--bundle", str(tmp_path), "c0ffee", changes=changes)
    assert (done.returncode, done.stdout) == (7, "ran\n")


def run_hook(folder: Path, state: str, answer: str) -> subprocess.CompletedProcess[str]:
    """Run the hook with a client of the engine that writes its words and its input to files, and answers."""
    client = folder / "client"
    client.write_text(f"#!/bin/sh\necho \"$@\" > {folder}/words\ncat > {folder}/sent\nprintf '{answer}'\n")
    client.chmod(0o755)
    return run("network-hook", *HOOK["args"][1:], state=state, changes={"/usr/bin/nc.openbsd": str(client)})


@pytest.mark.parametrize("state", ['{"ociVersion":"1.2.0","id":"a","pid":2926,"bundle":"/b"}', '{"pid": 2926}'])
def test_the_hook_passes_the_namespace_to_the_engine(state: str, tmp_path: Path) -> None:
    done = run_hook(tmp_path, state, "success")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert json.loads((tmp_path / "sent").read_text()) == {"ContainerID": "c0ffee", "Key": "/proc/2926/ns/net"}
    assert (tmp_path / "words").read_text() == "-N -U /run/docker/libnetwork/cafe.sock\n"


@pytest.mark.parametrize(("answer", "shown"), [("no such sandbox", "no such sandbox"), ("", "no answer")])
def test_a_refusal_is_an_error(answer: str, shown: str, tmp_path: Path) -> None:
    done = run_hook(tmp_path, '{"pid":1}', answer)
    assert done.returncode == 1
    assert done.stderr == f"the engine did not accept the network of the container: {shown}\n"
