"""Measure shared folders in containers, compared with the guest's own disk, and write the table of benchmarks.md.

One machine shares a folder over 9p. Another one has a QEMU without 9p, so its folder is mounted over SSH (SSHFS). Each
command runs in each place, round after round, and the results are medians. The commands are those of Debian: the `find`
of busybox stats every file, and `find` of GNU findutils does not.

    python benchmarks/shared_folders.py [--rounds 3] [--creates 10] [--write docs/explanation/benchmarks.md]

On a busy host, `--files 1000` gives ratios in a tenth of the time.
"""

from __future__ import annotations

import argparse
import io
import os
import re
import shlex
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from bench import PROGRAM, Bench
from support import images, packages

TABLE = re.compile(r"(?<=<!-- shared folders -->\n).*?(?=<!-- end of shared folders -->)", re.DOTALL)
TOOLS = ("dash", "coreutils", "findutils", "tar", "git", "inotify-tools")
MEGABYTES = 200
DISK = "own disk"
NINE = "9p"
SSHFS = "SSHFS"
GIT = "git -c safe.directory=*"
# QEMU, whose list of devices does not have those of 9p.
WITHOUT_9P = """\
#!/bin/sh
case "$*" in
    '-device help') {qemu} -device help | grep -v virtio-9p ;;
    *) exec {qemu} "$@" ;;
esac
"""


@dataclass(frozen=True)
class Place:
    """A folder in the containers of a machine."""

    name: str
    machine: str
    folder: str


@dataclass(frozen=True, kw_only=True)
class Workload:
    """A command, and what is done before it without being measured. ``{at}`` is the place's folder."""

    name: str
    command: str
    before: str = ":"
    drop_caches: bool = False
    megabytes: int = 0
    """How much it reads or writes; 0 if its result is a time."""
    times: dict[str, list[float]] = field(default_factory=dict)

    def cells(self, places: list[str]) -> list[str]:
        """Return the medians, each but the first with its ratio to the first."""
        medians = {name: statistics.median(times) for name, times in self.times.items()}
        cells = []
        for name in places:
            if name not in medians:
                cells.append("-")
                continue
            ratio = f" ({medians[name] / medians[DISK]:.1f})" if name != DISK else ""
            cells.append(
                f"{self.megabytes / medians[name]:.0f} MB/s{ratio}"
                if self.megabytes
                else f"{medians[name]:.2f} s{ratio}"
            )
        return cells


def workloads(files: int) -> list[Workload]:
    """Return what is measured, in its order: a command that is called "again" finds what the one before it read."""
    find = "find {at}/tree > /dev/null"
    status = f"{GIT} -C {{at}}/tree status > /dev/null"
    write = f"dd if=/dev/zero of={{at}}/big bs=1M count={MEGABYTES} conv=fsync 2> /dev/null"
    read = "dd if={at}/big of=/dev/null bs=1M 2> /dev/null"
    copy = "tar -C {} -cf - . | tar -C {} -xf -"
    return [
        Workload(name=f"`find`, {files:,} files, first", command=find, drop_caches=True),
        Workload(name="`find` again", command=find),
        Workload(name=f"`git status`, {files:,} files, first", command=status, drop_caches=True),
        Workload(name="`git status` again", command=status),
        Workload(
            name=f"`tar` of {files // 2:,} small files to the guest's disk",
            before="rm -rf /disk/out && mkdir /disk/out",
            command=copy.format("{at}/small", "/disk/out"),
            drop_caches=True,
        ),
        Workload(
            name=f"`tar` of {files // 2:,} small files from the guest's disk",
            before="rm -rf {at}/in && mkdir {at}/in",
            command=copy.format("/disk/small", "{at}/in"),
        ),
        Workload(
            name="1,000 writes of one line to a file",
            command='i=0; while [ "$i" -lt 1000 ]; do echo line; i=$((i + 1)); done > {at}/lines',
        ),
        Workload(
            name=f"write of {MEGABYTES} MB, with `fsync`", before="rm -f {at}/big", command=write, megabytes=MEGABYTES
        ),
        Workload(name=f"read of {MEGABYTES} MB", command=read, drop_caches=True, megabytes=MEGABYTES),
    ]


