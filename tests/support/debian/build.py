"""Build the disk: the unpacked packages, dpkg's database, and the configuration of a small host."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pymachine.image import build
from pymachine.image.debian import deb
from pymachine.image.debian.download import Cache
from pymachine.image.debian.mirror import choose
from pymachine.image.debian.repository import Repository
from pymachine.image.debian.resolve import Package, Universe, closure
from pymachine.image.filesystem import initrd
from pymachine.image.filesystem.tree import Kind, Node, Tree
from pymachine.image.kernel import modules
from pymachine.image.kernel.module_list import INITRD_MODULES, MODULES
from pymachine.image.recipe import Recipe
from pymachine.ssh import keys
from pymachine.system.files import acquire_lock
from pymachine.system.progress import Silent
from support.runner import cache_folder

HERE = Path(__file__).parent
# The packages of the host before provisioning: no engine, and nothing that only an engine needs.
BASE = (
    "apt",
    "base-files",
    "base-passwd",
    "bash",
    "busybox-static",
    "coreutils",
    "dash",
    "debianutils",
    "diffutils",
    "dpkg",
    "findutils",
    "grep",
    "gzip",
    "hostname",
    "init-system-helpers",
    "iproute2",
    "kmod",
    "libc-bin",
    "login",
    "mawk",
    "mount",
    "netbase",
    "openssh-server",
    "passwd",
    "perl-base",
    "procps",
    "sed",
    "sudo",
    "systemd",
    "systemd-sysv",
    "tar",
    "util-linux",
)
# What provisioning installs.
LATER = ("docker.io", "docker-cli", "sshfs", "inotify-tools")
LEFT_OUT = tuple(
    f"usr/share/{name}/" for name in ("bug", "doc", "doc-base", "info", "lintian", "locale", "man", "bash-completion")
)
LINKS = {
    "bin": "usr/bin",
    "sbin": "usr/sbin",
    "lib": "usr/lib",
    "lib64": "usr/lib64",
    "usr/bin/awk": "mawk",
    "usr/bin/which": "which.debianutils",
    "etc/mtab": "../proc/self/mounts",
    "var/run": "/run",
    "var/lock": "/run/lock",
}
FOLDERS = {
    "boot": 0o755,
    "dev": 0o755,
    "etc/apt/sources.list.d": 0o755,
    "home/admin": 0o755,
    "mnt": 0o755,
    "proc": 0o755,
    "root": 0o700,
    "run": 0o755,
    "srv": 0o755,
    "sys": 0o755,
    "tmp": 0o1777,
    "var/cache/apt/archives/partial": 0o755,
    "var/lib/apt/lists/partial": 0o755,
    "var/lib/dpkg/alternatives": 0o755,
    "var/lib/dpkg/parts": 0o755,
    "var/lib/dpkg/triggers": 0o755,
    "var/lib/dpkg/updates": 0o755,
    "var/lib/systemd/deb-systemd-helper-enabled": 0o755,
    "var/log/journal": 0o755,
    "var/tmp": 0o1777,
}
# Units that are slow in emulation or wait for missing hardware.
MASKED = (
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dev-hugepages.mount",
    "dev-mqueue.mount",
    "dpkg-db-backup.timer",
    "fstrim.timer",
    "getty-static.service",
    "getty@.service",
    "ldconfig.service",
    "modprobe@.service",
    "serial-getty@.service",
    "sys-kernel-config.mount",
    "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount",
    "systemd-binfmt.service",
    "systemd-firstboot.service",
    "systemd-hwdb-update.service",
    "systemd-journal-catalog-update.service",
    "systemd-logind.service",
    "systemd-machine-id-commit.service",
    "systemd-random-seed.service",
    "systemd-sysusers.service",
    "systemd-udev-settle.service",
    "systemd-udev-trigger.service",
    "systemd-udevd.service",
    "systemd-udevd-control.socket",
    "systemd-udevd-kernel.socket",
    "systemd-update-done.service",
    "systemd-update-utmp.service",
)
# For a host whose users have sessions, and on which pymachine runs.
SESSIONS = ("dbus", "libpam-systemd", "python3", "python3-click", "python3-cryptography", "python3-filelock")
SIZE = "6G"
FORMAT = 1


@dataclass(frozen=True)
class Built:
    """A host's files. The disk is never written to: each machine gets its own overlay."""

    folder: Path

    @property
    def disk(self) -> Path:
        """A raw ext4 file system."""
        return self.folder / "disk.raw"

    @property
    def kernel(self) -> Path:
        """Debian's kernel."""
        return self.folder / "vmlinuz"

    @property
    def initrd(self) -> Path:
        """The init ramdisk that mounts the disk."""
        return self.folder / "initrd.img"

    @property
    def key(self) -> Path:
        """The private key for the accounts root, admin and guarded."""
        return self.folder / "id_ed25519"

    @property
    def packages(self) -> Path:
        """A folder with a flat apt repository of the engine, sshfs and their dependencies."""
        return self.folder / "repository"


