"""Shared folders of a machine whose QEMU was built without virtio-9p: they are mounted over SSH."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from support import ssh_shares
from support.runner import private_store


def qemu_without_9p(folder: Path) -> Path:
    """Return a program that runs the real QEMU, which knows no virtio-9p then."""
    real = shutil.which("qemu-system-x86_64")
    assert real
    program = folder / "qemu-without-9p"
    program.write_text(f"""#!/bin/sh
case " $* " in
*' -device help '*) {real} "$@" | grep -v 9p ;;
*virtio-9p*) echo "'virtio-9p-pci' is not a valid device model name" >&2; exit 1 ;;
*) exec {real} "$@" ;;
esac
""")
    program.chmod(0o755)
    return program


def test_folders_are_shared_over_ssh(tmp_path: Path) -> None:
    """A machine has more of them than QEMU has devices, and gets them back after a restored snapshot and a restart."""
    work, documents = tmp_path / "above" / "work", tmp_path / "documents"
    others = [tmp_path / f"other{number}" for number in range(8)]
    for folder in (work, documents, *others):
        folder.mkdir(parents=True)
    words = [word for folder in (work, f"{documents}:/documents:ro", *others) for word in ("--share", str(folder))]
    binary = str(qemu_without_9p(tmp_path))
    with private_store() as program:
        program("create", "--no-template", "--qemu-binary", binary, *words, "one")
        ssh_shares.make_box(program, "one")
        mounts = program("ssh", "one", "cat /proc/mounts").stdout
        assert mounts.count(" fuse.sshfs ") == 10
        assert " 9p " not in mounts
        ssh_shares.check_writable(program, "one", work)
        ssh_shares.check_read_only(program, "one", documents, "/documents")
        ssh_shares.check_events(program, "one", work)
        program("modify", *(word for folder in others for word in ("--unshare", str(folder))), "one")
        program("snapshot", "create", "one", "saved")
        assert [each["Memory"] for each in json.loads(program("snapshot", "ls", "--json", "one").stdout)] == [True]
        program("snapshot", "restore", "one", "saved")
        assert ssh_shares.box(program, "one", work, "cat host; touch restored") == "changed\n"
        program("restart", "one")
        ssh_shares.box(program, "one", work, "touch restarted")
        assert {path.name for path in work.iterdir()} == {"host", "restored", "restarted"}
        program("rm", "-y", "one")
        assert program.remaining_processes() == {}
