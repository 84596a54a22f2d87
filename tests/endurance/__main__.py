"""``python -m endurance``: run the campaign, print its table, and exit with code 1 if there was a fault."""

from __future__ import annotations

import argparse
import os
import platform
import random
import sys
import time
from collections.abc import Sequence

from endurance import campaign, kinds
from support import processes


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program."""
    options = _parser().parse_args(arguments)
    chosen = [kind for kind in kinds.ALL if not options.kind or kind.name in options.kind]
    if options.list:
        for kind in chosen:
            print(f"{kind.name:30} {kind.rounds:4} x {kind.seconds:4.1f} s  {kind.description}")
        print(f"\nabout {sum(kind.rounds * kind.seconds for kind in chosen) / 60:.0f} minutes")
        return 0
    processes.give_children_default_signals()
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(10**6)
    plan = campaign.Plan(seed=seed, rounds=options.rounds, only=options.only, seconds=options.minutes * 60)
    print(f"seed {seed}; {time.strftime('%Y-%m-%d')}; {_machine()}\n", flush=True)
    results = campaign.run(chosen, plan)
    print("\n".join(campaign.table(results)))
    for text in campaign.first_faults(results):
        print(f"\n{text}")
    for missing, why in kinds.LEFT_OUT.items():
        print(f"\nNot run: {missing}: {why}")
    return 1 if any(result.faults for result in results) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="endurance", description="Disturb pymachine with kills, full disks and hostile input; check what survives."
    )
    names = [kind.name for kind in kinds.ALL]
    parser.add_argument(
        "--kind", action="append", choices=names, metavar="KIND", help="run only this kind (repeatable)"
    )
    parser.add_argument(
        "--list", action="store_true", help="list the kinds with the number and duration of their tries, and exit"
    )
    parser.add_argument(
        "--seed", type=int, help="repeat the random choices of a run (default: a random seed, which is printed)"
    )
    rounds = os.environ.get("ENDURANCE_ROUNDS")
    parser.add_argument(
        "--rounds",
        type=int,
        default=int(rounds) if rounds else None,
        help="tries of each kind; slow kinds have at most their default number [$ENDURANCE_ROUNDS]",
    )
    parser.add_argument("--only", type=int, metavar="N", help="make only try number N, as the text of a fault suggests")
    parser.add_argument(
        "--minutes",
        type=float,
        default=90,
        help="share this time between all kinds, in proportion to their needs (default: %(default)s)",
    )
    return parser


def _machine() -> str:
    """Describe the computer that the campaign runs on."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    system = f"{platform.system()} {platform.machine()}, {os.cpu_count()} processors, {memory:.0f} GiB"
    return f"{system}, Python {platform.python_version()}"


if __name__ == "__main__":
    sys.exit(main())
