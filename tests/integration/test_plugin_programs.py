"""Commands on machines of a plug-in program in Go: its options, the record, faults of the program, and its end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pymachine.driver import registry
from pymachine.driver.contract import BootRequest, Driver, State
from pymachine.driver.testing import defaults
from pymachine.hosts import create as creating
from pymachine.hosts.create import CreateRequest
from pymachine.hosts.host import Host, Hosts
from pymachine.store.store import Store
from pymachine.system import wait
from pymachine_driver_plugin import process, rpc, session
from pymachine_driver_plugin.driver import PluginDriver
from pymachine_driver_plugin.errors import PluginError
from pymachine_driver_plugin.finder import Finder
from pymachine_driver_plugin.programs import VARIABLE
from pymachine_driver_plugin.session import Session
from support import cli_calls, processes
from support.cli_calls import Call
from support.go_plugins import OTHERGO, EventLog, GoPlugins
from support.runner import PROGRAM

NO_IDENTITY = BootRequest(identity=lambda endpoint: b"", timeout=5)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, plugin_programs: GoPlugins, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The first folder on PATH, with the program of the driver ``othergo``."""
    found = tmp_path / "bin"
    found.mkdir()
    plugin_programs.linked(found, OTHERGO)
    monkeypatch.setenv("PATH", f"{found}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv(VARIABLE, raising=False)
    for cached in (registry.load, registry._find):
        cached.cache_clear()
    yield found
    session.close_all()
    for cached in (registry.load, registry._find):
        cached.cache_clear()


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EventLog:
    """The log of the programs that this process starts."""
    found = EventLog(tmp_path / "events")
    behave(monkeypatch, found)
    return found


def behave(monkeypatch: pytest.MonkeyPatch, log: EventLog, *faults: str) -> None:
    """Let the programs have faults from now on."""
    for name, value in log.environment(*faults).items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("MACHINE_STORAGE_PATH", str(tmp_path / "store"))
    return Store(tmp_path / "store")


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    return cli_calls.any_code(capsys)


def kind(name: str = "othergo") -> type[Driver]:
    return registry.load(name)


def reserved(store: Store, name: str, driver: str = "othergo", **changed: Any) -> Host:
    """Return a machine whose record is saved, but which is not created yet."""
    found = kind(driver)
    options = defaults(found, **changed)
    request = CreateRequest(name=name, driver_name=driver, options=options)
    return creating.reserve(Hosts(store), request, lambda ref, siblings: found.configure(ref, options, siblings))


def created(store: Store, name: str, driver: str = "othergo", **changed: Any) -> Host:
    """Return a new machine. It has no engine, so it is not provisioned."""
    host = reserved(store, name, driver, **changed)
    host.driver.create(NO_IDENTITY)
    host.save()
    creating.finish(host)
    host.driver.close()
    return host


class TestOptions:
    def test_the_help_of_create_shows_the_flags_of_the_program(self, call: Call) -> None:
        code, text, _ = call("create", "-d", "othergo", "--help")
        assert code == 0
        words = " ".join(text.split())
        assert "--othergo-ip-address TEXT Address of the machine [default: 127.0.0.1] [$OTHERGO_IP_ADDRESS]" in words
        assert "[default: made=by-othergo, for=tests]" in words
        assert "--othergo-slow Only kept in the configuration [$OTHERGO_SLOW]" in words

    def test_values_of_all_kinds_reach_the_program(self, store: Store) -> None:
        changed: dict[str, Any] = {"othergo_engine_port": 1, "othergo_label": ("a=ü", ""), "othergo_slow": True}
        config = reserved(store, "x", othergo_ssh_user="anna", **changed).record.driver
        assert (config["EnginePort"], config["Labels"], config["IsSlow"]) == (1, ["a=ü", ""], True)
        assert (config["SSHUser"], config["SwarmHost"]) == ("anna", "tcp://0.0.0.0:3376")

    def test_a_value_that_the_program_refuses_leaves_no_machine(self, call: Call, store: Store) -> None:
        code, _, err = call("create", "-d", "othergo", "--othergo-ip-address", "nowhere", "x")
        assert code == 1
        assert 'Error setting machine configuration from flags provided: --othergo-ip-address: "nowhere" is not' in err
        assert store.names() == []

    def test_shell_completion_and_doctor_know_the_driver(self, call: Call) -> None:
        assert "othergo" in registry.found_names()
        _, text, _ = call("doctor")
        assert any(line.startswith("ok") and line.endswith(OTHERGO) for line in text.splitlines()), text


class TestRecord:
    def test_it_is_what_the_program_returns(self, store: Store, log: EventLog) -> None:
        """The program refuses a configuration that is not as it wrote it, byte for byte apart from spaces."""
        host = created(store, "x")
        text = json.loads((store.machine_dir("x") / "config.json").read_text())
        assert list(text["Driver"])[:3] == ["IPAddress", "MachineName", "SSHUser"]
        assert list(text["Driver"])[-1] == "Nested"
        assert text["Driver"]["Serial"] == 2**53 + 1
        assert text["Driver"]["Nothing"] is None
        assert text["DriverProgram"] == ""
        assert host.state() is State.RUNNING
        assert log.calls().count("SetConfigRaw") == 2

    def test_a_field_that_docker_machine_dropped_stays_dropped(self, store: Store) -> None:
        created(store, "x")
        path = store.machine_dir("x") / "config.json"
        record = json.loads(path.read_text())
        rewritten = {key: record[key] for key in ("ConfigVersion", "DriverName", "HostOptions", "Name")}
        driver = {key: value for key, value in record["Driver"].items() if key != "Nothing"}
        path.write_text(json.dumps({**rewritten, "Driver": driver}))
        machine = store.load("x")
        assert "Nothing" not in machine.driver
        assert machine.driver_program == ""

    def test_the_program_that_was_named_is_recorded(
        self, store: Store, tmp_path: Path, plugin_programs: GoPlugins, monkeypatch: pytest.MonkeyPatch, call: Call
    ) -> None:
        (tmp_path / "opt").mkdir()
        program = plugin_programs.linked(tmp_path / "opt", "rancher-machine") / "rancher-machine"
        with monkeypatch.context() as patch:
            patch.setenv("PATH", "/usr/bin:/bin")
            patch.setenv(VARIABLE, str(program))
            created(store, "x")
        registry._find.cache_clear()
        assert store.load("x").driver_program == str(program)
        assert call("status", "x") == (0, "Running\n", "")
        program.unlink()
        registry._find.cache_clear()
        assert call("status", "x") == (0, "Running\n", "")  # by the program on PATH
        monkeypatch.setenv("PATH", "/usr/bin:/bin")
        registry._find.cache_clear()
        code, _, err = call("status", "x")
        assert code == 1
        assert f"the program {program}, which the machine was created with, cannot be used" in err
        monkeypatch.setenv(VARIABLE, str(plugin_programs.program("docker-machine")))
        registry._find.cache_clear()
        assert call("status", "x") == (0, "Running\n", "")

    @pytest.mark.parametrize("driver", ["othergo", "qemu"])
    def test_a_record_is_no_permission_to_run_a_program(
        self, driver: str, store: Store, monkeypatch: pytest.MonkeyPatch, call: Call, log: EventLog
    ) -> None:
        """The record, and a program in the machine's folder, may come from another computer."""
        created(store, "x")
        program = store.machine_dir("x") / "docker-machine"
        program.write_text(f"#!/bin/sh\necho run >> {log.path}\n")
        program.chmod(0o700)
        machine = store.load("x")
        machine.driver_name, machine.driver_program = driver, str(program)
        store.save(machine)
        monkeypatch.setenv("PATH", "/usr/bin:/bin")
        log.path.unlink()
        code, _, err = call("status", "x")
        assert code == 1
        assert f"{program}, which the machine was created with, cannot be used" in err
        assert call("ls")[0] == 0
        assert not log.path.exists()

    def test_a_machine_stays_with_the_kind_of_program_that_made_it(
        self, store: Store, folder: Path, plugin_programs: GoPlugins
    ) -> None:
        (folder / OTHERGO).unlink()
        plugin_programs.linked(folder, "rancher-machine")
        created(store, "x")
        assert store.load("x").driver_program == "rancher-machine"
        plugin_programs.linked(folder, "docker-machine")
        for cached in (registry.load, registry._find):
            cached.cache_clear()
        driver = Hosts(store).open("x").driver
        assert isinstance(driver, PluginDriver)
        assert driver.executable.label == "rancher-machine"

    def test_secrets_are_only_where_the_program_keeps_them(self, store: Store, call: Call) -> None:
        created(store, "x")
        extra = json.loads((store.machine_dir("x") / "pymachine.json").read_text())
        assert extra["Driver"] == {"IPAddress": "127.0.0.1"}

    def test_the_named_program_has_to_have_the_driver(self, plugin_programs: GoPlugins, call: Call) -> None:
        program = str(plugin_programs.program("docker-machine"))
        code, _, err = call("create", "-d", "vultr", "--plugin-program", program, "x")
        assert (code, err.splitlines()[0]) == (1, f'{program} has no driver "vultr"')
        code, _, err = call("create", "-d", "qemu", "--plugin-program", program, "x")
        assert code == 1
        assert "--plugin-program: the driver qemu needs no program" in err

    def test_a_driver_that_was_given_up_is_recorded_as_its_successor(
        self, store: Store, folder: Path, plugin_programs: GoPlugins
    ) -> None:
        plugin_programs.linked(folder, "docker-machine-driver-vmware")
        assert reserved(store, "x", "vmwarefusion").record.driver_name == "vmware"


class TestOneProgramACommand:
    def test_a_query_starts_one_and_ends_it(self, store: Store, log: EventLog) -> None:
        created(store, "x")
        log.path.unlink()
        for words in (["status", "x"], ["ip", "x"], ["url", "x"]):
            done = subprocess.run([str(PROGRAM), *words], capture_output=True, text=True, timeout=60, check=True)
            assert done.stdout
        assert log.starts() == ["othergo"] * 3
        assert [event.words for event in log.events("end")] == [("close",)] * 3

    def test_commands_that_need_no_answer_of_the_machine_start_none(
        self, store: Store, log: EventLog, call: Call
    ) -> None:
        created(store, "x")
        log.path.unlink()
        assert call("ls", "-q") == (0, "x\n", "")
        assert call("inspect", "-f", "{{.DriverName}}", "x") == (0, "othergo\n", "")
        assert log.starts() == []

    def test_create_goes_on_with_the_program_that_has_the_flags(self, store: Store, log: EventLog) -> None:
        """Programs keep values of flags that are not part of their configuration."""
        created(store, "x")
        assert log.starts() == ["othergo"]
        methods = [method for method in log.calls() if method not in ("GetVersion", "Close")]
        assert methods == [
            *("GetCreateFlags", "SetConfigRaw", "SetConfigFromFlags", "GetConfigRaw", "Create", "GetConfigRaw"),
            "GetState",
        ]

    def test_a_driver_that_is_built_in_is_not_started_twice(
        self, store: Store, folder: Path, plugin_programs: GoPlugins, log: EventLog, call: Call
    ) -> None:
        """Whether a program has the driver is found out by starting it."""
        (folder / OTHERGO).unlink()
        plugin_programs.linked(folder, "docker-machine")
        created(store, "x")
        session.close_all()
        for cached in (registry.load, registry._find):
            cached.cache_clear()
        log.path.unlink()
        assert call("status", "x") == (0, "Running\n", "")
        assert log.starts() == ["othergo"]

    def test_a_broken_docker_machine_is_not_in_the_way(self, folder: Path, call: Call) -> None:
        program = folder / "docker-machine"
        program.write_text("#!/bin/sh\necho Usage: docker-machine\n")
        program.chmod(0o755)
        code, _, err = call("create", "-d", "qemuu", "x")
        assert code == 1
        assert err.startswith('Driver "qemuu" not found.')

    def test_several_machines_each_have_a_program(self, store: Store, log: EventLog) -> None:
        run = subprocess.run(
            [str(PROGRAM), "create", "-d", "othergo", "a", "b"],
            env={**os.environ, "PYMACHINE_BOOT_TIMEOUT": "1"},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert run.returncode == 1  # nothing answers over SSH
        assert len(log.created()) == 2
        assert log.remaining() == []
        assert store.names() == []
        ends = [event.words[0] for event in log.events("end")]
        assert ends == ["close"] * len(log.starts())

    def test_a_thousand_calls(self, store: Store, log: EventLog) -> None:
        driver = created(store, "x").driver
        assert {driver.state() for _ in range(1000)} == {State.RUNNING}
        driver.close()
        assert log.calls().count("GetState") == 1001


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the time-outs."""
    monkeypatch.setattr(process, "ADDRESS_SECONDS", 1.0)
    monkeypatch.setattr(session, "QUERY_SECONDS", 1.0)
    monkeypatch.setattr(rpc, "SILENT_SECONDS", 2.0)


class TestFaults:
    @pytest.mark.parametrize(
        ("fault", "says"),
        [
            ("address=never", "printed no address within 1 seconds"),
            ("address=rubbish", "printed 'Usage: \ufffd\\x1b[31m this is not an address' instead of an address"),
            ("address=gone", "is no plug-in program of docker-machine: no connection to 127.0.0.1:1"),
            ("connect=hang", "is no plug-in program of docker-machine: it does not answer as an RPC server"),
            ("version=2", "has version 2 of the plug-in protocol, expected 1"),
            (
                "service=OtherService",
                "is no plug-in program of docker-machine: rpc: can't find service RPCServerDriver",
            ),
            ("hang=GetVersion", "does not work: RPCServerDriver.GetVersion did not end within 1 seconds"),
            ("die=GetCreateFlags", "failed with exit code 3 during GetCreateFlags"),
        ],
    )
    @pytest.mark.usefixtures("impatient")
    def test_a_program_that_cannot_be_used(
        self, fault: str, says: str, log: EventLog, monkeypatch: pytest.MonkeyPatch, store: Store
    ) -> None:
        behave(monkeypatch, log, fault)
        with pytest.raises(PluginError) as raised:
            kind().options()
        assert says in raised.value.brief
        assert not processes_of(log)

    @pytest.mark.parametrize("fault", ["address=late:0.5", "service=RpcServerDriver", "noise", "slow=GetConfigRaw:0.3"])
    @pytest.mark.usefixtures("impatient")
    def test_odd_programs_that_can_be_used(
        self, fault: str, log: EventLog, monkeypatch: pytest.MonkeyPatch, store: Store
    ) -> None:
        behave(monkeypatch, log, fault)
        host = created(store, "x")
        assert host.state() is State.RUNNING
        host.driver.stop(1.0)
        assert host.state() is State.STOPPED

    def test_an_error_of_a_method_is_shown_as_it_is(
        self, log: EventLog, monkeypatch: pytest.MonkeyPatch, store: Store, call: Call
    ) -> None:
        created(store, "x")
        behave(monkeypatch, log, "error=GetState")
        code, _, err = call("status", "x")
        assert code == 1
        assert "GetState was refused by the test" in err

    def test_a_program_that_dies_says_why(
        self, log: EventLog, monkeypatch: pytest.MonkeyPatch, store: Store, call: Call
    ) -> None:
        created(store, "x")
        behave(monkeypatch, log, "die=GetState")
        code, _, err = call("status", "x")
        assert code == 1
        assert f"{OTHERGO} failed with exit code 3 during GetState" in err
        assert "this program ends, as a panic would end it" in err
        assert "Traceback" not in err

    @pytest.mark.usefixtures("impatient")
    def test_a_program_that_hangs_is_ended(self, log: EventLog, monkeypatch: pytest.MonkeyPatch, store: Store) -> None:
        created(store, "x")
        behave(monkeypatch, log, "hang=GetState")
        driver = Hosts(store).open("x").driver
        with pytest.raises(PluginError, match="GetState did not end within 1 seconds"):
            driver.state()
        assert not processes_of(log)

    def test_a_hanging_machine_holds_up_no_other_in_a_list(
        self, log: EventLog, monkeypatch: pytest.MonkeyPatch, store: Store
    ) -> None:
        for number in range(4):
            created(store, f"m{number}")
        behave(monkeypatch, log, "hang=GetState@m1")
        run = subprocess.run(
            [str(PROGRAM), "ls", "-t", "3", "-f", "{{.Name}} {{.State}}"],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        assert run.stdout.splitlines() == ["m0 Running", "m1 Timeout", "m2 Running", "m3 Running"]
        wait.until(lambda: not processes_of(log), deadline=15, what="the programs to end")

    def test_programs_that_do_not_end_delay_a_list_only_once(
        self, log: EventLog, monkeypatch: pytest.MonkeyPatch, store: Store
    ) -> None:
        for number in range(6):
            created(store, f"m{number}")
        behave(monkeypatch, log, "hang=*")
        began = time.monotonic()
        subprocess.run([str(PROGRAM), "ls", "-t", "1"], capture_output=True, timeout=60, check=True)
        assert time.monotonic() - began < 6 * process.END_SECONDS
        wait.until(lambda: not processes_of(log), deadline=15, what="the programs to end")

    def test_a_program_that_prints_no_address_is_ended_with_pymachine(
        self, log: EventLog, monkeypatch: pytest.MonkeyPatch, store: Store
    ) -> None:
        """It has no heartbeat yet, so it would not end without it."""
        created(store, "x")
        behave(monkeypatch, log, "address=never")
        subprocess.run([str(PROGRAM), "ls", "-t", "1"], capture_output=True, timeout=60, check=True)
        assert not processes_of(log)

    def test_an_impossible_answer_is_refused(self, store: Store) -> None:
        with pytest.raises(PluginError, match=r"wrong configuration: .* Driver.SSHUser is '-oProxyCommand=x'"):
            created(store, "x", othergo_ssh_user="-oProxyCommand=x")
        assert store.names() == []


class TestFailedCreates:
    @pytest.mark.parametrize("fault", ["error=Create", "error=PreCreateCheck", "die=PreCreateCheck", "slow=Create:0"])
    def test_nothing_is_left(
        self, fault: str, log: EventLog, monkeypatch: pytest.MonkeyPatch, store: Store, call: Call
    ) -> None:
        """With no fault, the machine does not answer over SSH."""
        monkeypatch.setenv("PYMACHINE_BOOT_TIMEOUT", "1")
        behave(monkeypatch, log, fault)
        code, out, err = call("create", "-d", "othergo", "x")
        assert code == (3 if "PreCreateCheck" in fault else 1)
        assert store.names() == [], (out, err)
        assert log.remaining() == []

    def test_what_the_program_says_is_shown_and_what_it_logs_with_debug(self, store: Store, log: EventLog) -> None:
        words = ["create", "-d", "othergo", "x"]
        environment = {**os.environ, "PYMACHINE_BOOT_TIMEOUT": "1"}
        for debug in (False, True):
            run = subprocess.run(
                [str(PROGRAM), *(["--debug"] if debug else []), *words],
                env=environment,
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            assert "(x) Creating an instance without a machine..." in run.stdout
            assert (f"{OTHERGO}: store path: {store.root}" in run.stderr) is debug

    def test_the_record_stays_if_only_the_program_knew_what_it_had_made(
        self, log: EventLog, monkeypatch: pytest.MonkeyPatch, store: Store, call: Call
    ) -> None:
        behave(monkeypatch, log, "die=Create")
        code, out, err = call("create", "-d", "othergo", "x")
        assert code == 1
        assert f"{OTHERGO} failed with exit code 3 during Create" in err
        assert "Resources that it had made may still exist" in out
        assert "Remove it with: pymachine rm x" in out
        assert store.names() == ["x"]
        behave(monkeypatch, log)
        assert call("rm", "-y", "x")[0] == 0

    def test_a_failed_removal_keeps_what_has_to_be_removed(
        self, log: EventLog, monkeypatch: pytest.MonkeyPatch, store: Store, call: Call
    ) -> None:
        behave(monkeypatch, log, "error=Create", "error=Remove")
        code, out, _ = call("create", "-d", "othergo", "x")
        assert code == 1
        assert "Remove it with: pymachine rm x" in out
        assert store.load("x").driver["InstanceID"] in log.created()
        behave(monkeypatch, log)
        assert call("rm", "-y", "x")[0] == 0
        assert log.remaining() == []

    def test_an_interrupted_create_removes_what_it_has_made(self, log: EventLog, store: Store) -> None:
        """The program is given the time to end what it does, since only it knows what it has made."""
        environment = {**os.environ, **log.environment("slow=Create:3")}
        with processes.started(
            [str(PROGRAM), "create", "-d", "othergo", "x"], env=environment, text=True, stdout=subprocess.PIPE
        ) as run:
            wait.until(log.created, deadline=30, what="the instance to exist")
            run.send_signal(signal.SIGINT)
            out, _ = run.communicate(timeout=60)
        assert run.returncode == 130
        assert "Interrupted." in out
        assert log.remaining() == []
        assert store.names() == []

    def test_a_create_that_does_not_end_is_killed_with_what_it_has_made_so_far(
        self, log: EventLog, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        behave(monkeypatch, log, "slow=Create:60")
        monkeypatch.setattr("pymachine_driver_plugin.driver.INTERRUPTED_SECONDS", 0.5)
        host = reserved(store, "x")
        previous = signal.signal(signal.SIGALRM, _interrupt)
        alarm = threading.Thread(target=_alarm_once_created, args=(log,))
        alarm.start()
        try:
            with pytest.raises(KeyboardInterrupt):
                host.driver.create(NO_IDENTITY)
        finally:
            signal.signal(signal.SIGALRM, previous)
            alarm.join()
        assert host.record.driver["InstanceID"] in log.created()
        host.driver.remove()
        assert log.remaining() == []
        assert len(log.starts()) == 2


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _alarm_once_created(log: EventLog) -> None:
    wait.until(log.created, deadline=30, what="the instance to exist")
    os.kill(os.getpid(), signal.SIGALRM)


def processes_of(log: EventLog) -> list[int]:
    """Return the programs that still run."""
    return [event.pid for event in log.events("start") if _has_command_line(event.pid)]


def _has_command_line(pid: int) -> bool:
    """Return whether the process runs: a zombie has no command line."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes() != b""
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_an_idle_program_lives_as_long_as_its_session(plugin_programs: GoPlugins, log: EventLog) -> None:
    """docker-machine's programs end after ten seconds without a call."""
    found = Finder().find("othergo", "")
    assert found is not None
    assert issubclass(found, PluginDriver)
    opened = Session(found.executable)
    time.sleep(11.0)
    assert opened.number("GetSSHPort") == 22
    opened.close()
    assert [event.words for event in log.events("end")] == [("close",)]
    assert not processes_of(log)


def test_a_program_whose_client_was_killed_ends(log: EventLog, store: Store) -> None:
    environment = {**os.environ, **log.environment("hang=Create")}
    with processes.started([str(PROGRAM), "create", "-d", "othergo", "x"], env=environment) as run:
        wait.until(lambda: "Create" in log.calls(), deadline=30, what="the call")
        run.kill()
    wait.until(lambda: not processes_of(log), deadline=20, what="the program to end")
    assert [event.words for event in log.events("end")] == [("heartbeat",)]
