"""Measure named templates, and the registry cache: the time until a job has its images and containers.

A run takes half an hour in software emulation. Nothing else should run on the host meanwhile.

    python benchmarks/named_templates.py [--rounds 5] [--write docs/explanation/benchmarks.md]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench import PROGRAM, Bench, Cost, available_mib

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from pymachine.store import paths
from support import images, registry

FAR_SECONDS = 0.025
"""The delay of the far registry in each direction."""
LAYER_MIB = 50
CLONES = 20
LARGE_MIB = 1000
PORT = 8120
TABLE = re.compile(r"(?<=<!-- templates -->\n).*?(?=<!-- end of templates -->)", re.DOTALL)
IMAGE = "alpine:3.2"
PULL_AND_RUN = ("docker", "run", "--rm", IMAGE, "true")
SERVE = f"docker run -d -p {PORT}:80 {IMAGE} sh -c 'mkdir /www; echo hello > /www/a; busybox httpd -f -p 80 -h /www'"
FETCH = (
    f"""curl -sf --retry 20 --retry-connrefused "http://$(echo "$DOCKER_HOST" | cut -d/ -f3 | cut -d: -f1):{PORT}/a" """
)
# Data that cannot be compressed, written by the engine's own host.
FILL = (
    "docker run --name large -i {image} sh -c 'cat > /large' < {file} > /dev/null && docker commit large large:1"
    " > /dev/null && docker rm large > /dev/null"
)


def jobs(bench: Bench) -> None:
    """Measure a job from nothing to its result: with a far registry, the cache, a pulled image, a running container."""
    with (
        tempfile.TemporaryDirectory() as folder,
        registry.under_private_ca(Path(folder)) as near,
        far(near.port) as port,
    ):
        layer = images.with_programs(images.alpine_like("3.2", packages=""), [], {"large": _noise(LAYER_MIB)})
        near.push("library/alpine", ["3.2"], layer, images.config())
        mirror = ("--engine-registry-mirror", f"https://{registry.USER_NETWORK_HOST}:{port}")
        config = bench.folder / "store" / paths.USER_CONFIG
        config.parent.mkdir(exist_ok=True)
        config.write_text(f'[certificates]\nca = ["{near.ca}"]\n')
        interpreter = bench.median(20, lambda: bench.call("-c", "pass", program=sys.executable)[0]).wall
        bench.row("python -c pass", f"{interpreter * 1000:.0f} ms", "how fast this host is")
        bench.call("template", "build", "pulled", *mirror, "--pull", IMAGE)
        bench.call("template", "build", "served", *mirror, "--pull", IMAGE, "--exec", SERVE)
        usual = _in_a_warm_machine(bench, mirror)
        bench.row("docker run in a warm machine", f"{usual:.2f} s", "the image is there")
        bench.call("run", "--", "true")
        bench.row("run -- true", f"{_job(bench, '--', 'true'):.2f} s", "a machine without an image")
        bench.call("run", *mirror, "--", "true")
        without = _job(bench, *mirror, "--", *PULL_AND_RUN)
        bench.row("run -- docker run, far registry", f"{without:.2f} s", f"{LAYER_MIB} MiB, 50 ms away")
        bench.call("cache", "start", "--upstream", f"https://127.0.0.1:{port}")
        try:
            bench.call("run", "--", *PULL_AND_RUN)
            cached = _job(bench, "--", *PULL_AND_RUN)
        finally:
            bench.call("cache", "stop")
        bench.row("run -- docker run, with the cache", f"{cached:.2f} s", _share(cached, without))
        pulled = _job(bench, "--template", "pulled", "--", *PULL_AND_RUN)
        note = f"{_share(pulled, without)}; {pulled - usual:+.2f} s of a warm machine (goal: +1 s)"
        bench.row("run --template -- docker run", f"{pulled:.2f} s", note)
        served = _job(bench, "--template", "served", "--", "sh", "-c", FETCH)
        bench.row("run --template -- curl", f"{served:.2f} s", f"{_share(served, without)}; goal: 1.2 s")
        bench.call("template", "rm", "pulled", "served")
        config.unlink()


def sizes(bench: Bench) -> None:
    """Measure the cost of the images in a template for each machine from it."""
    with tempfile.TemporaryDirectory() as folder, registry.running(Path(folder)) as near:
        near.push("library/alpine", ["3.2"], images.alpine_like("3.2", packages=""), images.config())
        mirror = ("--engine-registry-mirror", near.url_from_guest)
        noise = Path(folder) / "noise"
        noise.write_bytes(os.urandom(LARGE_MIB << 20))
        fill = FILL.format(image=IMAGE, file=noise)
        bench.call("template", "build", "small", *mirror)
        bench.call("template", "build", "large", *mirror, "--pull", IMAGE, "--exec", fill)
        walls: dict[str, list[float]] = {"small": [], "large": []}
        grown = []
        for _ in range(10):
            for name, taken in walls.items():
                before = _used_mb(bench)
                taken.append(bench.call("create", "--template", name, "warm")[0].wall)
                grown += [_used_mb(bench) - before] if name == "large" else []
                bench.call("rm", "-y", "warm")
        small, large = (statistics.median(walls[name]) for name in walls)
        bench.row("create --template, empty", f"{small:.2f} s")
        note = f"{large - small:+.2f} s of an empty one (goal: +0.2 s)"
        bench.row(f"create --template, {LARGE_MIB} MiB", f"{large:.2f} s", note)
        bench.row("disk of a machine from it", f"{statistics.median(grown):.1f} MB", "goal: 30 MB")
        names = [f"clone{number}" for number in range(CLONES)]
        before = available_mib()
        cost, _ = bench.call("create", "--template", "large", *names)
        time.sleep(30)
        each = (before - available_mib()) / CLONES
        bench.row(f"create --template of {CLONES} at once", f"{cost.wall:.1f} s", "goal: 15 s")
        bench.row("memory of each of them", f"{each:.0f} MiB", "by MemAvailable; goal: 100 MB")
        bench.call("rm", "-y", *names)
        bench.call("template", "rm", "small", "large")


@contextmanager
def far(port: int) -> Iterator[int]:
    """Forward connections to `port` with a delay in both directions; yield the port of that."""
    loop = asyncio.new_event_loop()
    started: list[asyncio.Server] = []
    faults: list[Exception] = []
    ready = threading.Event()

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Write what is read, each piece after the delay, while the next ones are read."""
        pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(maxsize=256)

        async def deliver() -> None:
            while True:
                due, data = await pieces.get()
                await asyncio.sleep(max(0.0, due - loop.time()))
                if not data:
                    writer.write_eof()
                    return
                writer.write(data)
                await writer.drain()

        delivery = loop.create_task(deliver())
        while True:
            data = await reader.read(65536)
            await pieces.put((loop.time() + FAR_SECONDS, data))
            if not data:
                break
        await delivery

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        near_reader, near_writer = await asyncio.open_connection("127.0.0.1", port)
        both = await asyncio.gather(carry(reader, near_writer), carry(near_reader, writer), return_exceptions=True)
        near_writer.close()
        writer.close()
        # One side may have left, which is an OSError.
        faults.extend(each for each in both if isinstance(each, Exception) and not isinstance(each, OSError))

    async def serve() -> None:
        started.append(await asyncio.start_server(accept, "127.0.0.1", 0))
        ready.set()

    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    asyncio.run_coroutine_threadsafe(serve(), loop)
    ready.wait(10)
    try:
        yield started[0].sockets[0].getsockname()[1]
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
    if faults:
        raise ExceptionGroup("the way to the far registry", faults)