def ensure(*, with_sessions: bool = False) -> Built:
    """Return the host; build it if it is not cached, or if its packages or these files changed.

    `with_sessions`: its users have sessions and services, and it has what pymachine needs.
    """
    wanted = (*BASE, *SESSIONS) if with_sessions else BASE
    recipe = Recipe(
        architecture="amd64",
        packages=wanted,
        excluded=("linux-initramfs-tool", "linux-base"),
        left_out=LEFT_OUT,
        loaders={"amd64": ()},
        modules=MODULES,
        initrd_modules=(*INITRD_MODULES, "virtio_net", "crc32c_generic", "crc32c_intel", "ext4"),
    )
    sources = build.Sources(choose(), Cache(cache_folder() / "packages"))
    indices = [
        index
        for source in recipe.sources
        for index in Repository(source, sources.url(source), cache=sources.cache, reporter=Silent()).indices("amd64")
    ]
    universe = Universe(indices)
    base = closure(universe, recipe.roots, excluded=recipe.excluded)
    installed = {package.name for package in base}
    extra = [package for package in closure(universe, [*wanted, *LATER]) if package.name not in installed]
    key = hashlib.sha256(f"{FORMAT}".encode())
    for package in [*base, *extra]:
        key.update(package.sha256.encode())
    for path in sorted([HERE / "build.py", HERE / "init", *(HERE / "files").rglob("*")]):
        if path.is_file():
            key.update(path.read_bytes())
    kind = "debian-host-with-sessions" if with_sessions else "debian-host"
    folder = cache_folder() / kind / key.hexdigest()[:16]
    with acquire_lock(folder.with_name(".lock")):
        if not folder.is_dir():
            for old in folder.parent.glob("[0-9a-f]*"):
                shutil.rmtree(old)
            with tempfile.TemporaryDirectory(prefix=".new-", dir=folder.parent) as work:
                out = Path(work) / "out"
                out.mkdir()
                _build(recipe, sources, base, extra, out, with_sessions=with_sessions)
                out.rename(folder)
    return Built(folder)


def _build(
    recipe: Recipe,
    sources: build.Sources,
    base: list[Package],
    extra: list[Package],
    out: Path,
    *,
    with_sessions: bool,
) -> None:
    built = Built(out)
    files = build.fetch(recipe, [*base, *extra], sources=sources, reporter=Silent())
    _repository(extra, files[len(base) :], built.packages)
    keys.make(built.key, comment="tests")
    with tempfile.TemporaryDirectory(prefix="unpacked-", dir=out.parent) as work:
        tree = Tree()
        for name, target in LINKS.items():
            tree.put(name, Node.link(target))
        for package in build.unpack(recipe, base, files[: len(base)], Path(work), lambda: None):
            for path, node in package:
                tree.put(path, node)
        for name in ("var/run", "var/lock"):  # some packages bring these as folders
            tree.remove(name)
            tree.put(name, Node.link(LINKS[name]))
        version = modules.kernel_version(tree)
        built.kernel.write_bytes(tree[f"boot/vmlinuz-{version}"].contents())
        tree.remove("boot")
        kept = modules.prune(tree, recipe.modules)
        with built.initrd.open("wb") as file:
            initrd.write_cpio(initrd.build(tree, kept, recipe, HERE / "init"), file)
        _configure(tree, keys.public_half(built.key).read_bytes(), Path(work))
        if with_sessions:
            _add_sessions(tree)
        _records(tree, base, files[: len(base)])
        _disk(tree, built.disk, Path(work) / "root")


