"""Measure commands that run in prompts and scripts: `env`, and `ls` of fifty machines, compared with other programs.

The machines are records, and a TLS server on the loopback takes the place of an engine, so that only the commands are
measured. One run measures the bare interpreter, one TLS handshake in a warm process, `curl` as a native program that
makes one handshake as docker-machine's `env` did, and pymachine's commands.

    python benchmarks/short_commands.py [--rounds 30] [--write docs/explanation/benchmarks.md]
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from pymachine.tls import handshake
from support import fifty_machines

PROGRAM = Path(sys.executable).parent / "pymachine"
TABLE = re.compile(r"(?<=<!-- short commands -->\n).*?(?=<!-- end of short commands -->)", re.DOTALL)


def milliseconds(rounds: int, argv: list[str], env: dict[str, str]) -> float:
    """Return the median elapsed time of `argv`."""
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        subprocess.run(argv, env=env, check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - began)
    return 1000 * statistics.median(times)


def handshake_ms(rounds: int, folder: Path, port: int) -> float:
    """Return the median time of a handshake in this process."""
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        handshake.check("127.0.0.1", port, ca=folder / "ca.pem", cert=folder / "cert.pem", key=folder / "key.pem")
        times.append(time.perf_counter() - began)
    return 1000 * statistics.median(times)


def measure(rounds: int) -> list[tuple[str, str, str]]:
    """Return the rows of the table."""
    with tempfile.TemporaryDirectory(prefix="pm-bench-") as scratch:
        root = Path(scratch) / "store"
        with fifty_machines.created(root) as port:
            kept = {name: value for name, value in os.environ.items() if not name.startswith(("DOCKER_", "MACHINE_"))}
            env = {**kept, "MACHINE_STORAGE_PATH": str(root), "SHELL": "/bin/sh"}
            folder = root / "machines" / "running0"
            bare = milliseconds(rounds, [sys.executable, "-c", "pass"], env)
            shake = handshake_ms(rounds, folder, port)
            files = ["--cacert", f"{folder}/ca.pem", "--cert", f"{folder}/cert.pem", "--key", f"{folder}/key.pem"]
            native = milliseconds(rounds, ["curl", "-s", *files, f"https://127.0.0.1:{port}/version"], env)
            ours = milliseconds(rounds, [str(PROGRAM), "env", "running0"], env)
            listed = milliseconds(max(rounds // 3, 1), [str(PROGRAM), "ls"], env)
    return [
        ("`python -c pass`", f"{bare:.0f} ms", "the interpreter's own start"),
        ("a handshake", f"{shake:.1f} ms", "mutual TLS, in a warm process"),
        ("`curl`, one request", f"{native:.0f} ms", "a native program with one handshake"),
        ("`pymachine env`", f"{ours:.0f} ms", f"{ours - shake:.0f} ms above the handshake; goal: 30"),
        (
            "`pymachine ls`, 50 machines",
            f"{listed:.0f} ms",
            "12 running, 12 dead, 24 stopped, 2 broken; goal: 300",
        ),
    ]


def main() -> None:
    """Measure, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--write", type=Path, default=Path(__file__).parents[1] / "docs/explanation/benchmarks.md")
    options = parser.parse_args()
    if shutil.which("curl") is None:
        sys.exit("curl is missing: env is compared with it")
    rows = measure(options.rounds)
    lines = ["| what | median | |", "|---|---:|---|", *(f"| {what} | {value} | {note} |" for what, value, note in rows)]
    print("\n".join(lines))
    text = options.write.read_text()
    options.write.write_text(TABLE.sub(lambda _: "\n" + "\n".join(lines) + "\n\n", text))


if __name__ == "__main__":
    main()
