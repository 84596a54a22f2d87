"""Shared folders of a machine whose QEMU was built without virtio-9p: they are mounted over SSH."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from test_clones import RESUMED, with_shared_template

from support import ssh_shares
from support.runner import private_store, search_path


def install_qemu_without_9p(folder: Path) -> None:
    """Make a program in `folder` that runs the real QEMU, which knows no virtio-9p then."""
    real = shutil.which("qemu-system-x86_64")
    assert real
    program = folder / "qemu-system-x86_64"
    program.write_text(f"""#!/bin/sh
case " $* " in
*' -device help '*) {real} "$@" | grep -v 9p ;;
*virtio-9p*) echo "'virtio-9p-pci' is not a valid device model name" >&2; exit 1 ;;
*) exec {real} "$@" ;;
esac
""")
    program.chmod(0o755)


def test_folders_are_shared_over_ssh_once_the_machine_starts_with_another_qemu(tmp_path: Path) -> None:
    """A machine may then have more of them than QEMU has devices. It gets them back after a restored snapshot.

    It is created with virtio-9p, since it resumes from a template then, so the test boots only once.
    """
    work, documents = tmp_path / "above" / "work", tmp_path / "documents"
    others = [tmp_path / f"other{number}" for number in range(7)]
    programs = tmp_path / "programs"
    for folder in (work, documents, *others, programs):
        folder.mkdir(parents=True)
    install_qemu_without_9p(programs)
    with private_store() as program:
        with_shared_template(program)
        created = program("create", "--share", str(work), "--share", f"{documents}:/documents:ro", "one")
        assert RESUMED in created.stdout
        program("kill", "one")
        more = [word for folder in others for word in ("--share", str(folder))]
        assert "at most 8 folders" in program("modify", *more, "one", code=1).stderr
        program.env["PATH"] = f"{programs}:{search_path()}"
        program("modify", *more, "one")
        program("start", "one")
        mounts = program("ssh", "one", "cat /proc/mounts").stdout
        assert mounts.count(" fuse.sshfs ") == 9
        assert " 9p " not in mounts
        ssh_shares.make_box(program, "one")
        ssh_shares.check_writable(program, "one", work)
        ssh_shares.check_read_only(program, "one", documents, "/documents")
        ssh_shares.check_events(program, "one", work)
        program("modify", *(word for folder in others for word in ("--unshare", str(folder))), "one")
        program("snapshot", "create", "one", "saved")
        assert [each["Memory"] for each in json.loads(program("snapshot", "ls", "--json", "one").stdout)] == [True]
        program("snapshot", "restore", "one", "saved")
        assert ssh_shares.box(program, "one", work, "cat host; touch restored") == "changed\n"
        assert {path.name for path in work.iterdir()} == {"host", "restored"}
        program("rm", "-y", "one")
        assert program.remaining_processes() == {}