def make_files(folder: Path, files: int) -> None:
    """Make the files to measure with: a git repository, and half as many small files."""
    for name, number, lines in (("tree", files, 60), ("small", files // 2, 120)):
        for each in range(number):
            unit = folder / name / f"part{each // 500:02}" / f"unit{each // 50 % 10}"
            unit.mkdir(parents=True, exist_ok=True)
            (unit / f"file{each:05}.txt").write_text(f"line {each}\n" * lines)
    # No packing in the background while the files are copied.
    git = ["git", "-C", str(folder / "tree"), "-c", "gc.auto=0"]
    git += ["-c", "user.name=bench", "-c", "user.email=bench@localhost"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "All files"], ["gc", "-q"]):
        subprocess.run([*git, *command], check=True)


def tools(folder: Path) -> Path:
    """Return a container's root file system with Debian's programs, as a tar without duplicates."""
    layers = [packages.archive(program).read_bytes() for program in TOOLS]
    target = folder / "tools.tar"
    seen: set[str] = set()
    with tarfile.open(target, "w") as output:
        for layer in (*layers, images.alpine_like("3", packages="")):
            with tarfile.open(fileobj=io.BytesIO(layer)) as source:
                for member in source:
                    member.name = os.path.normpath(member.name)
                    if member.name not in seen:
                        seen.add(member.name)
                        output.addfile(member, source.extractfile(member) if member.isfile() else None)
    return target


def inside(bench: Bench, machine: str, script: str) -> str:
    """Run a script in the machine's container, and return its output."""
    return bench.call("ssh", machine, f"docker exec box dash -e -c {shlex.quote(script)}")[1]


def send(bench: Bench, machine: str, command: str, source: Path) -> None:
    """Run a command in the machine with a file as its standard input."""
    with source.open("rb") as stream:
        argv = [str(PROGRAM), "ssh", machine, command]
        subprocess.run(argv, env=bench.env, stdin=stream, check=True, stdout=subprocess.DEVNULL)


def prepare(bench: Bench, machine: str, shared: Path, layer: Path) -> None:
    """Start a container with the shared folder at /share and the guest's disk at /disk, with the same files in both."""
    send(bench, machine, "docker import - tools", layer)
    volumes = f"-v {shlex.quote(f'{shared}:/share')} -v disk:/disk"
    bench.call("ssh", machine, f"docker run -d --name box {volumes} tools dash -c 'while :; do sleep 1000; done'")
    files = bench.folder / "files.tar"
    with tarfile.open(files, "w") as output:
        for path in shared.iterdir():
            output.add(path, path.name)
    send(bench, machine, "docker exec -i box tar -C /disk -xf -", files)
    for place in ("/disk", "/share"):
        # Here the files have other numbers than on the host, so the first `git status` reads all of them.
        inside(bench, machine, f"{GIT} -C {place}/tree status > /dev/null")


def measure(bench: Bench, place: Place, workload: Workload) -> None:
    """Run a workload in a place, and keep its time in seconds."""
    inside(bench, place.machine, workload.before.format(at=place.folder))
    if workload.drop_caches:
        bench.call("ssh", place.machine, "sync; echo 3 | sudo tee /proc/sys/vm/drop_caches")
    command = workload.command.format(at=place.folder)
    output = inside(bench, place.machine, f"began=$(date +%s%N); {command}; echo $(($(date +%s%N) - began))")
    workload.times.setdefault(place.name, []).append(int(output) / 1e9)


def sshfs(bench: Bench, shared: Path) -> str:
    """Create a machine whose QEMU has no 9p. Return why it does not share the folder, or an empty text."""
    wrapper = bench.folder / "qemu-without-9p"
    found = shutil.which("qemu-system-x86_64")
    assert found
    wrapper.write_text(WITHOUT_9P.format(qemu=shlex.quote(found)))
    wrapper.chmod(0o755)
    try:
        bench.call("create", "--qemu-binary", str(wrapper), "--share", str(shared), "over-ssh")
    except subprocess.CalledProcessError as error:
        return str(error.stderr).strip().splitlines()[0]
    return ""


def creates(bench: Bench, shared: Path, times: int) -> str:
    """Return how long a warm create takes with a shared folder and without one, alternately."""
    flags = {"with": ["--share", str(shared)], "without": ["--no-share"]}
    walls: dict[str, list[float]] = {name: [] for name in flags}
    for _ in range(times):
        for name, words in flags.items():
            walls[name].append(bench.call("create", *words, "warm")[0].wall)
            bench.call("rm", "-y", "warm")
    shares, none = (statistics.median(walls[name]) for name in ("with", "without"))
    return (
        f"A warm `create` takes {shares:.2f} s with a shared folder and {none:.2f} s without one (medians of {times}; "
        "goal: 0.05 s more)."
    )


def events(bench: Bench, shared: Path, saves: int) -> str:
    """Return the time from a save on the host to the answer of a program that watches the folder in a container."""
    saved, seen = shared / "saved", shared / "seen"
    for folder in (saved, seen):
        folder.mkdir()
    watch = "inotifywait -m -q -e attrib --format %f /share/saved | while read -r name; do : > /share/seen/$name; done"
    bench.call("ssh", "shared", f"docker exec -d box dash -c {shlex.quote(watch)}")
    while not (seen / "first").exists():  # the program, and the process that watches the folder on the host, have begun
        (saved / "first").write_text(str(time.monotonic()))
        time.sleep(0.5)
    times = []
    for number in range(saves):
        (saved / f"{number}").write_text("saved")
        began = time.monotonic()
        while not (seen / f"{number}").exists():
            time.sleep(0.002)
        times.append(time.monotonic() - began)
    return (
        f"After a save on the host, a program in a container has noticed it, and made a file in answer, within "
        f"{statistics.median(times):.2f} s (median of {saves}; the longest took {max(times):.2f} s; goal: 1 s)."
    )


def document(names: list[str], measured: list[Workload], notes: list[str]) -> str:
    """Return the table and the lines below it."""
    lines = [f"| what | {' | '.join(names)} |", "|---|" + "---:|" * len(names)]
    lines += [f"| {workload.name} | {' | '.join(workload.cells(names))} |" for workload in measured]
    return "\n" + "\n".join([*lines, "", *notes]) + "\n\n"


def main() -> None:
    """Measure, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--creates", type=int, default=10, help="how many creates with a share, and without")
    parser.add_argument("--saves", type=int, default=20, help="how many saves are noticed")
    parser.add_argument("--write", type=Path, default=Path(__file__).parents[1] / "docs/explanation/benchmarks.md")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pymachine-bench-") as folder:
        bench = Bench(Path(folder), options.rounds)
        shared, over_ssh = bench.folder / "shared", bench.folder / "over-ssh"
        places = [Place(DISK, "shared", "/disk"), Place(NINE, "shared", "/share")]
        load = os.getloadavg()[0]
        try:
            make_files(shared, options.files)
            layer = tools(bench.folder)
            bench.call("create", "--share", str(shared), "shared")
            notes = [creates(bench, shared, options.creates)]
            prepare(bench, "shared", shared, layer)
            notes.append(events(bench, shared, options.saves))
            make_files(over_ssh, options.files)
            if problem := sshfs(bench, over_ssh):
                notes.append(f"SSHFS is not measured: a machine without 9p shares no folder ({problem}).")
            else:
                prepare(bench, "over-ssh", over_ssh, layer)
                places.append(Place(SSHFS, "over-ssh", "/share"))
            measured = workloads(options.files)
            for number in range(options.rounds):
                for place in places:
                    for workload in measured:
                        measure(bench, place, workload)
                        print(f"{number + 1} {place.name:8} {workload.times[place.name][-1]:7.2f} s  {workload.name}")
                        sys.stdout.flush()
        finally:
            names = ["shared", "over-ssh", "warm"]
            subprocess.run([str(PROGRAM), "rm", "-y", "-f", *names], env=bench.env, check=False, capture_output=True)
    how = "one round" if options.rounds == 1 else f"medians of {options.rounds} rounds"
    when = f"Measured {time.strftime('%Y-%m-%d')}, {how}. "
    when += f"The host's load was {load:.1f} before. In brackets: how many times as long as on the guest's own disk."
    text = document([place.name for place in places], measured, [*notes, when])
    print(text)
    options.write.write_text(TABLE.sub(lambda _: text, options.write.read_text()))


if __name__ == "__main__":
    main()
