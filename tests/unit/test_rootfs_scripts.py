"""Files laid over the image's packages: every POSIX shell parses the scripts, and the manifest is valid."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

import pymachine.image

ROOTFS = Path(pymachine.image.__file__).parent / "rootfs"
ROOT = ROOTFS / "root"
MANIFEST = ROOTFS / "root.manifest"
FIELDS = {"dir": 5, "file": 5, "link": 3, "remove": 2}


def is_shell(path: Path) -> bool:
    first = path.read_bytes().split(b"\n", 1)[0]
    return first.startswith(b"#!") or b"shellcheck shell=sh" in first


def needs_bash(path: Path) -> bool:
    return path.read_bytes().startswith(b"#!/bin/bash\n")


FILES = sorted(path for path in ROOTFS.rglob("*") if path.is_file())
SCRIPTS = [path for path in FILES if is_shell(path)]
SHELLS = pytest.mark.parametrize("shell", [["dash"], ["busybox", "ash"]], ids=" ".join)
LINES = [line.split() for line in MANIFEST.read_text().splitlines() if line.strip() and not line.startswith("#")]


def relative_name(path: Path) -> str:
    return str(path.relative_to(ROOTFS))


def functions(path: str, *names: str) -> str:
    """Return functions of a script."""
    text = (ROOT / path).read_text()
    found = []
    for name in names:
        match = re.search(rf"^{name}\(\) \{{(?:[^\n]*\}}$|.*?^\}}$)", text, re.MULTILINE | re.DOTALL)
        assert match, f"{path} has no function {name}"
        found.append(match[0])
    return "\n".join(found)


def run_shell(shell: list[str], script: str, *words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    argv = [*shell, "-c", script, "sh", *words]
    return subprocess.run(argv, capture_output=True, text=True, check=False, cwd=folder)


def test_the_shell_scripts_are_found() -> None:
    assert {"initrd/init", "root/etc/init.d/docker", "root/usr/lib/pymachine/boot"} <= {
        relative_name(path) for path in SCRIPTS
    }


@SHELLS
@pytest.mark.parametrize("script", [path for path in SCRIPTS if not needs_bash(path)], ids=relative_name)
def test_shells_parse_the_script(script: Path, shell: list[str]) -> None:
    done = subprocess.run([*shell, "-n", str(script)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("script", [path for path in SCRIPTS if needs_bash(path)], ids=relative_name)
def test_bash_parses_the_script(script: Path) -> None:
    done = subprocess.run(["bash", "-n", str(script)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("script", SCRIPTS, ids=relative_name)
def test_scripts_are_executable_and_begin_with_a_comment(script: Path) -> None:
    lines = script.read_text().splitlines()
    assert os.access(script, os.X_OK) == lines[0].startswith("#!")
    assert lines[1].startswith("# ")


@pytest.mark.parametrize("path", FILES, ids=relative_name)
def test_no_line_is_longer_than_120_characters(path: Path) -> None:
    assert max(map(len, path.read_text().splitlines())) <= 120


@pytest.mark.parametrize("fields", LINES, ids=" ".join)
def test_manifest_lines_have_a_known_form(fields: list[str]) -> None:
    assert len(fields) == FIELDS.get(fields[0], 4)
    assert fields[-1].startswith("/")
    assert "/../" not in fields[-1]
    if fields[0] in {"dir", "file"} or fields[0] not in FIELDS:
        mode, owner, group = fields[-4:-1]
        assert re.fullmatch("[0-7]{4}", mode)
        assert owner.isdigit()
        assert group.isdigit()


def test_the_manifest_creates_no_path_twice() -> None:
    made = [fields[-1] for fields in LINES if fields[0] in FIELDS]
    assert sorted(made) == sorted(set(made))


def test_the_manifest_sets_the_modes_of_secrets_and_sudo() -> None:
    modes = {fields[-1]: fields[0] for fields in LINES if fields[0] not in FIELDS}
    assert modes["/etc/shadow"] == "0600"
    assert modes["/usr/bin/sudo"] == "4755"
    assert modes["/etc/sudoers.d/docker"] == "0440"


def test_no_user_in_the_guest_has_a_password() -> None:
    for line in (ROOTFS / "root" / "etc" / "shadow").read_text().splitlines():
        assert line.split(":")[1] == "*", line


@SHELLS
def test_nohup_writes_to_the_home_folder_if_it_cannot_write_here(shell: list[str], tmp_path: Path) -> None:
    ours, terminal = os.openpty()
    with os.fdopen(ours, "rb"):
        argv = [*shell, str(ROOT / "usr" / "bin" / "nohup"), "echo", "ran"]
        environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
        # No user can create files in /proc, not even root.
        subprocess.run(argv, stdin=terminal, stdout=terminal, stderr=terminal, cwd="/proc", env=environment, check=True)
        os.close(terminal)
    assert (tmp_path / "nohup.out").read_text() == "ran\n"


@SHELLS
@pytest.mark.parametrize(
    ("said", "why"),
    [
        (
            "Status: unknown flag: --x\nSee 'dockerd --help'., Usage: dockerd [OPTIONS], Code: 125\n",
            "unknown flag: --x",
        ),
        (
            'time="2026" level=info msg="Starting up"\nfailed to start daemon: no zfs\n',
            "failed to start daemon: no zfs",
        ),
        (
            'time="2026" level=info msg=a\ntime="2026" level=error msg="invalid mirror: \\"ftp://x\\"" module=y\n',
            "invalid mirror: 'ftp://x'",
        ),
        ('{"level":"error","msg":"conflict labels for \\"a\\"","time":"2026"}\n', "conflict labels for 'a'"),
        ('Flag --graph has been deprecated\ntime="2026" level=warning msg="odd"\n\n', ""),
    ],
)
def test_the_engines_last_error_message_is_extracted(said: str, why: str, shell: list[str]) -> None:
    argv = [*shell, "-c", f"{functions('etc/init.d/docker', 'explain')}\nexplain"]
    done = subprocess.run(argv, input=said, capture_output=True, text=True, check=True)
    assert done.stdout == f"{why}\n"


@SHELLS
def test_logged_joins_a_line_that_was_read_in_two_parts(shell: list[str], tmp_path: Path) -> None:
    steps = ["", "first API line", "\nsecond AP", "I listen on /run", "\nthird\n", "API listen on x"]
    asked = "; ".join(f"printf '{step}' >> log; logged 'API listen on' <&6; echo $?" for step in steps)
    script = f"{functions('etc/init.d/docker', 'logged')}\n: > log; exec 6< log; unfinished=; {asked}"
    assert run_shell(shell, script, folder=tmp_path).stdout.split() == ["1", "1", "1", "1", "0", "1"]


@SHELLS
@pytest.mark.parametrize(("begin", "code"), [(0, 0), (21, 1), (15, 1), (14, 0)])
def test_only_the_part_of_the_log_since_the_engines_start_counts(
    shell: list[str], begin: int, code: int, tmp_path: Path
) -> None:
    (tmp_path / "log").write_text("an older line\nlisten\nlater\n")
    script = "running() { return 1; }; pause() { exit 9; }\n" + functions("etc/init.d/docker", "logged", "await_log")
    assert run_shell(shell, f"{script}\nawait_log {begin} listen < log", folder=tmp_path).returncode == code


LOCKING = "LOCK=$PWD/lock; pause() { sleep 0.02; }; read_variables() { :; }\n" + functions(
    "etc/init.d/docker", "running", "lock_engine"
)


@SHELLS
def test_calls_that_start_or_stop_the_engine_wait_for_each_other(shell: list[str], tmp_path: Path) -> None:
    """Provisioning over SSH may begin while the boot still starts the engine."""
    one = "lock_engine 30; echo begin >> log; sleep 0.2; echo end >> log"
    # Subshells have the process id of their parent, so each call is a shell of its own.
    (tmp_path / "call").write_text(f"{LOCKING}\n{one}")
    calls = "\n".join([f"{' '.join(shell)} ./call &"] * 4)
    assert run_shell(shell, f"{calls}\nwait", folder=tmp_path).returncode == 0
    assert (tmp_path / "log").read_text().split() == ["begin", "end"] * 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["call", "log"]


@SHELLS
def test_a_killed_call_holds_up_no_other(shell: list[str], tmp_path: Path) -> None:
    ended = subprocess.run([*shell, "-c", "echo $$"], capture_output=True, text=True, check=True).stdout
    (tmp_path / "lock").write_text(ended)
    assert run_shell(shell, f"{LOCKING}\nlock_engine 30; echo alone", folder=tmp_path).stdout == "alone\n"
    assert list(tmp_path.iterdir()) == []


@SHELLS
def test_a_call_does_not_wait_for_ever(shell: list[str], tmp_path: Path) -> None:
    (tmp_path / "lock").write_text(f"{os.getpid()}\n")
    assert run_shell(shell, f"{LOCKING}\nlock_engine 1; echo on", folder=tmp_path).stdout == "on\n"
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]


@SHELLS
def test_modules_are_those_of_all_devices_but_the_cpus(shell: list[str], tmp_path: Path) -> None:
    aliases = {"bus/pci/devices/1": "pci:v1", "bus/virtio/devices/2": "virtio:d1", "bus/cpu/devices/cpu0": "cpu:type"}
    for place, alias in {**aliases, "bus/acpi/devices/3": "pci:v1", "class/dmi/id": "dmi:svnVMware"}.items():
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "modalias").write_text(f"{alias}\n")
    script = functions("usr/lib/pymachine/devices", "modules_of", "modules_of_all")
    script = script.replace("/sys/", f"{tmp_path}/").replace("/usr/sbin/modprobe -q -a -b", "echo")
    assert (
        run_shell(shell, f"{script}\nmodules_of_all", folder=tmp_path).stdout == "ext4 dmi:svnVMware pci:v1 virtio:d1\n"
    )


@pytest.mark.parametrize(
    ("share", "files", "code"),
    [
        ("/home/ann/src", [], 1),
        ("/home/ann/src", ['{"mounts":[{"source":"/var/lib/docker/x"}],"env":["HOME=/home/ann"]}'], 1),
        ("/home/ann/src", ['{"mounts":[]}', '{"source":"/home/ann/src/sub"}'], 0),
        ("/home/ann/src", ['{"source":"/home"}'], 0),
        ("/home/ann/src", ['{"source":"/"}'], 0),
        ("/home/ann/src", ['{"Binds":["/:/host"]}'], 0),
        ("/home/ann/src", ['{"Mounts":[{"Type":"bind","Source":"/"}]}'], 0),
        ("/a&b/src", ['{"source":"/a\\u0026b/src"}'], 0),
        ("/my files/src", ['{"source":"/my files/src"}'], 0),
    ],
)
def test_mention_shares_finds_every_container_that_may_mount_one(
    share: str, files: list[str], code: int, tmp_path: Path
) -> None:
    (tmp_path / "mounts").write_text(f"9p\tshare0\trw\t/srv/other\n9p\tshare1\trw\t{share}\n")
    names = [f"{number}.json" for number in range(len(files))]
    for name, text in zip(names, files, strict=True):
        (tmp_path / name).write_text(text)
    script = f'IDENTITY_DIR=.\n{functions("usr/lib/pymachine/share-events", "mention_shares")}\nmention_shares "$@"'
    assert run_shell(["bash"], script, *names, folder=tmp_path).returncode == code
