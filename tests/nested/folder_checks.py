"""Run in the nested computer: what VirtualBox's shared folders do in the guest and in a container.

Each finding is logged. A wrong one is kept in `wrong`, so that one run shows all of them.
"""

from __future__ import annotations

import os
import shutil
import stat
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

SECONDS = 300.0
ROUNDS = 10
PROBE = Path("/payload/probe")
BOX = Path("/payload/box.tar")
NAMES = (
    *("with blank", "comma,comma", "grüße-日本", "quote'\"", "$dollar", "-dash", "new\nline"),
    *("caf\u00e9", "cafe\u0301", "🐳", "tab\t", "ü" * 120),
)
# Commands that write in the read-only folder. Its files are `hello` and `folder`.
CHANGES = (
    *("touch new", "touch -c hello", "chmod 777 hello", "chmod 777 .", "rm hello", "mv hello other", "ln hello other"),
    *("ln -s hello other", "mkdir new", "mkfifo new", "mknod new c 1 3", "cp /etc/passwd hello"),
    *("truncate -s 0 hello", "mv folder other", "rmdir folder"),
)
CONTAINER = """\
cd /work
try() {
    name=$1
    shift
    if said=$("$@" 2>&1); then echo "$name: yes"; else echo "$name: no ($said)"; fi
}
grep -q ' /work vboxsf rw,' /proc/mounts && echo "mounted: yes"
echo text > made
mkdir made-folder
try chown chown -R 999:999 made made-folder
try chmod chmod 640 made
try setuid chmod 4755 setuid
try "symbolic link" ln -s /etc/hostname symbolic
try "hard link" ln made hard
try pipe mkfifo pipe
try device mknod device c 1 3
echo "link of the host: $(cat from-host)"
echo "link to the outside: $(cat outside)"
echo "link out of the folder: $(cat above 2>&1)"
set -- names/*
echo "names: $#"
for each in names/*; do
    [ "$(cat "./$each")" = "${each#names/}" ] || echo "wrong name: $each"
    : > "./$each.made" || echo "cannot make: $each"
done
set -- many/*
echo "many: $#"
dd if=/dev/zero of=sparse bs=1 count=1 seek=100000000 2> /dev/null
echo old > file
exec 3< file
echo new > next
try rename mv next file
echo "renamed over an open file: $(cat <&3) $(cat file)"
./probe
"""
EXPECTED = {
    "mounted": "yes",
    "chown": "yes",
    "chmod": "yes",
    "symbolic link": "no (ln: symbolic: Operation not permitted)",
    "hard link": "no (ln: hard: Operation not permitted)",
    "pipe": "no (mkfifo: pipe: Operation not permitted)",
    "device": "no (mknod: device: Operation not permitted)",
    "link of the host": "target",
    "link to the outside": "inside the container",
    "names": str(len(NAMES)),
    "many": "500",
    "rename": "yes",
    "renamed over an open file": "old new",
    "flock": "yes",
    "flock held by another": "Resource temporarily unavailable",
    "fcntl lock": "yes",
    "fcntl lock held by another": "Resource temporarily unavailable",
    "chmod 1777": "yes",
    "another user in mode 755": "Permission denied",
    "another user in mode 1777": "yes",
    "mmap": "yes",
    "open before": "one",
    "appended before": "line",
    "mapped before": "....",
    "older before": "new",
    "open after stat": "two",
    "open opened": "two",
    "msync": "yes",
    "write": "yes",
}

wrong: list[str] = []


def log(text: str) -> None:
    sys.stdout.write(f"[{time.monotonic():.1f}] {text}\n")
    sys.stdout.flush()


def check(what: str, found: object, expected: object) -> None:
    """Log what was found, and keep it if it is not what was expected."""
    if found == expected:
        log(f"right: {what}: {found!r}")
    else:
        log(f"WRONG: {what}: {found!r}, expected {expected!r}")
        wrong.append(what)


