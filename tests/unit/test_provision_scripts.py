"""The scripts that are sent to hosts, run by a real shell on a host in a folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pymachine.provision.errors import StepError
from pymachine.provision.host_setup import HostSetup, InstallScript
from pymachine.provision.plan import EngineSettings
from pymachine.provision.remote import Remote
from pymachine.system.progress import Silent
from support.local_host import OPENRC, LocalHost

JSON = "/etc/docker/daemon.json"
DROP_IN = "/etc/systemd/system/docker.service.d/zz-pymachine.conf"
OWN = '{"bip": "10.9.0.1/24", "labels": ["rack=7"]}\n'
RELEASES = {"debian": 'ID=debian\nPRETTY_NAME="Debian"\n', "alpine": "ID=alpine\n"}


def make_host(fake: LocalHost, *, warnings: list[str] | None = None) -> HostSetup:
    said = [] if warnings is None else warnings
    return HostSetup(Remote(fake, name="far", warn=said.append), reporter=Silent())


def provision(
    fake: LocalHost, *, script: InstallScript | None = None, warnings: list[str] | None = None, **changed: Any
) -> None:
    given: dict[str, Any] = {
        "machine": "far",
        "port": 2376,
        "certificates": {"ca.pem": "CA\n", "server.pem": "CERT\n", "server-key.pem": "KEY\n"},
        "daemon": {"labels": ["provider=generic"]},
        **changed,
    }
    make_host(fake, warnings=warnings).provision(EngineSettings(**given), install_script=lambda: script)


@pytest.fixture
def bare_host(tmp_path: Path) -> LocalHost:
    return LocalHost(tmp_path, files={"etc/os-release": RELEASES["debian"], "etc/group": "root:x:0:\n"})


@pytest.fixture
def host_with_engine(bare_host: LocalHost) -> LocalHost:
    """A host with its own running engine and three containers."""
    bare_host.put("usr/lib/systemd/system/docker.service", "[Service]\nExecStart=/usr/sbin/dockerd -H fd://\n")
    (bare_host.root / "bin/dockerd").symlink_to(bare_host.root / "stand-ins/dockerd")
    bare_host.put("containers", "one\ntwo\nthree\n")
    bare_host.put(JSON, OWN)
    (bare_host.root / JSON[1:]).chmod(0o640)
    bare_host.put("active", "active\n")
    bare_host.put("enabled", "enabled\n")
    return bare_host


def test_a_bare_host_gets_an_engine_and_is_restored_without_it(bare_host: LocalHost) -> None:
    before = bare_host.tree()
    provision(bare_host)
    calls = bare_host.calls()
    assert any("install --no-install-recommends docker.io ca-certificates" in call for call in calls)
    assert not any("docker-cli" in call for call in calls if " install " in call)  # this mirror has none
    assert bare_host.get(DROP_IN).endswith("ExecStart=/usr/sbin/dockerd -H fd:// -H tcp://0.0.0.0:2376\n")
    assert (bare_host.root / "etc/docker/server-key.pem").stat().st_mode & 0o777 == 0o600
    assert (bare_host.root / "etc/docker/ca.pem").stat().st_mode & 0o777 == 0o644
    assert (bare_host.root / "etc/docker").stat().st_mode & 0o777 == 0o755
    assert bare_host.get("enabled") == "enabled\n"
    bare_host.put("etc/group", bare_host.get("etc/group") + "docker:x:103:\n")
    assert make_host(bare_host).restore()
    assert bare_host.tree() == before


def test_only_a_host_that_was_made_for_the_machine_gets_its_name(bare_host: LocalHost) -> None:
    bare_host.put("/proc/sys/kernel/hostname", "ip-10-0-0-7\n")
    bare_host.put("/etc/hosts", "127.0.0.1 localhost\n10.0.0.7 ip-10-0-0-7 other-far\n")
    provision(bare_host)
    assert not any(call.startswith("hostname") for call in bare_host.calls())
    for _ in range(2):
        provision(bare_host, host_name="far")
    assert [call for call in bare_host.calls() if call.startswith("hostname")] == ["hostname far"]
    assert bare_host.get("/etc/hostname") == "far\n"
    assert (bare_host.root / "etc/hostname").stat().st_mode & 0o777 == 0o644
    assert bare_host.get("/etc/hosts").splitlines()[2:] == ["127.0.1.1 far"]


def test_a_host_that_cannot_be_named_is_set_up_nevertheless(bare_host: LocalHost) -> None:
    bare_host.put("/proc/sys/kernel/hostname", "old\n")
    (bare_host.root / "etc/hostname").mkdir()
    warnings: list[str] = []
    provision(bare_host, warnings=warnings, host_name="far")
    assert len(warnings) == 1
    assert warnings[0].startswith("On the host, the host cannot be named far: ")
    assert bare_host.get("active") == "active\n"


def test_sshfs_is_installed_and_removed_with_what_came_with_it(host_with_engine: LocalHost) -> None:
    before = host_with_engine.tree()
    # This host has sshfs, and perhaps no FUSE.
    host_with_engine.alter_script = lambda text: text.replace("found sshfs", "found no-such").replace("/fuse", "/null")
    provision(host_with_engine, shares=True)
    (call,) = [call for call in host_with_engine.calls() if " install " in call]
    assert call.endswith("install --no-install-recommends sshfs inotify-tools")
    assert host_with_engine.get("packages").split() == ["base", "sshfs", "libfuse3-3", "inotify-tools"]
    assert make_host(host_with_engine).restore()
    assert host_with_engine.tree() == before


def test_a_warning_says_that_the_engine_cannot_be_enabled_at_boot(bare_host: LocalHost) -> None:
    refuses = "\ncase $1 in enable) echo 'Failed to enable unit: read-only' >&2; exit 1 ;; esac\n"
    stand_in = bare_host.root / "stand-ins/systemctl"
    first, rest = stand_in.read_text().split("\n", 1)
    stand_in.write_text(f"{first}{refuses}{rest}")
    warnings: list[str] = []
    provision(bare_host, warnings=warnings)
    assert warnings
    assert set(warnings) == {"On the host, `systemctl enable docker.service` failed: Failed to enable unit: read-only"}


def test_no_temporary_files_are_left(bare_host: LocalHost) -> None:
    provision(bare_host)
    names = {path.name for path in (bare_host.root / "etc/docker").iterdir()}
    assert names == {"ca.pem", "server.pem", "server-key.pem", "daemon.json"}
    assert not (bare_host.root / "var/lib/pymachine/pending").exists()
    assert list((bare_host.root / "tmp").iterdir()) == []


def test_provisioning_again_restarts_nothing(host_with_engine: LocalHost) -> None:
    provision(host_with_engine)
    before = host_with_engine.tree()
    host_with_engine.calls()
    provision(host_with_engine)
    assert host_with_engine.tree() == before
    assert not [
        call for call in host_with_engine.calls() if call.split()[1] in {"restart", "reload", "daemon-reload", "enable"}
    ]


def test_the_hosts_own_engine_keeps_its_settings_and_is_restored(host_with_engine: LocalHost) -> None:
    before = host_with_engine.tree()
    provision(host_with_engine)
    settings = json.loads(host_with_engine.get(JSON))
    assert settings["bip"] == "10.9.0.1/24"
    assert settings["live-restore"] is True
    assert host_with_engine.get(f"{JSON}.before-pymachine") == OWN
    assert (host_with_engine.root / JSON[1:]).stat().st_mode & 0o777 == 0o640
    calls = [call for call in host_with_engine.calls() if call.startswith("systemctl re")]
    # live-restore is in force before the engine goes down.
    assert calls.index("systemctl reload docker.service") < calls.index("systemctl restart docker.service")
    assert make_host(host_with_engine).restore()
    assert host_with_engine.tree() == before
    calls = [call for call in host_with_engine.calls() if call.startswith("systemctl re")]
    # It stays in force until the engine is up again.
    assert calls.index("systemctl restart docker.service") < calls.index("systemctl reload docker.service")


def test_old_files_are_put_back_if_the_engine_does_not_start(host_with_engine: LocalHost) -> None:
    before = {
        path: entry for path, entry in host_with_engine.tree().items() if not path.startswith("var/lib/pymachine")
    }
    with pytest.raises(StepError, match='the step "Setting Docker configuration" failed') as caught:
        provision(host_with_engine, daemon={"labels": ["provider=generic"], "storage-driver": "nonsense"})
    assert "the old one was restored" in caught.value.details
    assert "unknown storage driver" in caught.value.details
    assert host_with_engine.get("active") == "active\n"
    after = {path: entry for path, entry in host_with_engine.tree().items() if not path.startswith("var/lib/pymachine")}
    after.pop("etc/systemd/system/docker.service.d", None)
    assert after == before
    provision(host_with_engine)
    assert json.loads(host_with_engine.get(JSON))["tlsverify"] is True


def test_a_full_disk_changes_nothing(host_with_engine: LocalHost) -> None:
    before = {
        path: entry for path, entry in host_with_engine.tree().items() if not path.startswith("var/lib/pymachine")
    }
    # The third file does not fit.
    host_with_engine.alter_script = lambda text: text.replace(
        "stage /etc/docker/server-key.pem 600", 'fail "No space left on device"; stage /etc/docker/server-key.pem 600'
    )
    with pytest.raises(StepError) as caught:
        provision(host_with_engine)
    assert "No space left on device" in caught.value.details
    after = {path: entry for path, entry in host_with_engine.tree().items() if not path.startswith("var/lib/pymachine")}
    assert after == before
    host_with_engine.alter_script = lambda text: text
    provision(host_with_engine)


@pytest.mark.parametrize("cut", ["back_up\n", "commit_state\n", "commit\n", "activate restart\n"])
def test_an_interrupted_change_is_finished_by_the_next_run(host_with_engine: LocalHost, cut: str) -> None:
    host_with_engine.alter_script = lambda text: text.replace(f"\n{cut}", f"\ntrap - EXIT; exit 9\n{cut}")
    with pytest.raises(StepError):
        provision(host_with_engine)
    host_with_engine.alter_script = lambda text: text
    host_with_engine.calls()
    provision(host_with_engine)
    assert "systemctl restart docker.service" in host_with_engine.calls()
    assert json.loads(host_with_engine.get(JSON))["tlsverify"] is True
    assert host_with_engine.get(f"{JSON}.before-pymachine") == OWN
    assert make_host(host_with_engine).restore()
    assert host_with_engine.get(JSON) == OWN


def test_a_failed_installation_shows_the_package_managers_output(bare_host: LocalHost) -> None:
    apt = bare_host.root / "stand-ins/apt-get"
    whole = apt.read_text()
    apt.write_text("#!/bin/sh\necho 'E: Unable to locate package'\nexit 100\n")
    with pytest.raises(StepError, match="exit code 100") as caught:
        provision(bare_host)
    assert "E: Unable to locate package" in caught.value.details
    apt.write_text(whole)
    provision(bare_host)


def test_a_missing_engine_package_is_named(bare_host: LocalHost) -> None:
    (bare_host.root / "stand-ins/apt-cache").write_text("#!/bin/sh\n")
    with pytest.raises(StepError) as caught:
        provision(bare_host)
    assert "None of the configured repositories has docker.io" in caught.value.details


def test_an_unfinished_installation_is_restored_too(bare_host: LocalHost) -> None:
    """Only the requested packages are removed: the user may have installed others since."""
    before = bare_host.tree()
    bare_host.alter_script = lambda text: text.replace("| sort > /var/lib/pymachine/packages.after", "| exit 9")
    with pytest.raises(StepError):
        provision(bare_host)
    bare_host.alter_script = lambda text: text
    bare_host.put("packages", bare_host.get("packages") + "editor\n")
    assert make_host(bare_host).restore()
    after = bare_host.tree()
    assert after.pop("packages")[1].split() == ["base", "runc", "editor"]
    before.pop("packages")
    assert after == before


def test_a_failed_configuration_is_restored_too(host_with_engine: LocalHost) -> None:
    before = host_with_engine.tree()
    with pytest.raises(StepError):
        provision(host_with_engine, daemon={"storage-driver": "nonsense"})
    host_with_engine.calls()
    assert make_host(host_with_engine).restore()
    assert host_with_engine.tree() == before
    assert not [call for call in host_with_engine.calls() if "stop" in call or "restart" in call]


def test_a_script_is_run_from_a_private_file(bare_host: LocalHost) -> None:
    body = "#!/bin/sh\nset -e\napt-get install engine\n"
    provision(bare_host, script=InstallScript("http://example.org/get", body, "digest"))
    script = bare_host.root / "var/lib/pymachine/install-script"
    assert script.read_text() == body
    assert script.stat().st_mode & 0o777 == 0o600
    assert any(call == "apt-get install engine" for call in bare_host.calls())


def test_alpine_is_provisioned_and_restored(tmp_path: Path) -> None:
    fake = LocalHost(tmp_path, programs=OPENRC, files={"etc/os-release": RELEASES["alpine"], "etc/group": ""})
    before = fake.tree()
    # A socket for the script to find: the stand-in cannot make one.
    fake.alter_script = lambda text: text.replace("[ ! -S /var/run/docker.sock ]", "false")
    provision(fake, environment=["FOO=a b"])
    calls = fake.calls()
    assert "apk add --no-progress docker" in calls
    assert "rc-update add docker default" in calls
    assert "rc-service docker restart" in calls
    assert json.loads(fake.get(JSON))["hosts"][-1] == "tcp://0.0.0.0:2376"
    assert "export FOO='a b' # pymachine:" in fake.get("/etc/conf.d/docker")
    provision(fake, environment=["FOO=a b"])
    assert not [call for call in fake.calls() if call.startswith(("rc-service docker restart", "apk add"))]
    assert make_host(fake).restore()
    after = fake.tree()
    for folder in ("etc/conf.d", "etc/runlevels", "etc/runlevels/default"):  # the distribution's, not ours
        after.pop(folder, None)
    assert after == before
