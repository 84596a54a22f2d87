"""Two processes run the same commands on one store at the same time: each takes effect once, and nothing is lost."""

from __future__ import annotations

import contextlib
import io
import json
import multiprocessing
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

from pymachine.cli.main import main
from pymachine.store.store import Store

ROUNDS = 200
# Most machines are removed again, since a `create` reads the records of all others.
KEPT_EVERY = 10
KEPT_OWN = 10


def call(root: str, *words: str) -> tuple[int, str]:
    """Run a command line in this process; return its exit code and output."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        code = main(["pymachine", "-s", root, *words])
    return code, output.getvalue()


def contend(number: int, root: str, barrier: Barrier, results: Any) -> None:
    """Run the commands of one process: the same as the other's in races, and one of its own."""
    won = {"create": 0, "rename": 0, "rm": 0}
    unexpected: list[str] = []

    def race(command: str, *words: str, lost: str) -> None:
        barrier.wait()
        code, output = call(root, command, *words)
        if code == 0:
            won[command] += 1
        elif lost not in output:
            unexpected.append(output)

    for turn in range(ROUNDS):
        url = f"tcp://127.0.0.1:{1000 + turn}"
        race("create", "-d", "none", "--url", url, f"race-{turn}", lost="already exists")
        race("rename", f"race-{turn}", f"new-{turn}", lost="does not exist")
        barrier.wait()
        code, output = call(root, "inspect", f"new-{turn}", "-f", "{{.Driver.URL}} {{.Driver.MachineName}}")
        if (code, output) != (0, f"{url} new-{turn}\n"):
            unexpected.append(output)
        own = call(root, "create", "-d", "none", "--url", url, f"own-{number}-{turn}")
        if own[0]:
            unexpected.append(own[1])
        if turn >= KEPT_OWN:
            own = call(root, "rm", "-y", f"own-{number}-{turn - KEPT_OWN}")
            if own[0]:
                unexpected.append(own[1])
        if turn % KEPT_EVERY:
            race("rm", "-y", f"new-{turn}", lost="does not exist")
        if call(root, "ls", "-q")[0]:
            unexpected.append("ls failed")
    results.put((won, unexpected))


def test_each_concurrent_command_succeeds_exactly_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(2), context.Queue()
    root = str(tmp_path / "store")
    workers = [context.Process(target=contend, args=(number, root, barrier, results)) for number in range(2)]
    for worker in workers:
        worker.start()
    outcomes = [results.get(timeout=600) for _ in workers]
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert [unexpected for _, unexpected in outcomes] == [[], []]
    totals = {name: sum(won[name] for won, _ in outcomes) for name in ("create", "rename", "rm")}
    assert totals == {"create": ROUNDS, "rename": ROUNDS, "rm": ROUNDS - ROUNDS // KEPT_EVERY}
    store = Store(tmp_path / "store")
    kept = [f"new-{turn}" for turn in range(0, ROUNDS, KEPT_EVERY)]
    own = [f"own-{number}-{turn}" for number in range(2) for turn in range(ROUNDS - KEPT_OWN, ROUNDS)]
    assert sorted(store.names()) == sorted(kept + own)
    for name in store.names():
        assert json.loads((store.machine_dir(name) / "config.json").read_text())["Name"] == name
    # There is one certificate authority, and no temporary file is left.
    assert sorted(path.name for path in (store.root / "certs").iterdir() if path.suffix == ".pem") == [
        "ca-key.pem",
        "ca.pem",
        "cert.pem",
        "key.pem",
    ]
    assert [path for path in store.root.rglob(".*") if path.name != ".lock" and path.suffix != ".lock"] == []
