"""Provisioning of every family of hosts, by transcripts: provisioner, packages, files and services."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Callable
from hashlib import sha256
from importlib.metadata import EntryPoint, EntryPoints
from typing import Any

import pytest

from pymachine.provision import distributions, remote, unit
from pymachine.provision.distributions import Provisioner, all_provisioners, choose
from pymachine.provision.errors import (
    HostConfigError,
    InterruptedStepError,
    ProvisionError,
    StepError,
    SudoError,
    UnknownSystemError,
)
from pymachine.provision.facts import os_release
from pymachine.provision.host_setup import HostSetup, InstallScript
from pymachine.provision.plan import EngineSettings
from pymachine.provision.remote import Remote
from pymachine.ssh.connection import ConnectionLostError
from pymachine.system.progress import Silent
from pymachine.system.run import Result
from support.transcripts import OS_RELEASE, FakeHost

CERTIFICATES = {"ca.pem": "CA\n", "server.pem": "CERT\n", "server-key.pem": "KEY\n"}
JSON = "/etc/docker/daemon.json"


class KeepingReporter(Silent):
    """A reporter that keeps the messages."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def info(self, text: str) -> None:
        self.lines.append(text)


def wanted(**changed: Any) -> EngineSettings:
    given: dict[str, Any] = {
        "machine": "far",
        "port": 2376,
        "certificates": CERTIFICATES,
        "daemon": {"labels": ["provider=generic"]},
        **changed,
    }
    return EngineSettings(**given)


def provision(fake: FakeHost, *, script: InstallScript | None = None, **changed: Any) -> list[str]:
    """Provision the host and return the messages."""
    reporter = KeepingReporter()
    host = HostSetup(Remote(fake, name="far", warn=list[str]().append), reporter=reporter)
    host.provision(wanted(**changed), install_script=lambda: script)
    return reporter.lines


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("ubuntu", "ubuntu"),
        ("mint", "ubuntu"),
        ("raspberry", "debian"),
        ("fedora", "fedora"),
        ("fedora-coreos", "flatcar"),
        ("rocky", "redhat"),
        ("alma", "redhat"),
        ("rhel", "redhat"),
        ("leap", "opensuse"),
        ("arch", "arch"),
        ("manjaro", "arch"),
        ("alpine", "alpine"),
        ("flatcar", "flatcar"),
        ("boot2docker", "boot2docker"),
    ],
)
def test_each_distribution_has_its_provisioner(kind: str, name: str) -> None:
    assert choose(os_release(OS_RELEASE[kind]), all_provisioners()).name == name


def test_an_unknown_distribution_is_refused_and_left_alone() -> None:
    fake = FakeHost("void")
    with pytest.raises(UnknownSystemError, match=r"OS type not recognized: Void Linux \(ID void\)"):
        provision(fake)
    assert fake.scripts == []


def quoted_names(packages: str) -> str:
    """Return the choice of `packages` as it reads in a command that is quoted for another shell."""
    return shlex.quote(f"names='{packages}'")[1:-1]


@pytest.mark.parametrize(
    ("kind", "commands"),
    [
        (
            "ubuntu",
            ["dpkg --force-confold --configure -a", "apt-get -q update", "apt-get -q -y", quoted_names("docker.io")],
        ),
        (
            "fedora",
            ["dnf -q makecache", "dnf -y install $names", quoted_names("moby-engine"), quoted_names("docker-ce")],
        ),
        ("rocky", [quoted_names("docker-ce docker-ce-cli containerd.io"), "dnf -y install $names"]),
        ("leap", ["zypper --non-interactive install", quoted_names("docker")]),
        ("arch", ["pacman -S --noconfirm --needed $names", quoted_names("docker")]),
    ],
)
def test_the_engine_is_installed_from_the_distributions_packages(kind: str, commands: list[str]) -> None:
    fake = FakeHost(kind)
    said = provision(fake)
    assert [step for step, _ in fake.scripts] == ["install", "apply"]
    for command in commands:
        assert command in fake.body("install")
    assert "Installing Docker..." in said
    settings = json.loads(fake.written()[JSON])
    assert settings["tlsverify"] is True
    assert settings["tlskey"] == "/etc/docker/server-key.pem"
    assert settings["labels"] == ["provider=generic"]
    drop_in = fake.written()[unit.DROP_IN]
    assert "\nExecStart=\nExecStart=/usr/bin/" in drop_in
    assert drop_in.rstrip().endswith("-H tcp://0.0.0.0:2376")
    assert "activate restart" in fake.body("apply")