def _job(bench: Bench, *words: str) -> float:
    """Return the median of the seconds from the beginning of a `run` to its end."""
    return bench.median(bench.rounds, lambda: bench.call("run", *words)[0]).wall


def _in_a_warm_machine(bench: Bench, mirror: tuple[str, ...]) -> float:
    bench.call("create", *mirror, "warm")
    variables = dict(re.findall(r'^export (\w+)="(.*)"$', bench.call("env", "warm")[1], re.MULTILINE))

    def once() -> Cost:
        return bench.call(*PULL_AND_RUN[1:], program="docker", env=variables)[0]

    once()
    found = bench.median(bench.rounds, once).wall
    bench.call("rm", "-y", "warm")
    return found


def _share(part: float, whole: float) -> str:
    return f"{part / whole:.2f} of the far registry's"


def _noise(mib: int) -> str:
    return os.urandom(mib << 19).hex()


def _used_mb(bench: Bench) -> float:
    status = os.statvfs(bench.folder)
    return (status.f_blocks - status.f_bfree) * status.f_frsize / 1e6


def main() -> None:
    """Measure everything and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--write", type=Path, default=Path(__file__).parents[1] / "docs/explanation/benchmarks.md")
    options = parser.parse_args()
    if not TABLE.search(options.write.read_text()):
        sys.exit(f"{options.write} has no place for the table")
    with tempfile.TemporaryDirectory(prefix="pymachine-bench-") as folder:
        bench = Bench(Path(folder), options.rounds)
        try:
            jobs(bench)
            sizes(bench)
            table = bench.document()
        finally:
            names = ["warm", *(f"clone{number}" for number in range(CLONES))]
            subprocess.run([str(PROGRAM), "rm", "-y", "-f", *names], env=bench.env, check=False, capture_output=True)
    options.write.write_text(TABLE.sub(lambda _: table, options.write.read_text()))
    print(f"written to {options.write}")


if __name__ == "__main__":
    main()