def _repository(packages: Sequence[Package], files: Sequence[Path], folder: Path) -> None:
    """Write a flat repository (sources.list(5)): the .debs, and a Packages file from their control files."""
    folder.mkdir()
    entries = []
    for package, path in zip(packages, files, strict=True):
        name = f"{package.name}_{package.sha256[:12]}.deb"
        shutil.copyfile(path, folder / name)
        control = dict(_control(path))["control"].decode().strip()
        entries.append(f"{control}\nFilename: ./{name}\nSize: {package.size}\nSHA256: {package.sha256}\n")
    (folder / "Packages").write_text("\n".join(entries))


def _control(path: Path) -> Iterator[tuple[str, bytes]]:
    with deb.open_tar(path, "control.tar") as tar:
        for entry in tar:
            if entry.isfile() and (content := tar.extractfile(entry)):
                yield entry.name.removeprefix("./"), content.read()


def _records(tree: Tree, packages: Sequence[Package], files: Sequence[Path]) -> None:
    """Write dpkg's database as if dpkg had installed and configured every package (dpkg(1))."""
    status = []
    for package, path in zip(packages, files, strict=True):
        if package.name.startswith("linux-image"):
            continue  # its maintainer script would require an init ramdisk
        control = dict(_control(path))
        text = control.pop("control").decode().strip()
        lines = [line for line in text.splitlines() if not line.startswith("Status:")]
        status.append("\n".join([lines[0], "Status: install ok installed", *lines[1:]]) + "\n")
        name = f"{package.name}:amd64" if "\nMulti-Arch: same" in text else package.name
        with deb.open_tar(path) as tar:
            paths = ["/" + entry.name.removeprefix("./").strip("/") for entry in tar]
        listing = "\n".join(["/.", *(entry for entry in paths if entry != "/")]) + "\n"
        tree.put(f"var/lib/dpkg/info/{name}.list", Node.file(listing.encode()))
        for member, content in control.items():
            mode = 0o755 if member in {"preinst", "postinst", "prerm", "postrm", "config"} else 0o644
            tree.put(f"var/lib/dpkg/info/{name}.{member}", Node.file(content, mode=mode))
    tree.put("var/lib/dpkg/info/format", Node.file(b"1\n"))
    tree.put("var/lib/dpkg/status", Node.file("\n".join(status).encode()))
    tree.put("var/lib/dpkg/available", Node.file(b""))


