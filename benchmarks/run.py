"""Measure pymachine on this host, and write the table of docs/explanation/benchmarks.md.

Everything is measured in one run. Values that depend on the host are also shown as a ratio to another value of the
same run. The results are medians. Machines have the default settings (1 GiB, software emulation unless KVM boots Linux
here). A run takes about ten minutes on two cores. Nothing else should run on the host meanwhile.

    python benchmarks/run.py [--rounds 3] [--only clones | --without libvirt] [--write docs/explanation/benchmarks.md]
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import tempfile
from pathlib import Path

import clones
import libvirts
import single
from bench import PROGRAM, Bench

TABLE = re.compile(r"(?<=<!-- table -->\n).*?(?=<!-- end -->)", re.DOTALL)
MACHINES = ("bench", "clone", "warm", "booted", "resumed")
STEPS = {
    "single": (single.image, single.create, single.memory, single.commands, single.lifecycle),
    "libvirt": (libvirts.create,),
    "clones": (clones.template, clones.warm, clones.options, clones.run, clones.at_once, clones.memory, clones.later),
}


def main() -> None:
    """Measure everything and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=STEPS, help="measure only this, and write no table")
    parser.add_argument("--without", choices=STEPS, help="skip this")
    parser.add_argument("--write", type=Path, default=Path(__file__).parents[1] / "docs/explanation/benchmarks.md")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pymachine-bench-") as folder:
        bench = Bench(Path(folder), options.rounds)
        try:
            for name, steps in STEPS.items():
                if options.only in (None, name) and name != options.without:
                    for step in steps:
                        step(bench)
            table = bench.document()
        finally:
            subprocess.run([str(PROGRAM), "rm", "-y", "-f", *MACHINES], env=bench.env, check=False, capture_output=True)
    if options.only:
        print(json.dumps(bench.rows, indent=1))
    else:
        options.write.write_text(TABLE.sub(lambda _: table, options.write.read_text()))
        print(f"written to {options.write}")


if __name__ == "__main__":
    main()
