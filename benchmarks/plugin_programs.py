"""Measure commands on machines of a plug-in program, compared with the calls that they make of the program.

The program is the tests' own, in Go. Its machines are files, so that nothing but the commands and the protocol takes
time. Each command runs once with the program's log. The calls in that log are then made directly, by sessions in this
process. docker-machine itself is not measured.

    python benchmarks/plugin_programs.py [--rounds 20] [--write docs/explanation/benchmarks.md]
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench import PROGRAM, Bench, Cost

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from pymachine.driver import registry
from pymachine.driver.contract import BootRequest
from pymachine.hosts import create as creating
from pymachine.hosts.create import CreateRequest
from pymachine.hosts.host import Hosts
from pymachine.store.store import Store
from pymachine_driver_plugin import flags
from pymachine_driver_plugin.process import PluginProcess
from pymachine_driver_plugin.programs import PREFIX, VARIABLE, Program
from pymachine_driver_plugin.session import Session
from support import go_plugins
from support.go_plugins import EventLog

DRIVER = "othergo"
NAMES = [f"m{number}" for number in range(10)]
TABLE = re.compile(r"(?<=<!-- plugin programs -->\n).*?(?=<!-- end of plugin programs -->)", re.DOTALL)
LONGEST_CREATE_SECONDS = 60.0
_OF_EACH_SESSION = ("GetVersion", "Heartbeat", "Close")


class Machines:
    """Machines of the program in the store of a `Bench`."""

    def __init__(self, bench: Bench, program: Path) -> None:
        self.program = Program(program, DRIVER)
        self.store = Store(bench.folder / "store")
        self.log = EventLog(bench.folder / "events")
        self._bench = bench
        self._hosts = Hosts(self.store)
        self._hosts.ensure_authority()

    def create(self, name: str) -> None:
        """Create a machine without an SSH server and an engine."""
        kind = registry.load(DRIVER)
        request = CreateRequest(name=name, driver_name=DRIVER, options={})
        host = creating.reserve(self._hosts, request, lambda ref, siblings: kind.configure(ref, {}, siblings))
        host.driver.create(BootRequest(identity=lambda _: b""))
        host.save()
        creating.finish(host)
        host.driver.close()

    def calls(self, *words: str) -> list[str]:
        """Return the methods that a command calls for each of its machines, except for those of each session."""
        self.log.path.unlink(missing_ok=True)
        self._bench.call(*words, env=self.log.environment())
        by_process: dict[int, list[str]] = {}
        for event in self.log.events("call"):
            by_process.setdefault(event.pid, []).append(event.words[0])
        found = {tuple(method for method in each if method not in _OF_EACH_SESSION) for each in by_process.values()}
        if len(found) != 1:
            sys.exit(f"{' '.join(words)} calls {found}, expected the same methods for each machine")
        return list(found.pop())

    def call_directly(self, name: str, methods: Sequence[str]) -> None:
        """Call methods for a machine in one session, from the start of the program to its end."""
        session = Session(self.program)
        for method in methods:
            if method == "SetConfigRaw":
                session.set_config(self.store.load(name).driver)
            elif method == "GetSSHPort":
                session.number(method)
            elif method == "GetState":
                session.state()
            else:
                session.text(method)
        session.close()


def start(bench: Bench, machines: Machines) -> float:
    """Measure the program's start, a command without a program, and the interpreter, whose seconds are returned."""
    interpreter = bench.median(bench.rounds, lambda: bench.call("-c", "pass", program=sys.executable)[0]).wall
    bench.row("`python -c pass`", _ms(interpreter), "how fast this host is")
    costs = []
    for _ in range(bench.rounds):
        began = time.perf_counter()
        process = PluginProcess(machines.program)
        process.address()
        costs.append(Cost(time.perf_counter() - began, 0.0))
        process.kill()
    bench.row("start of the program", _ms(bench.median(len(costs), costs.pop).wall), "until its address is read")
    bench.call("create", "-d", "none", "--url", "tcp://127.0.0.1:1", "without")
    without = bench.median(bench.rounds, lambda: bench.call("ip", "without")[0])
    bench.call("rm", "-y", "without")
    bench.row("`pymachine ip`, driver `none`", _ms(without.wall), f"{_ms(without.cpu)} CPU; without a program")
    return interpreter