def _configure(tree: Tree, public_key: bytes, work: Path) -> None:
    """Write what postinst scripts and an installer would: accounts, keys, PAM, the network, units."""
    for path, mode in FOLDERS.items():
        tree.put(path, Node.directory(mode=mode))
    passwd = tree["usr/share/base-passwd/passwd.master"].contents().decode().replace(":*:", ":x:")
    group = tree["usr/share/base-passwd/group.master"].contents().decode().replace(":*:", ":x:")
    passwd += (
        "_apt:x:42:65534::/nonexistent:/usr/sbin/nologin\n"
        "sshd:x:100:65534::/run/sshd:/usr/sbin/nologin\n"
        "admin:x:1000:1000::/home/admin:/bin/bash\n"
        "guarded:x:1001:1001::/home/guarded:/bin/bash\n"
    )
    for line in ("systemd-journal:x:101:", "systemd-network:x:102:", "admin:x:1000:", "guarded:x:1001:"):
        group += line + "\n"
    passwd += "systemd-network:x:102:102::/:/usr/sbin/nologin\n"
    shadow = "".join(f"{line.split(':')[0]}:*:20000:0:99999:7:::\n" for line in passwd.splitlines())
    _put(tree, "etc/passwd", passwd)
    _put(tree, "etc/group", group)
    _put(tree, "etc/shadow", shadow, mode=0o640)
    _put(tree, "etc/gshadow", "", mode=0o640)
    for home, owner in (("root", 0), ("home/admin", 1000), ("home/guarded", 1001)):
        for path, node in (
            (home, Node.directory(mode=0o700)),
            (f"{home}/.ssh", Node.directory(mode=0o700)),
            (f"{home}/.ssh/authorized_keys", Node.file(public_key, mode=0o600)),
        ):
            tree.put(path, node)
            tree.change(path, mode=node.mode, uid=owner, gid=owner)
    host_key = work / "host_key"
    keys.make(host_key, comment="host")
    _put(tree, "etc/ssh/ssh_host_ed25519_key", host_key.read_text(), mode=0o600)
    _put(tree, "etc/ssh/ssh_host_ed25519_key.pub", keys.public_half(host_key).read_text())
    _put(tree, "etc/sudoers.d/admin", "admin ALL=(ALL) NOPASSWD: ALL\nguarded ALL=(ALL) ALL\n", mode=0o440)
    for kind in ("auth", "account", "session", "session-noninteractive", "password"):
        _put(tree, f"etc/pam.d/common-{kind}", f"{kind.partition('-')[0]} required pam_unix.so\n")
    for source in sorted((HERE / "files").rglob("*")):
        if source.is_file():
            tree.put(source.relative_to(HERE / "files").as_posix(), Node.file(source.read_bytes()))
    _put(tree, "etc/machine-id", secrets.token_hex(16) + "\n", mode=0o444)
    _put(tree, "etc/hostname", "found\n")
    for unit in MASKED:
        tree.put(f"etc/systemd/system/{unit}", Node.link("/dev/null"))
    tree.put("etc/systemd/system/default.target", Node.link("/usr/lib/systemd/system/multi-user.target"))
    for unit in ("ssh.service", "test-network.service"):
        place = "/usr/lib/systemd/system" if unit == "ssh.service" else "/etc/systemd/system"
        tree.put(f"etc/systemd/system/multi-user.target.wants/{unit}", Node.link(f"{place}/{unit}"))


def _add_sessions(tree: Tree) -> None:
    """Have logins start the user's manager, as on any Debian host."""
    tree.remove("etc/systemd/system/systemd-logind.service")
    _put(tree, "etc/passwd", tree["etc/passwd"].contents().decode() + "messagebus:x:103:103::/nonexistent:/bin/false\n")
    _put(tree, "etc/group", tree["etc/group"].contents().decode() + "messagebus:x:103:\n")
    _put(tree, "etc/pam.d/common-session", "session required pam_unix.so\nsession optional pam_systemd.so\n")
    sshd = tree["etc/ssh/sshd_config"].contents().decode()
    _put(tree, "etc/ssh/sshd_config", sshd.replace("UsePAM no", "UsePAM yes"))


def _put(tree: Tree, path: str, text: str, *, mode: int = 0o644) -> None:
    tree.put(path, Node.file(text.encode(), mode=mode))


def _disk(tree: Tree, target: Path, root: Path) -> None:
    """Write `tree` as ext4; fakeroot sets the files' owners without root."""
    root.mkdir()
    commands = ["set -e", f"cd '{root}'", "chown -R 0:0 ."]
    folders = []
    for path, node in tree.walk():
        place = root / path
        if node.kind is Kind.DIRECTORY:
            place.mkdir()
            folders.append(f"chmod {node.mode:o} '{path}'")
        elif node.kind is Kind.LINK:
            place.symlink_to(node.target)
        else:
            place.write_bytes(node.contents())
            if node.mode & 0o7022 == 0:
                place.chmod(node.mode)
            else:
                commands.append(f"chmod {node.mode:o} '{path}'")
        if (node.uid, node.gid) != (0, 0):
            commands.append(f"chown -h {node.uid}:{node.gid} '{path}'")
    commands += [*folders, "chmod 755 .", f"mke2fs -q -t ext4 -E lazy_itable_init=1 -d . '{target}' {SIZE}"]
    env = {**os.environ, "PATH": os.environ.get("PATH", "") + ":/usr/sbin:/sbin"}
    subprocess.run(["fakeroot", "sh"], input="\n".join(commands), text=True, check=True, env=env)
