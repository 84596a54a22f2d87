"""The commands on a store of real records, with the driver `none` and a stand-in engine on the loopback."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from pymachine.cli import listing, ls, main as main_module, tables
from pymachine.driver.contract import State
from pymachine.hosts import lifecycle
from pymachine.hosts.host import Hosts
from pymachine.hosts.remove import remove
from pymachine.store.store import Store
from support import fake_engine, processes

NOT_THERE = (
    'Docker machine "{}" does not exist. Use "pymachine ls" to list machines. Use "pymachine create" to add a new one.'
)
NO_DEFAULT = 'Error: No machine name(s) specified and no "default" machine exists'


class Outcome:
    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


Run = Callable[..., Outcome]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    root = tmp_path / "store"
    monkeypatch.setenv("MACHINE_STORAGE_PATH", str(root))
    for name in ("MACHINE_DEBUG", "DOCKER_HOST"):
        monkeypatch.delenv(name, raising=False)
    return Store(root)


@pytest.fixture
def run(store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.setattr(main_module.signals, "exit_on_termination", lambda: None)

    def call(*words: str) -> Outcome:
        code = main_module.main(["pymachine", *words])
        return Outcome(code, *capsys.readouterr())

    return call


@pytest.fixture
def port(store: Store) -> Iterator[int]:
    """The port of the engine of machine `intro`."""
    with fake_engine.machine(store.root) as number:
        yield number


# -- names -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", "../x", "x/y", ".", "..", "a b", "-", "ü", "x" * 300, "a\n"])
def test_create_refuses_a_name_that_is_not_a_host_name(run: Run, store: Store, name: str) -> None:
    outcome = run("create", "-d", "none", "--url", "tcp://127.0.0.1:1", name)
    assert outcome.code == 1
    assert outcome.err.startswith("Error creating machine: Invalid hostname specified.")
    assert store.names() == []


def test_create_refuses_a_flag_in_the_place_of_the_name(run: Run) -> None:
    assert run("create", "-rf").err == "flag provided but not defined: -rf\n"
    assert run("create", "-d", "none", "--url", "tcp://h:1", "--", "-rf").err.startswith("Error creating machine: Inv")


def test_create_refuses_an_existing_name(run: Run, port: int, store: Store) -> None:
    before = (store.machine_dir("intro") / "config.json").read_bytes()
    outcome = run("create", "-d", "none", "--url", "tcp://127.0.0.1:1", "intro")
    assert (outcome.code, outcome.err.splitlines()[0]) == (1, 'Docker machine "intro" already exists')
    assert (store.machine_dir("intro") / "config.json").read_bytes() == before


@pytest.mark.parametrize(
    "command", ["config", "env", "inspect", "ip", "kill", "restart", "ssh", "start", "status", "stop", "url", "version"]
)
@pytest.mark.parametrize("name", ["nosuch", "../x", "", "x" * 300])
def test_commands_refuse_unknown_machines(run: Run, command: str, name: str) -> None:
    outcome = run(command, name)
    assert (outcome.code, outcome.out) == (1, "")
    assert NOT_THERE.format(name) in outcome.err


@pytest.mark.parametrize(
    "command", ["config", "env", "inspect", "ip", "kill", "restart", "ssh", "start", "status", "url"]
)
def test_without_a_name_or_a_default_machine_commands_fail(run: Run, command: str) -> None:
    outcome = run(command)
    assert (outcome.code, outcome.out) == (1, "")
    assert outcome.err.splitlines()[0] == NO_DEFAULT


def test_without_a_name_commands_use_the_machine_default(run: Run, store: Store) -> None:
    fake_engine.record(store, "default", 1)
    assert run("status").out == "Running\n"
    assert run("ip").out == "127.0.0.1\n"


@pytest.mark.parametrize("command", ["status", "url", "env", "config", "version", "logs"])
def test_env_and_config_refuse_a_second_name(run: Run, command: str) -> None:
    """A shell may evaluate stdout, so the help must not be printed there."""
    outcome = run(command, "a", "b")
    assert (outcome.code, outcome.out) == (1, "")
    assert outcome.err == f"Error: Expected one machine name as an argument\nHint: See: pymachine {command} --help\n"


def test_inspect_prints_its_help_on_stdout_as_docker_machine_does(run: Run) -> None:
    outcome = run("inspect", "a", "b")
    assert outcome.code == 1
    assert outcome.out.startswith("Usage: pymachine inspect ")
    assert outcome.err == "Error: Expected one machine name as an argument\n"


@pytest.mark.parametrize("command", ["env", "config"])
def test_errors_of_commands_meant_for_eval_leave_stdout_empty(run: Run, command: str) -> None:
    outcome = run(command, "--bogus", "intro")
    assert (outcome.code, outcome.out) == (1, "")
    assert outcome.err.splitlines()[0] == "flag provided but not defined: -bogus"


@pytest.mark.parametrize("words", [["provision"], ["completion", "bash"], ["doctor"]])
def test_too_many_arguments_print_no_help(run: Run, words: list[str]) -> None:
    assert run(*words, "a", "b").out == ""


# -- create ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["-d", "bogus", "x"], 'Driver "bogus" not found. Do you have the plugin binary "docker-machine-driver-bogus"'),
        (["-d", "none", "x"], "Error setting machine configuration from flags provided: --url option is required"),
        (["-d", "none", "--qemu-memory", "1", "x"], "flag provided but not defined: -qemu-memory"),
        (["--swarm", "x"], "--swarm is not supported"),
    ],
)
def test_create_refuses_invalid_options(run: Run, store: Store, words: Sequence[str], text: str) -> None:
    outcome = run("create", *words)
    assert outcome.code == 1
    assert outcome.err.startswith(text)
    assert store.names() == []


def test_create_needs_a_name(run: Run) -> None:
    outcome = run("create")
    assert outcome.code == 1
    assert outcome.out.startswith("Usage: pymachine create ")
    assert outcome.err == "Error: No machine name specified\n"


def test_create_help_sorts_the_drivers_flags(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "--qemu-memory" in run("create", "--help").out
    assert "--url" in run("create", "--driver=none", "--help").out
    monkeypatch.setenv("MACHINE_DRIVER", "none")
    text = run("create", "--help").out
    assert "--qemu-memory" not in text
    flags = [line.split()[0].rstrip(",") for line in text.splitlines() if line.startswith("  --")]
    assert flags == sorted(flags)


def test_create_flags_are_saved_in_the_record(run: Run, store: Store, port: int) -> None:
    words = ["--engine-label", "a=b", "--engine-label=c=d", "--engine-opt", "log-driver=none", "--tls-san", "x.y"]
    outcome = run("create", "-d", "none", f"--url=tcp://127.0.0.1:{port}", *words, "second")
    assert outcome.code == 0, outcome.err
    assert outcome.out.endswith("run: pymachine env second\n")
    machine = store.load("second")
    assert machine.engine.labels == ["a=b", "c=d"]
    assert machine.engine.arbitrary_flags == ["log-driver=none"]
    assert machine.auth.server_cert_sans == ["x.y"]


# -- reading -----------------------------------------------------------------------------------------------------


def test_ip_url_status_version_config(run: Run, store: Store, port: int) -> None:
    folder = store.machine_dir("intro")
    assert run("ip", "intro").out == "127.0.0.1\n"
    assert run("url", "intro").out == f"tcp://127.0.0.1:{port}\n"
    assert run("status", "intro").out == "Running\n"
    assert run("version", "intro").out == f"{fake_engine.VERSION}\n"
    assert run("config", "intro").out.splitlines() == [
        "--tlsverify",
        f'--tlscacert="{folder}/ca.pem"',
        f'--tlscert="{folder}/cert.pem"',
        f'--tlskey="{folder}/key.pem"',
        f"-H=tcp://127.0.0.1:{port}",
    ]


def test_ip_prints_addresses_in_the_order_of_the_names(run: Run, store: Store) -> None:
    fake_engine.record(store, "a", 1)
    fake_engine.record(store, "b", 2)
    assert run("ip", "b", "a").out == "127.0.0.1\n127.0.0.1\n"
    refused = run("ip", "a", "nosuch")
    assert (refused.code, refused.out) == (1, "")


@pytest.mark.parametrize("flag", ["-y", "-f"])
def test_rm_reports_in_the_order_of_the_names_whichever_ends_first(
    run: Run, store: Store, monkeypatch: pytest.MonkeyPatch, flag: str
) -> None:
    """Here "a" cannot be removed before "c" is gone."""
    for name in ("a", "c"):
        fake_engine.record(store, name, 1)
    gone = threading.Event()

    def slow(hosts: Hosts, name: str, *, restore: bool = False) -> None:
        if name == "a":
            assert gone.wait(60)
        remove(hosts, name, restore=restore)
        gone.set()

    monkeypatch.setattr("pymachine.cli.rm.remove", slow)
    outcome = run("rm", flag, "a", "nosuch", "c")
    assert outcome.out.splitlines()[2:] == ["Successfully removed a", "Successfully removed c"]
    assert outcome.err.splitlines()[0].startswith('Error removing host "nosuch": ')


@pytest.mark.parametrize("command", ["env", "config"])
def test_env_and_config_print_nothing_for_a_machine_that_does_not_answer(run: Run, store: Store, command: str) -> None:
    fake_engine.record(store, "dead", 1)
    outcome = run(command, "dead")
    assert (outcome.code, outcome.out) == (1, "")


@pytest.mark.parametrize(
    ("command", "text"),
    [
        ("env", "Error checking TLS connection: Host is not running"),
        ("config", "Error running connection boilerplate: Host is not running"),
        ("ip", "Error getting IP address: Host is not running"),
        ("url", "Host is not running"),
    ],
)
def test_commands_that_need_a_running_machine_refuse_a_stopped_one(
    run: Run, store: Store, monkeypatch: pytest.MonkeyPatch, command: str, text: str
) -> None:
    fake_engine.record(store, "off", 1)
    driver = type(Hosts(store).open("off").driver)
    monkeypatch.setattr(driver, "state", lambda self: State.STOPPED)
    outcome = run(command, "off")
    assert (outcome.code, outcome.out) == (1, "")
    assert outcome.err.splitlines()[0] == text
    assert run("status", "off").out == "Stopped\n"


def test_inspect_prints_json_or_a_template(run: Run, store: Store, port: int) -> None:
    assert json.loads(run("inspect", "intro").out)["Driver"]["IPAddress"] == "127.0.0.1"
    assert run("inspect", "intro").out.startswith('{\n    "ConfigVersion": 3,\n')
    asked = run("inspect", "intro", "-f", "{{.HostOptions.AuthOptions.StorePath}}")
    assert asked.out == f"{store.machine_dir('intro')}\n"
    assert run("inspect", "-f", "{{.Nope}}", "intro").out == "<no value>\n"
    broken = run("inspect", "-f", "{{", "intro")
    assert (broken.code, broken.out) == (1, "")
    assert broken.err.startswith("template parsing error: ")


def test_active_names_the_machine_of_docker_host(run: Run, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    none = run("active")
    assert (none.code, none.err.splitlines()[0]) == (1, "No active host found")
    monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{port}")
    assert run("active").out == "intro\n"
    assert run("active", "x").err == "Error: Too many arguments given\n"


def test_active_reports_a_timeout(run: Run, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_engine.record(store, "slow", 1)
    hold = threading.Event()
    driver = type(Hosts(store).open("slow").driver)
    monkeypatch.setattr(driver, "state", lambda self: hold.wait(30) and State.RUNNING)
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:5")
    outcome = run("active", "-t", "0")
    hold.set()
    assert (outcome.code, outcome.err) == (1, "Error getting active host: timeout\n")


def test_a_swarm_master_is_active_by_its_swarm_port(run: Run, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    master = fake_engine.record(store, "master", 1)
    master.swarm.master = True
    store.save(master)
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:3376")
    assert run("active").out == "master\n"


# -- ls ----------------------------------------------------------------------------------------------------------


def test_ls_lists_filters_and_formats(run: Run, store: Store, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_engine.record(store, "host10", 1)
    fake_engine.record(store, "Host2", 1, labels=("a=b",))
    (store.root / "machines" / "broken").mkdir()
    (store.root / "machines" / "broken" / "config.json").write_text("{")
    monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{port}")
    lines = run("ls").out.splitlines()
    assert lines[0].split() == ["NAME", "ACTIVE", "DRIVER", "STATE", "URL", "SWARM", "DOCKER", "ERRORS"]
    assert [line.split()[0] for line in lines[1:]] == ["broken", "Host2", "host10", "intro"]
    assert lines[1].split()[:5] == ["broken", "not", "found", "Error", "Error"]
    assert lines[4].split() == ["intro", "*", "none", "Running", f"tcp://127.0.0.1:{port}", f"v{fake_engine.VERSION}"]
    assert lines[2].split()[5] == "Unknown"
    assert run("ls", "-q").out.split() == run("ls", "-q", "nosuch").out.split() == ["Host2", "host10", "intro"]
    assert run("ls", "-q", "--filter", "label=a=b").out.split() == ["Host2"]
    assert run("ls", "-q", "--filter", "name=^h", "--filter", "name=ost2", "--filter", "state=running").out.split() == [
        "Host2",
        "host10",
    ]
    assert run("ls", "-q", "--filter", "driver=qemu").out == ""
    shown = run("ls", "-f", "{{.Name}}\\t{{.DriverName}}", "--filter", "name=intro").out.splitlines()
    assert shown[-1].split() == ["intro", "none"]
    assert {row["Name"] for row in json.loads(run("ls", "--json").out)} == {"broken", "Host2", "host10", "intro"}


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--filter", "x"], "Unsupported filter syntax"),
        (["--filter", "x=y"], "Unsupported filter key 'x'"),
        (["-f", "{{"], "template: :1: unclosed action"),
    ],
)
def test_ls_refuses_invalid_filters_and_formats(run: Run, words: Sequence[str], text: str) -> None:
    outcome = run("ls", *words)
    assert outcome.code == 1
    assert outcome.err.startswith(text)


def test_columns_are_aligned_as_go_aligns_them() -> None:
    lines = tables.align([["NAME", "ACTIVE", "ERRORS"], ["a", "-", ""], ["a-long-one", "*", "x"]])
    assert lines == ["NAME         ACTIVE   ERRORS", "a            -        ", "a-long-one   *        x"]


def test_the_active_column_is_empty_after_a_timeout() -> None:
    assert ls.fields(listing.Row("hangs", driver="none", state=State.TIMEOUT))["Active"] == ""
    assert ls.fields(listing.Row("off", driver="none", state=State.STOPPED))["Active"] == "-"


def test_a_machine_that_hangs_is_a_timeout_and_does_not_delay_others(
    run: Run, store: Store, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hanging machine accepts a connection and sends nothing."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        fake_engine.record(store, "hangs", silent.getsockname()[1])
        for name in ("ca.pem", "cert.pem", "key.pem"):
            (store.machine_dir("hangs") / name).write_bytes((store.machine_dir("intro") / name).read_bytes())
        lines = run("ls", "-t", "5").out.splitlines()
    assert (lines[1].split()[0], "Timeout" in lines[1]) == ("hangs", True)
    assert f"v{fake_engine.VERSION}" in lines[2]


@pytest.mark.parametrize("seconds", ["99999999999", "9223372036854775807", "3000000"])
def test_a_timeout_longer_than_the_system_supports_is_accepted(
    run: Run, port: int, monkeypatch: pytest.MonkeyPatch, seconds: str
) -> None:
    assert run("ls", "-t", seconds, "-f", "{{.DockerVersion}}{{.Error}}").out == f"v{fake_engine.VERSION}\n"
    monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{port}")
    outcome = run("active", "-t", seconds)
    assert (outcome.code, outcome.out) == (0, "intro\n"), outcome.err


@pytest.mark.parametrize("seconds", ["0", "-1"])
def test_with_a_timeout_of_zero_a_machine_that_hangs_is_a_timeout(
    run: Run, store: Store, port: int, seconds: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        record = store.load("intro")
        record.driver["URL"] = f"tcp://127.0.0.1:{silent.getsockname()[1]}"
        record.endpoint = None
        store.save(record)
        assert run("ls", "-t", seconds, "-f", "{{.State}}{{.Error}}").out == "Timeout\n"


def test_a_row_that_timed_out_has_the_state_timeout(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    from pymachine.cli.context import App

    fake_engine.record(store, "slow", 1)
    hold = threading.Event()
    driver = type(Hosts(store).open("slow").driver)
    monkeypatch.setattr(driver, "state", lambda self: hold.wait(30) and State.RUNNING)
    app = App(argv=["pymachine"], storage_path=str(store.root))
    found = listing.rows(app, ["slow"], timeout=0.2)
    hold.set()
    assert [(row.name, row.driver, row.state) for row in found] == [("slow", "none", State.TIMEOUT)]


# -- start, stop, kill, rm ---------------------------------------------------------------------------------------


def test_errors_of_several_machines_are_all_printed(run: Run, store: Store) -> None:
    for name in ("a", "b"):
        fake_engine.record(store, name, 1)
    outcome = run("kill", "a", "b")
    assert outcome.code == 1
    assert outcome.err.splitlines()[:2] == ["hosts without a driver cannot be killed"] * 2


def test_nothing_is_done_if_one_of_the_machines_is_unknown(
    run: Run, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_engine.record(store, "a", 1)
    done: list[str] = []
    monkeypatch.setattr(lifecycle, "stop", lambda hosts, name: done.append(name))
    assert run("stop", "a", "nosuch").code == 1
    assert done == []
    assert run("stop", "a").code == 0
    assert done == ["a"]


def test_start_says_that_addresses_may_change(run: Run, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_engine.record(store, "a", 1)
    monkeypatch.setattr(lifecycle, "start", lambda hosts, name: None)
    assert run("start", "a").out == (
        "Started machines may have new IP addresses. You may need to re-run the `pymachine env` command.\n"
    )


@pytest.mark.parametrize(
    ("answer", "gone"), [("y\n", True), ("Yes\n", True), ("n\n", False), ("", False), ("\n", False)]
)
def test_rm_removes_after_a_yes_only(
    run: Run, store: Store, monkeypatch: pytest.MonkeyPatch, answer: str, gone: bool
) -> None:
    import io

    fake_engine.record(store, "a", 1)
    monkeypatch.setattr(sys, "stdin", io.StringIO(answer))
    outcome = run("rm", "a")
    assert outcome.code == 0
    assert outcome.out.startswith(
        "About to remove a\n"
        "WARNING: This action will delete both local reference and remote instance.\n"
        "Are you sure? (y/n): "
    )
    assert store.exists("a") is not gone
    assert ("Successfully removed a\n" in outcome.out) is gone


def test_rm_removes_the_machines_that_exist_and_reports_the_others(run: Run, store: Store) -> None:
    fake_engine.record(store, "a", 1)
    fake_engine.record(store, "b", 1)
    outcome = run("rm", "a", "-y", "nosuch", "b")
    assert outcome.code == 1
    assert outcome.err.startswith('Error removing host "nosuch": Docker machine "nosuch" does not exist.')
    assert store.names() == []
    assert run("rm").err == "Error: Expected to get one or more machine names as arguments\n"


def test_rm_by_force_removes_a_machine_whose_record_cannot_be_read(run: Run, store: Store) -> None:
    folder = store.machine_dir("broken")
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{")
    plain = run("rm", "-y", "broken")
    assert (plain.code, folder.exists()) == (1, True)
    forced = run("rm", "-f", "broken")
    assert (forced.code, folder.exists()) == (0, False)
    assert forced.err.startswith('Error removing host "broken": ')
    assert "Successfully removed broken\n" in forced.out


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_command_with_its_exit_code(store: Store, number: signal.Signals, code: int) -> None:
    fake_engine.record(store, "a", 1)
    program = Path(sys.executable).with_name("pymachine")
    streams = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with processes.started([program, "rm", "a"], **streams) as p:
        assert p.stdout is not None
        while p.stdout.read(1) != b"?":
            pass
        os.kill(p.pid, number)
        _, err = p.communicate(timeout=30)
    assert (p.returncode, err) == (code, b"Interrupted.\n")
    assert store.exists("a")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_signals_ignored_at_the_start_stay_ignored(store: Store, number: signal.Signals) -> None:
    """A shell starts background jobs with SIGINT ignored, and `nohup` programs with SIGHUP ignored."""
    fake_engine.record(store, "a", 1)
    program = Path(sys.executable).with_name("pymachine")
    name = number.name.removeprefix("SIG")
    command = ["sh", "-c", f"trap '' {name}; exec \"$0\" rm a", str(program)]
    with processes.started(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as p:
        assert p.stdout is not None
        while p.stdout.read(1) != b"?":
            pass
        os.killpg(p.pid, number)
        out, _ = p.communicate(b"y\n", timeout=30)
    assert (p.returncode, out.endswith(b"Successfully removed a\n")) == (0, True)
    assert not store.exists("a")


def test_sigterm_also_ends_the_foreground_program() -> None:
    """SIGTERM is passed on to the program that `pymachine ssh` runs; the terminal sends Ctrl-C to both."""
    script = (
        "from pymachine.cli import main\nfrom pymachine.system.run import foreground\n"
        "main.signals.exit_on_termination()\nprint('ready', flush=True)\nforeground(['sleep', '600'])"
    )
    with processes.started([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.5)
        process.terminate()
        assert process.wait(30) == 143


# -- ssh, scp, completion ------------------------------------------------------------------------------------------


def test_ssh_and_scp_say_how_they_are_used(run: Run) -> None:
    assert run("scp", "a").err == "Improper number of arguments\n"
    assert run("ssh", "-t").err.startswith("Error: Expected a machine name")
    assert run("ssh", "--help").out.startswith("Usage: pymachine ssh ")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_parse(run: Run, shell: str, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text(run("completion", shell).out)
    subprocess.run([shell, "-n", str(script)], check=True)


def test_completion_refuses_other_shells(run: Run) -> None:
    assert run("completion", "tcsh").err.startswith("Error: Expected one of bash, zsh, fish")


@pytest.mark.parametrize(
    ("words", "expected"),
    [("pymachine st", {"start", "status", "stop"}), ("pymachine ip in", {"intro"}), ("pymachine ls --q", {"--quiet"})],
)
def test_bash_completes_commands_machines_and_flags(store: Store, words: str, expected: set[str]) -> None:
    fake_engine.record(store, "intro", 1)
    program = Path(sys.executable).with_name("pymachine")
    environ = {
        **os.environ,
        "_PYMACHINE_COMPLETE": "bash_complete",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split()) - 1),
    }
    ended = subprocess.run([program], env=environ, capture_output=True, text=True, check=True)
    assert {line.partition(",")[2] for line in ended.stdout.splitlines()} == expected