@pytest.mark.parametrize(
    ("kind", "command"),
    [
        ("ubuntu", "--no-install-recommends --only-upgrade $names"),
        ("fedora", "dnf -y upgrade $names"),
        ("leap", "zypper --non-interactive update --no-recommends $names"),
        ("alpine", "apk add --no-progress --upgrade $names"),
    ],
)
def test_an_upgrade_covers_the_installed_engine_packages(kind: str, command: str) -> None:
    fake = FakeHost(kind, engine=True, init="openrc" if kind == "alpine" else "systemd")
    HostSetup(Remote(fake, name="far", warn=list[str]().append), reporter=KeepingReporter()).upgrade()
    (_, job), (_, restart) = fake.scripts
    assert command in job
    assert "-e containerd -e containerd.io -e runc" in job
    assert restart.endswith("service restart\n}\npymachine_main\n")


def test_an_engine_that_is_part_of_the_system_is_not_upgraded() -> None:
    fake = FakeHost("flatcar", engine=True)
    with pytest.raises(ProvisionError, match="the engine is a part of flatcar"):
        HostSetup(Remote(fake, name="far", warn=list[str]().append), reporter=KeepingReporter()).upgrade()
    assert fake.scripts == []


def test_alpine_starts_services_with_openrc() -> None:
    fake = FakeHost("alpine", init="openrc")
    provision(fake, environment=["HTTP_PROXY=http://a b"], flags=["--new-thing=1"])
    assert "apk add --no-progress $names" in fake.body("install")
    assert "at_boot yes" in fake.body("install")
    settings = json.loads(fake.written()[JSON])
    assert settings["hosts"] == ["unix:///var/run/docker.sock", "tcp://0.0.0.0:2376"]
    assert fake.written()["/etc/conf.d/docker"] == (
        "DOCKER_OPTS=\"$DOCKER_OPTS --new-thing=1\" # pymachine:\nexport HTTP_PROXY='http://a b' # pymachine:\n"
    )
    assert unit.DROP_IN not in fake.written()


def test_flatcar_uses_its_own_engine() -> None:
    fake = FakeHost("flatcar", engine=True)
    provision(fake)
    assert [step for step, _ in fake.scripts] == ["apply"]
    assert "${TORCX_BINDIR}/dockerd --host=fd:// $DOCKER_OPTS -H tcp://0.0.0.0:2376" in fake.written()[unit.DROP_IN]


def test_flatcar_without_an_engine_is_refused() -> None:
    with pytest.raises(ProvisionError, match="normally includes an engine, but this host has none"):
        provision(FakeHost("flatcar"))


def test_boot2docker_gets_docker_machines_profile() -> None:
    fake = FakeHost("boot2docker", init="sysv", engine=True)
    provision(
        fake,
        daemon={"labels": ["a=b", "provider=generic"], "insecure-registries": ["r:5000"], "log-driver": "none"},
        environment=["FOO=bar"],
    )
    profile = fake.written()["/var/lib/boot2docker/profile"]
    assert profile.startswith("\nEXTRA_ARGS='\n--label a=b\n--label provider=generic\n--insecure-registry r:5000\n")
    assert "--log-driver=none" in profile
    for line in (
        "CACERT=/var/lib/boot2docker/ca.pem",
        "DOCKER_HOST='-H tcp://0.0.0.0:2376'",
        "DOCKER_STORAGE=overlay2",
        "DOCKER_TLS=auto",
        'export "FOO=bar"',
    ):
        assert f"\n{line}\n" in profile
    assert fake.written()["/var/lib/boot2docker/server-key.pem"] == "KEY\n"
    assert JSON not in fake.written()


