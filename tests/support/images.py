"""Container images made by the tests: a stand-in for Alpine with Debian's static busybox."""

from __future__ import annotations

import io
import platform
import shutil
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from support import packages
from support.runner import search_path

# usr-merged, since the programs that its `apk` installs are Debian's.
FOLDERS = ["usr", "usr/bin", "usr/sbin", "usr/lib", "usr/lib64", "etc", "etc/apk", "proc", "sys", "dev", "root", "run"]
FOLDERS += ["usr/share", "usr/share/nginx", "usr/share/nginx/html", "var", "var/log", "home", "mnt"]
LINKS = {"bin": "usr/bin", "sbin": "usr/sbin", "lib": "usr/lib", "lib64": "usr/lib64"}
APK = """\
#!/bin/sh
# A stand-in for Alpine's package manager, in the tests' images only. It unpacks archives from the tests' own server.
set -e
repository=$(cat /etc/apk/repositories)
case $1 in
    update)
        echo "fetch $repository/INDEX"
        wget -q -O /etc/apk/index "$repository/INDEX"
        echo "OK: $(wc -l </etc/apk/index) distinct packages available"
        ;;
    add)
        shift
        for package; do
            echo "Installing $package"
            wget -q -O - "$repository/$package.tar.gz" | tar -xz -C /
        done
        ;;
    *)
        echo "apk: unknown command $1" >&2
        exit 1
        ;;
esac
"""


def alpine_like(version: str, *, packages: str) -> bytes:
    """Return the only layer of the image, as an uncompressed tar; its `apk` installs from the URL `packages`."""
    busybox = shutil.which("busybox", path=search_path())
    assert busybox, "busybox is missing: scripts/setup --tests"
    texts = {
        "etc/os-release": f'ID=alpine\nVERSION_ID={version}\nPRETTY_NAME="Alpine Linux {version}"\n',
        "etc/passwd": "root:x:0:0:root:/root:/bin/sh\n",
        "etc/group": "root:x:0:\n",
        "etc/apk/repositories": packages + "\n",
    }
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in FOLDERS:
            _add(archive, name, kind=tarfile.DIRTYPE, mode=0o755)
        _add(archive, "tmp", kind=tarfile.DIRTYPE, mode=0o1777)
        for name, target in LINKS.items():
            _add(archive, name, kind=tarfile.SYMTYPE, target=target)
        _add(archive, "usr/bin/busybox", content=Path(busybox).read_bytes(), mode=0o755)
        for applet in _applets(busybox):
            _add(archive, f"usr/bin/{applet}", kind=tarfile.SYMTYPE, target="busybox")
        _add(archive, "usr/sbin/apk", content=APK.encode(), mode=0o755)
        for name, text in texts.items():
            _add(archive, name, content=text.encode(), mode=0o644)
    return buffer.getvalue()


def with_programs(layer: bytes, names: Sequence[str], files: Mapping[str, str]) -> bytes:
    """Return `layer` with programs of `packages`, and with text files, which replace files of the same name."""
    # docker refuses a layer that has a path twice, and programs have libraries in common.
    members: dict[str, tuple[tarfile.TarInfo, bytes | None]] = {}
    sources: list[Any] = [io.BytesIO(layer), *(packages.archive(name).open("rb") for name in names)]
    for source in sources:
        with source, tarfile.open(fileobj=source) as archive:
            for member in archive:
                file = archive.extractfile(member) if member.isfile() else None
                members[member.name] = (member, file.read() if file else None)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as target:
        for member, content in members.values():
            if member.name not in files and "/gconv/" not in member.name:
                target.addfile(member, None if content is None else io.BytesIO(content))
        for name, text in files.items():
            _add(target, name, content=text.encode(), mode=0o644)
    return buffer.getvalue()


def config() -> dict[str, Any]:
    """Return the image's configuration, without its layers."""
    architecture = {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]
    path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    return {"architecture": architecture, "os": "linux", "config": {"Cmd": ["/bin/sh"], "Env": [path]}, "history": []}


def _applets(busybox: str) -> list[str]:
    listed = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout.split()
    return sorted(set(listed) - {"busybox"})


def _add(
    archive: tarfile.TarFile,
    name: str,
    *,
    kind: bytes = tarfile.REGTYPE,
    mode: int = 0o777,
    content: bytes = b"",
    target: str = "",
) -> None:
    member = tarfile.TarInfo(name)
    member.type, member.mode, member.size, member.linkname = kind, mode, len(content), target
    archive.addfile(member, io.BytesIO(content))