def prepare(work: Path) -> None:
    """Fill a shared folder for `in_container`."""
    for name in ("names", "many"):
        (work / name).mkdir(parents=True)
    for name in NAMES:
        (work / "names" / name).write_text(name)
    for number in range(500):
        (work / "many" / str(number)).touch()
    for name, text in {"target": "target\n", "open": "one\n", "appended": "line\n", "older": "new\n"}.items():
        (work / name).write_text(text)
    (work / "mapped").write_bytes(b"." * (1 << 20))
    (work / "setuid").touch()
    (work / "from-host").symlink_to("target")
    (work / "outside").symlink_to("/etc/inside")
    (work / "above").symlink_to("../secret")
    (work.parent / "secret").write_text("secret\n")
    Path("/etc/inside").write_text("of the host\n")
    (work / "check").write_text(CONTAINER)
    shutil.copyfile(PROBE, work / "probe")
    (work / "probe").chmod(0o755)
    shutil.copyfile(BOX, work / "box.tar")


def command(work: Path) -> str:
    """Return the guest's shell command that runs the container."""
    return (
        f"docker import {work}/box.tar box:1 > /dev/null; docker run --rm -v {work}:/work box:1"
        " sh -c 'echo inside the container > /etc/inside; sh /work/check' || echo \"exit: $?\""
    )


def in_container(work: Path, run: Callable[[], str]) -> None:
    """Call `run`, which runs `command`, play the host's part meanwhile, and check what was found."""
    times: dict[str, float] = {}
    host = threading.Thread(target=_host, args=(work, times), daemon=True)
    host.start()
    output = run()
    host.join(5)
    found = dict(line.split(": ", 1) for line in output.splitlines() if ": " in line)
    for name, expected in EXPECTED.items():
        check(name, found.get(name), expected)
    appended = {found.get(f"appended {when}") for when in ("at once", "after 3 s", "after stat")}
    check("changes that the host has seen", {"munmap", "write"} <= times.keys(), expected=True)
    check("what is appended to an open file", "more" in appended, expected=True)
    check("exit code of the container", found.pop("exit", "0"), "0")
    for name in sorted(found.keys() - EXPECTED):
        log(f"seen: {name}: {found[name]}")
    log(f"seen: seconds until the other side has seen it: {times}")
    check("all changes were seen", host.is_alive(), expected=False)
    made = (work / "made").stat()
    check("owner and mode of a file", (made.st_uid, made.st_gid, oct(made.st_mode)), (os.getuid(), 0, "0o100640"))
    check("owner of a folder", (work / "made-folder").stat().st_uid, os.getuid())
    check("owner of another user's file", (work / "public" / "made").stat().st_uid, os.getuid())
    check("no setuid", (work / "setuid").stat().st_mode & (stat.S_ISUID | stat.S_ISGID), 0)
    names = {path.name for path in (work / "names").iterdir()}
    check("names", names, {*NAMES, *(f"{name}.made" for name in NAMES)})
    sparse = (work / "sparse").stat()
    check("sparse", (sparse.st_size, sparse.st_blocks < 2048), (100000001, True))