def test_boot2docker_gets_no_setting_twice() -> None:
    """The engine refuses a setting that is both in daemon.json and on its command line."""
    own = {"labels": ["a=1"], "storage-driver": "vfs"}
    fake = FakeHost("boot2docker", init="sysv", engine=True, files={JSON: json.dumps(own)})
    provision(fake, daemon={"labels": ["provider=generic"], "debug": True})
    profile = fake.written()["/var/lib/boot2docker/profile"]
    assert "--label" not in profile
    assert "--debug=true" in profile
    assert "DOCKER_STORAGE=auto" in profile
    assert json.loads(fake.written()[JSON])["labels"] == ["a=1", "provider=generic"]


def test_shell_syntax_in_boot2dockers_profile_is_not_executed() -> None:
    fake = FakeHost("boot2docker", init="sysv", engine=True)
    environment = ['A=$(touch /tmp/never) `x` \\ "q"']
    provision(fake, daemon={"labels": ["it=it's"]}, environment=environment)
    profile = fake.written()["/var/lib/boot2docker/profile"]
    said = subprocess.run(
        ["dash", "-c", f'{profile}\nset -- $EXTRA_ARGS; echo "$2"; echo "$A"'],
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout.splitlines() == ["it=it's", environment[0].removeprefix("A=")]


def test_a_debian_without_systemd_is_refused() -> None:
    fake = FakeHost("ubuntu", init="sysv")
    with pytest.raises(ProvisionError, match="expected to start services with systemd"):
        provision(fake)
    assert fake.scripts == []


def test_an_install_script_is_used_instead_of_packages() -> None:
    fake = FakeHost("ubuntu")
    said = provision(fake, script=InstallScript("http://example.org/get", "#!/bin/sh\necho hello\n", "abc"))
    assert "The engine is installed by http://example.org/get, SHA-256 abc." in said
    assert "echo hello" in fake.body("install")
    assert "sh /var/lib/pymachine/install-script" in fake.body("install")
    assert "apt-get -q -y" not in fake.body("install")


def test_sudo_that_requires_a_password_is_an_error_before_any_change() -> None:
    fake = FakeHost("ubuntu", sudo=False)
    with pytest.raises(SudoError, match="cannot become root without a password") as caught:
        provision(fake)
    assert "sudo: a password is required" in caught.value.details
    assert fake.scripts == []


@pytest.mark.parametrize(
    ("kind", "command"),
    [
        ("ubuntu", "sshfs install --no-install-recommends $names"),
        ("fedora", "fuse-sshfs dnf -y install $names"),
        ("rocky", "fuse-sshfs dnf -y install $names"),
        ("leap", "sshfs install --no-recommends $names"),
        ("arch", "sshfs pacman -S --noconfirm --needed $names"),
    ],
)
def test_sshfs_is_installed_once_for_shared_folders(kind: str, command: str) -> None:
    package, install = command.split(" ", 1)
    fake = FakeHost(kind)
    lines = provision(fake, shares=True)
    assert [step for step, _ in fake.scripts] == ["install", "sshfs", "apply"]
    # The body quotes the job for a shell.
    assert f"names='{package}'\n" in fake.body("sshfs").replace("'\"'\"'", "'")
    assert f"{install}\n" in fake.body("sshfs")
    assert 'names="$names inotify-tools"' in fake.body("sshfs")
    assert "sshfs" not in fake.body("install")
    assert "Installing SSHFS for the shared folders..." in lines
    fake.scripts.clear()
    provision(fake, shares=True)
    assert [step for step, _ in fake.scripts] == ["apply"]


def test_a_host_that_has_only_no_sshfs_is_changed_in_nothing_else() -> None:
    fake = FakeHost("ubuntu", engine=True)
    provision_and_apply(fake)
    fake.scripts.clear()
    assert "The host is already set up: only SSHFS was installed." in provision(fake, shares=True)
    assert [step for step, _ in fake.scripts] == ["sshfs"]
    assert "The host is already set up: nothing was changed." in provision(fake)


@pytest.mark.parametrize(
    ("fake", "says"),
    [
        (FakeHost("ubuntu", fuse=False), "its kernel has no FUSE"),
        (FakeHost("flatcar", engine=True), "flatcar has no sshfs, and no packages"),
    ],
)
def test_a_host_that_cannot_mount_shared_folders_is_refused_before_any_change(fake: FakeHost, says: str) -> None:
    with pytest.raises(ProvisionError, match=says):
        provision(fake, shares=True)
    assert fake.scripts == []
    provision(fake)


def test_a_failed_step_is_named_with_its_output() -> None:
    fake = FakeHost("ubuntu", on_install=lambda: Result((), 100, "pymachine-begin\n", "E: No space left on device\n"))
    with pytest.raises(StepError, match='the step "Installing Docker" failed on "far" with exit code 100') as caught:
        provision(fake)
    assert caught.value.details == "E: No space left on device"
    assert "--engine-install-url" in caught.value.hint


def lose_connection() -> Result:
    raise ConnectionLostError("gone", details="client_loop: send disconnect: Broken pipe")


@pytest.mark.parametrize(
    ("fake", "step"),
    [
        (FakeHost("ubuntu", on_install=lose_connection), "Installing Docker"),
        (FakeHost("ubuntu", engine=True, on_apply=lose_connection), "Setting Docker configuration"),
    ],
)
def test_a_lost_connection_is_reported_with_its_step_and_a_remedy(fake: FakeHost, step: str) -> None:
    with pytest.raises(InterruptedStepError, match=f'was lost during the step "{step}"') as caught:
        provision(fake)
    assert "pymachine provision far" in caught.value.hint


def test_truncated_facts_are_refused() -> None:
    fake = FakeHost("ubuntu")
    whole = fake._facts()
    fake._facts = lambda: whole.removesuffix("end\n")  # type: ignore[method-assign]
    with pytest.raises(ProvisionError, match="the output of the script on the host is incomplete"):
        provision(fake)


def provision_and_apply(fake: FakeHost, **changed: Any) -> None:
    """Provision, and copy the written files to the fake host."""
    provision(fake, **changed)
    for path, text in fake.written().items():
        if path.endswith(".pem"):
            fake.digests[path] = sha256(text.encode()).hexdigest()
        else:
            fake.files[path] = text
    fake.scripts.clear()


def test_provisioning_again_changes_nothing() -> None:
    fake = FakeHost("ubuntu", engine=True)
    provision_and_apply(fake)
    said = provision(fake)
    assert fake.scripts == []
    assert "The host is already set up: nothing was changed." in said


def test_the_hosts_own_settings_are_merged_and_backed_up() -> None:
    fake = FakeHost("ubuntu", engine=True, files={JSON: '{"bip": "10.9.0.1/24", "labels": ["rack=7"]}\n'})
    provision(fake)
    settings = json.loads(fake.written()[JSON])
    assert settings["bip"] == "10.9.0.1/24"
    assert settings["labels"] == ["rack=7", "provider=generic"]
    assert f"keep {JSON}\n" in fake.body("apply")
    assert json.loads(fake.written()["/var/lib/pymachine/state.json"])["managed"][JSON] is True


def test_listen_addresses_in_daemon_json_stay_there() -> None:
    fake = FakeHost("ubuntu", engine=True, files={JSON: '{"hosts": ["unix:///var/run/docker.sock"]}'})
    provision(fake)
    assert json.loads(fake.written()[JSON])["hosts"] == ["unix:///var/run/docker.sock", "tcp://0.0.0.0:2376"]
    assert unit.DROP_IN not in fake.written()


def test_an_invalid_daemon_json_is_an_error_before_any_change() -> None:
    for fake in (FakeHost("ubuntu", engine=True, files={JSON: "{,}"}), FakeHost("ubuntu", files={JSON: "{,}"})):
        with pytest.raises(HostConfigError):
            provision(fake)
        assert fake.scripts == []


def test_options_that_can_be_reloaded_cause_no_restart() -> None:
    fake = FakeHost("ubuntu", engine=True, containers=2)
    provision_and_apply(fake)
    provision(fake, daemon={"labels": ["provider=generic", "a=b"]})
    assert "activate reload" in fake.body("apply")
    assert '"$STATE/pending"' not in fake.body("apply")


def test_an_option_that_is_no_longer_set_is_removed_from_the_host() -> None:
    fake = FakeHost("ubuntu", engine=True, files={JSON: '{"labels": ["rack=7"]}'})
    provision_and_apply(fake, daemon={"labels": ["a=b", "provider=generic"], "storage-driver": "vfs"})
    provision(fake)
    settings = json.loads(fake.written()[JSON])
    assert settings["labels"] == ["rack=7", "provider=generic"]
    assert "storage-driver" not in settings


def test_containers_keep_running_while_the_engine_restarts() -> None:
    fake = FakeHost("ubuntu", engine=True, containers=3)
    said = provision(fake)
    assert json.loads(fake.written()[JSON])["live-restore"] is True
    body = fake.body("apply")
    assert body.index("commit_state\n") < body.index(f"keep_containers {JSON}") < body.index("\ncommit\n")
    assert any(line.startswith("3 containers keep running while the engine restarts") for line in said)
    fake.scripts.clear()
    provision_and_apply(fake)
    provision(fake)
    assert fake.scripts == []


@pytest.mark.parametrize(
    "fake",
    [
        FakeHost("ubuntu", engine=True, containers=1, swarm=True),
        FakeHost("ubuntu", engine=True, containers=1, files={JSON: '{"live-restore": false}'}),
        FakeHost("ubuntu", engine=True, containers=0),
        FakeHost("ubuntu", engine=True, containers=1, active=False),
    ],
)
def test_live_restore_stays_off_where_it_is_not_possible_or_needed(fake: FakeHost) -> None:
    """Swarm nodes do not support it, and a host may have it switched off for a reason."""
    provision(fake)
    assert json.loads(fake.written()[JSON]).get("live-restore") in (None, False)
    assert "keep_containers" not in fake.body("apply")


def test_changes_that_did_not_take_effect_do_so_the_next_time() -> None:
    fake = FakeHost("ubuntu", engine=True)
    provision_and_apply(fake)
    fake.files["/var/lib/pymachine/pending"] = ""
    provision(fake)
    assert "activate restart" in fake.body("apply")


def test_an_interrupted_installation_is_repeated() -> None:
    left = {"/var/lib/pymachine/installed": "apt\n"}
    fake = FakeHost("ubuntu", engine=True, active=False, files=left)
    provision(fake)
    assert [step for step, _ in fake.scripts] == ["install", "apply"]
    # A running engine is not replaced.
    fake = FakeHost("ubuntu", engine=True, files=left)
    provision(fake)
    assert [step for step, _ in fake.scripts] == ["apply"]


def test_an_engine_that_docker_machine_set_up_is_taken_over() -> None:
    text = "[Service]\nExecStart=\nExecStart=/usr/bin/dockerd -H tcp://0.0.0.0:2376 --tlsverify\n"
    fake = FakeHost("ubuntu", engine=True, files={unit.DOCKER_MACHINE: text})
    provision(fake)
    assert f"withdraw {unit.DOCKER_MACHINE}\n" in fake.body("apply")
    assert f"keep {unit.DOCKER_MACHINE}\n" in fake.body("apply")


def test_an_ipv6_host_listens_on_ipv6() -> None:
    fake = FakeHost("ubuntu", engine=True)
    provision(fake, ipv6=True)
    assert "-H tcp://[::]:2376" in fake.written()[unit.DROP_IN]


def test_secrets_are_not_on_any_command_line() -> None:
    assert "KEY" not in remote.ROOT_SHELL
    assert "KEY" not in repr(wanted())


def restore(fake: FakeHost) -> bool:
    return HostSetup(Remote(fake, name="far", warn=list[str]().append), reporter=Silent()).restore()


def test_restoring_an_untouched_host_does_nothing() -> None:
    fake = FakeHost("ubuntu", engine=True)
    assert restore(fake) is False
    assert fake.scripts == []


def test_restoring_puts_every_file_back() -> None:
    original = '{"bip": "10.9.0.1/24"}\n'
    fake = FakeHost("ubuntu", engine=True, files={JSON: original})
    provision_and_apply(fake)
    fake.files[f"{JSON}.before-pymachine"] = original
    assert restore(fake) is True
    body = fake.body("restore")
    for path in (JSON, unit.DROP_IN, "/etc/docker/server-key.pem"):
        assert f"put_back {path}\n" in body
    assert "service restart" in body
    assert "remove_packages" not in body


def test_restoring_removes_sshfs_if_it_was_installed() -> None:
    fake = FakeHost("ubuntu", engine=True)
    provision_and_apply(fake)
    fake.present.append("/var/lib/pymachine/sshfs.before")
    assert restore(fake)
    assert re.search(
        r"^remove_packages sshfs '.*' 'dpkg --purge' 'sshfs inotify-tools'$", fake.body("restore"), re.MULTILINE
    )


def test_restoring_keeps_later_changes() -> None:
    fake = FakeHost("ubuntu", engine=True)
    provision_and_apply(fake)
    fake.files[JSON] = json.dumps({**json.loads(fake.files[JSON]), "bip": "10.9.0.1/24"})
    assert restore(fake)
    assert f"put_back {JSON}\n" not in fake.body("restore")
    assert '"bip": "10.9.0.1/24"' in fake.body("restore")
    assert "tlsverify" not in fake.body("restore")


def test_restoring_removes_an_engine_that_was_installed() -> None:
    fake = FakeHost("ubuntu")
    provision_and_apply(fake)
    fake.files["/var/lib/pymachine/installed"] = "apt\n"
    assert restore(fake)
    body = fake.body("restore")
    assert "stop_engine" in body
    assert "dpkg --purge" in body
    assert "remove_leftovers /etc/docker /var/lib/docker" in body


@pytest.mark.parametrize(
    "act",
    [
        lambda: provision(FakeHost("ubuntu")),
        lambda: provision(FakeHost("alpine", init="openrc")),
        lambda: provision(FakeHost("ubuntu", engine=True, containers=1)),
        lambda: provision(FakeHost("rocky"), script=InstallScript("u", "#!/bin/sh\ntrue\n", "d")),
    ],
)
def test_every_script_parses_and_a_truncated_one_does_nothing(
    monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]
) -> None:
    """A script's function is called in its last line only."""
    sent: list[str] = []
    run = FakeHost.run

    def record_and_run(self: FakeHost, command: str, *, stdin: str = "", **rest: Any) -> Result:
        sent.append(stdin)
        return run(self, command, stdin=stdin, **rest)

    monkeypatch.setattr(FakeHost, "run", record_and_run)
    act()
    assert sent
    for text in sent:
        subprocess.run(["dash", "-n"], input=text, text=True, check=True)
        assert re.findall(r"^pymachine_main\b.*$", text, re.MULTILINE) == ["pymachine_main() {", "pymachine_main"]
        for part in (text[: len(text) // 2], text.removesuffix("pymachine_main\n")):
            done = subprocess.run(["dash"], input=part, text=True, capture_output=True, check=False)
            assert done.stdout in ("", "pymachine-begin\n")


ADDED = Provisioner(name="mine", ids=("void", "debian"))
NOT_A_PROVISIONER = object()


@pytest.fixture
def plugins(monkeypatch: pytest.MonkeyPatch) -> list[EntryPoint]:
    found: list[EntryPoint] = []
    monkeypatch.setattr(distributions, "entry_points", lambda group: EntryPoints(found))
    return found


def test_a_plug_in_can_add_a_provisioner_and_comes_first(plugins: list[EntryPoint]) -> None:
    plugins.append(EntryPoint("mine", f"{__name__}:ADDED", distributions.GROUP))
    assert choose({"ID": "void"}, all_provisioners()) is ADDED
    assert choose({"ID": "debian"}, all_provisioners()) is ADDED
    assert choose({"ID": "ubuntu", "ID_LIKE": "debian"}, all_provisioners()).name == "ubuntu"


@pytest.mark.parametrize(
    ("value", "says"),
    [("no_such_module:X", "cannot be loaded"), (f"{__name__}:NOT_A_PROVISIONER", "is not a Provisioner")],
)
def test_a_broken_plug_in_is_reported(plugins: list[EntryPoint], value: str, says: str) -> None:
    plugins.append(EntryPoint("odd", value, distributions.GROUP))
    with pytest.raises(ProvisionError, match=says):
        all_provisioners()