def query(bench: Bench, machines: Machines, command: str, names: Sequence[str], interpreter: float) -> None:
    """Measure a command that asks about machines, and its calls made directly, in a thread for each machine."""
    words = (command,) if command == "ls" else (command, *names)
    calls = machines.calls(*words)

    def directly() -> Cost:
        began = time.perf_counter()
        with ThreadPoolExecutor(len(names)) as pool:
            list(pool.map(lambda name: machines.call_directly(name, calls), names))
        return Cost(time.perf_counter() - began, 0.0)

    direct = bench.median(bench.rounds, directly).wall
    ours = bench.median(bench.rounds, lambda: bench.call(*words)[0])
    several = f", {len(names)} machines" if len(names) > 1 else ""
    bench.row(f"calls of `{command}`{several}", _ms(direct), "in parallel" if several else ", ".join(calls))
    note = f"{_ms(ours.cpu)} CPU; {_ratios(ours.wall, direct, interpreter)}"
    bench.row(f"`pymachine {command}`{several}", _ms(ours.wall), note)


def create(bench: Bench, machines: Machines, interpreter: float) -> None:
    """Measure `create` until the program has created the machine. It then fails, since no SSH server answers."""
    direct = bench.median(bench.rounds, lambda: _create_directly(machines)).wall
    ours = bench.median(bench.rounds, lambda: _create(bench, machines)).wall
    bench.row("calls of `create`", _ms(direct), "until the end of Create")
    bench.row("`pymachine create`", _ms(ours), f"the same; {_ratios(ours, direct, interpreter)}")


def _create_directly(machines: Machines) -> Cost:
    began = time.perf_counter()
    session = Session(machines.program)
    options = flags.options(session.flags())
    session.set_config({"MachineName": "direct", "StorePath": str(machines.store.root)})
    session.set_flags(flags.values(options, {}))
    session.config()
    session.act("PreCreateCheck")
    session.act("Create")
    cost = Cost(time.perf_counter() - began, 0.0)
    session.act("Remove")
    session.close()
    return cost


def _create(bench: Bench, machines: Machines) -> Cost:
    machines.log.path.unlink(missing_ok=True)
    words = [str(PROGRAM), "create", "-d", DRIVER, "new"]
    environment = {**bench.env, **machines.log.environment(), "PYMACHINE_BOOT_TIMEOUT": "1"}
    began = time.perf_counter()
    with subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as command:
        while not machines.log.events("create-ended"):
            if command.poll() is not None or time.perf_counter() - began > LONGEST_CREATE_SECONDS:
                command.kill()
                sys.exit("create has failed, or hangs, before the program has created the machine")
            time.sleep(0.001)
        wall = time.perf_counter() - began
    if machines.store.exists("new"):
        sys.exit('create has not removed "new", whose SSH server does not exist')
    return Cost(wall, 0.0)


def _ratios(ours: float, direct: float, interpreter: float) -> str:
    return f"{ours / direct:.1f} times the calls, {ours / interpreter:.1f} times `python -c pass`"


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms"


def main() -> None:
    """Measure everything and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--write", type=Path, default=Path(__file__).parents[1] / "docs/explanation/benchmarks.md")
    options = parser.parse_args()
    if not TABLE.search(options.write.read_text()):
        sys.exit(f"{options.write} has no place for the table")
    with tempfile.TemporaryDirectory(prefix="pymachine-bench-") as folder:
        built = go_plugins.built(Path(folder) / "go").folder
        os.environ["PATH"] = f"{built}{os.pathsep}{os.environ['PATH']}"
        os.environ.pop(VARIABLE, None)
        bench = Bench(Path(folder), options.rounds)
        machines = Machines(bench, built / f"{PREFIX}{DRIVER}")
        condition = f" (load before: {os.getloadavg()[0]:.1f})"
        interpreter = start(bench, machines)
        machines.create(NAMES[0])
        for command in ("ip", "status", "ls"):
            query(bench, machines, command, NAMES[:1], interpreter)
        for name in NAMES[1:]:
            machines.create(name)
        query(bench, machines, "ls", NAMES, interpreter)
        create(bench, machines, interpreter)
        table = bench.document(("go", "version"), condition)
    options.write.write_text(TABLE.sub(lambda _: table, options.write.read_text()))
    print(f"written to {options.write}")


if __name__ == "__main__":
    main()