def _host(work: Path, times: dict[str, float]) -> None:
    rounds = []
    _wait((work / "private").exists, "the probe to start")
    for step in range(1, ROUNDS + 1):
        began = time.monotonic()
        _done(work, step)
        _wait((work / f"guest-{step}").exists, f"the guest's file {step}")
        rounds.append(round(time.monotonic() - began, 3))
    log(f"seen: seconds from a file on the host to one of the guest: {rounds}")
    _wait((work / "guest-11").exists, "the files to be open")
    _change(work / "open", 0, b"two\n")
    with (work / "appended").open("ab") as file:
        file.write(b"more\n")
    _change(work / "mapped", 0, b"host")
    (work / "next").write_text("old\n")
    os.utime(work / "next", (1_000_000_000, 1_000_000_000))
    (work / "next").replace(work / "older")
    _done(work, 11)
    # Linux 6.12 writes nothing at msync.
    for step, name, what, seconds in ((12, b"guest", "msync", 5), (13, b"again", "munmap", SECONDS)):
        _wait((work / f"guest-{step}").exists, what)
        began = time.monotonic()
        if _wait(partial(_has, work / "mapped", name), f"memory after {what}", seconds):
            times[what] = round(time.monotonic() - began, 3)
        _done(work, step)
    _wait((work / "guest-14").exists, "the file to be written")
    began = time.monotonic()
    _wait(lambda: (work / "written").read_text() == "line\n", "the line")
    times["write"] = round(time.monotonic() - began, 3)
    _done(work, 14)


def _change(path: Path, position: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(position)
        file.write(data)


def _done(work: Path, step: int) -> None:
    (work / f"host-{step}").touch()


def _has(file: Path, content: bytes) -> bool:
    """Whether the file has `content` at the place that the guest writes."""
    return file.read_bytes()[500000:].startswith(content)


def _wait(condition: Callable[[], bool], what: str, seconds: float = SECONDS) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            log(f"not seen: {what}")
            return False
        time.sleep(0.002)
    return True


def watch(folder: Path, run: Callable[[str], str]) -> None:
    """Check that a change on the host raises an event in a container. `run` runs a command in the guest."""
    folder.mkdir()
    # inotifywait is the guest's.
    start = (
        f"docker run -d --name watcher -v {folder}:/work -v /usr:/usr:ro box:1 inotifywait -m --format '%e %w%f' /work"
    )
    run(start)
    ended = threading.Event()

    def change() -> None:
        number = 0
        while not ended.wait(5):
            number += 1
            (folder / f"made-{number}").touch()

    threading.Thread(target=change, daemon=True).start()
    wait = "tries=0; until docker logs watcher 2>&1 | grep -q ATTRIB || [ $tries -gt 40 ]; do"
    output = run(f"{wait} tries=$((tries + 1)); sleep 2; done; docker logs watcher 2>&1; docker rm -f watcher")
    ended.set()
    check("event of a change on the host", "ATTRIB /work/made-" in output, expected=True)


def read_only_script(folder: Path) -> str:
    """Return a script that tries to change a read-only folder in all ways that root of the guest has."""
    changes = "\n".join(CHANGES)
    return f"""\
cat {folder}/hello
source=$(sed -n 's,^\\([^ ]*\\) {folder} .*,\\1,p' /proc/mounts)
try() {{
    cd "$1" || return
    while read -r change; do
        if $change 2> /dev/null; then echo "changed by $2: $change"; fi
    done << 'END'
{changes}
END
    cd /
}}
try {folder} "the mount"
try /run/pymachine/shares/$source "the hidden mount"
chown 5:5 /run/pymachine/shares/$source/hello && echo "owner set through the hidden mount"
mount -o remount,bind,rw {folder}
mount -o remount,rw {folder}
grep " {folder} " /proc/mounts
try {folder} "the remounted folder"
umount {folder} /run/pymachine/shares/$source
mount -t vboxsf -o rw $source {folder}
grep " {folder} " /proc/mounts
try {folder} "a mount of its own"
umount {folder}
/usr/lib/pymachine/surroundings mounts
cat {folder}/hello
"""


def statuses(folder: Path) -> dict[str, tuple[object, ...]]:
    """Return owner, mode, size, times and content of all files in a folder, and of itself."""
    found: dict[str, tuple[object, ...]] = {}
    for path in (folder, *folder.rglob("*")):
        status = path.lstat()
        content = path.read_bytes() if path.is_file() else b""
        found[str(path)] = (
            status.st_uid,
            status.st_mode,
            status.st_size,
            status.st_mtime_ns,
            status.st_ctime_ns,
            content,
        )
    return found
