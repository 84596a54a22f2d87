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


def host(fake: LocalHost, *, warnings: list[str] | None = None) -> HostSetup:
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
    host(fake, warnings=warnings).provision(EngineSettings(**given), install_script=lambda: script)


@pytest.fixture
def bare(tmp_path: Path) -> LocalHost:
    return LocalHost(tmp_path, files={"etc/os-release": RELEASES["debian"], "etc/group": "root:x:0:\n"})


@pytest.fixture
def lived_in(bare: LocalHost) -> LocalHost:
    """With an engine of its own, which runs, and three containers."""
    bare.put("usr/lib/systemd/system/docker.service", "[Service]\nExecStart=/usr/sbin/dockerd -H fd://\n")
    (bare.root / "bin/dockerd").symlink_to(bare.root / "stand-ins/dockerd")
    bare.put("containers", "one\ntwo\nthree\n")
    bare.put(JSON, OWN)
    (bare.root / JSON[1:]).chmod(0o640)
    bare.put("active", "active\n")
    bare.put("enabled", "enabled\n")
    return bare


def test_a_bare_host_gets_an_engine_and_loses_it_again(bare: LocalHost) -> None:
    before = bare.tree()
    provision(bare)
    calls = bare.calls()
    assert any("install --no-install-recommends docker.io ca-certificates" in call for call in calls)
    assert not any("docker-cli" in call for call in calls if " install " in call)  # this mirror has none
    assert bare.get(DROP_IN).endswith("ExecStart=/usr/sbin/dockerd -H fd:// -H tcp://0.0.0.0:2376\n")
    assert (bare.root / "etc/docker/server-key.pem").stat().st_mode & 0o777 == 0o600
    assert (bare.root / "etc/docker/ca.pem").stat().st_mode & 0o777 == 0o644
    assert (bare.root / "etc/docker").stat().st_mode & 0o777 == 0o755
    assert bare.get("enabled") == "enabled\n"
    bare.put("etc/group", bare.get("etc/group") + "docker:x:103:\n")
    assert host(bare).restore()
    assert bare.tree() == before


def test_an_engine_that_cannot_be_started_at_boot_is_told_of(bare: LocalHost) -> None:
    refuses = "\ncase $1 in enable) echo 'Failed to enable unit: read-only' >&2; exit 1 ;; esac\n"
    stand_in = bare.root / "stand-ins/systemctl"
    first, rest = stand_in.read_text().split("\n", 1)
    stand_in.write_text(f"{first}{refuses}{rest}")
    warnings: list[str] = []
    provision(bare, warnings=warnings)
    assert warnings
    assert set(warnings) == {"On the host, `systemctl enable docker.service` failed: Failed to enable unit: read-only"}


def test_nothing_is_left_lying_about(bare: LocalHost) -> None:
    provision(bare)
    names = {path.name for path in (bare.root / "etc/docker").iterdir()}
    assert names == {"ca.pem", "server.pem", "server-key.pem", "daemon.json"}
    assert not (bare.root / "var/lib/pymachine/pending").exists()
    assert list((bare.root / "tmp").iterdir()) == []


def test_a_second_time_starts_nothing(lived_in: LocalHost) -> None:
    provision(lived_in)
    before = lived_in.tree()
    lived_in.calls()
    provision(lived_in)
    assert lived_in.tree() == before
    assert not [
        call for call in lived_in.calls() if call.split()[1] in {"restart", "reload", "daemon-reload", "enable"}
    ]


def test_an_engine_of_ones_own_goes_on_and_is_given_back(lived_in: LocalHost) -> None:
    before = lived_in.tree()
    provision(lived_in)
    settings = json.loads(lived_in.get(JSON))
    assert settings["bip"] == "10.9.0.1/24"
    assert settings["live-restore"] is True
    assert lived_in.get(f"{JSON}.before-pymachine") == OWN
    assert (lived_in.root / JSON[1:]).stat().st_mode & 0o777 == 0o640
    calls = [call for call in lived_in.calls() if call.startswith("systemctl re")]
    # live-restore is in force before the engine goes down.
    assert calls.index("systemctl reload docker.service") < calls.index("systemctl restart docker.service")
    assert host(lived_in).restore()
    assert lived_in.tree() == before
    calls = [call for call in lived_in.calls() if call.startswith("systemctl re")]
    # And until it is up again.
    assert calls.index("systemctl restart docker.service") < calls.index("systemctl reload docker.service")


def test_an_engine_that_does_not_start_gets_its_old_files_back(lived_in: LocalHost) -> None:
    before = {path: entry for path, entry in lived_in.tree().items() if not path.startswith("var/lib/pymachine")}
    with pytest.raises(StepError, match='the step "Setting Docker configuration" failed') as caught:
        provision(lived_in, daemon={"labels": ["provider=generic"], "storage-driver": "nonsense"})
    assert "the old one was restored" in caught.value.details
    assert "unknown storage driver" in caught.value.details
    assert lived_in.get("active") == "active\n"
    after = {path: entry for path, entry in lived_in.tree().items() if not path.startswith("var/lib/pymachine")}
    after.pop("etc/systemd/system/docker.service.d", None)
    assert after == before
    provision(lived_in)
    assert json.loads(lived_in.get(JSON))["tlsverify"] is True


def test_a_disk_that_is_full_on_the_way_changes_nothing(lived_in: LocalHost) -> None:
    before = {path: entry for path, entry in lived_in.tree().items() if not path.startswith("var/lib/pymachine")}
    # The third file does not fit.
    lived_in.alter_script = lambda text: text.replace(
        "stage /etc/docker/server-key.pem 600", 'fail "No space left on device"; stage /etc/docker/server-key.pem 600'
    )
    with pytest.raises(StepError) as caught:
        provision(lived_in)
    assert "No space left on device" in caught.value.details
    after = {path: entry for path, entry in lived_in.tree().items() if not path.startswith("var/lib/pymachine")}
    assert after == before
    lived_in.alter_script = lambda text: text
    provision(lived_in)


@pytest.mark.parametrize("cut", ["back_up\n", "commit_state\n", "commit\n", "activate restart\n"])
def test_a_host_that_went_down_in_the_middle_is_finished(lived_in: LocalHost, cut: str) -> None:
    lived_in.alter_script = lambda text: text.replace(f"\n{cut}", f"\ntrap - EXIT; exit 9\n{cut}")
    with pytest.raises(StepError):
        provision(lived_in)
    lived_in.alter_script = lambda text: text
    lived_in.calls()
    provision(lived_in)
    assert "systemctl restart docker.service" in lived_in.calls()
    assert json.loads(lived_in.get(JSON))["tlsverify"] is True
    assert lived_in.get(f"{JSON}.before-pymachine") == OWN
    assert host(lived_in).restore()
    assert lived_in.get(JSON) == OWN


def test_an_installation_that_fails_says_what_the_package_manager_said(bare: LocalHost) -> None:
    apt = bare.root / "stand-ins/apt-get"
    whole = apt.read_text()
    apt.write_text("#!/bin/sh\necho 'E: Unable to locate package'\nexit 100\n")
    with pytest.raises(StepError, match="exit code 100") as caught:
        provision(bare)
    assert "E: Unable to locate package" in caught.value.details
    apt.write_text(whole)
    provision(bare)


def test_no_repository_has_the_engine(bare: LocalHost) -> None:
    (bare.root / "stand-ins/apt-cache").write_text("#!/bin/sh\n")
    with pytest.raises(StepError) as caught:
        provision(bare)
    assert "None of the configured repositories has docker.io" in caught.value.details


def test_what_was_begun_and_never_finished_is_given_back_too(bare: LocalHost) -> None:
    """Only what was asked for is removed: whatever else came since may be somebody's."""
    before = bare.tree()
    bare.alter_script = lambda text: text.replace("| sort > /var/lib/pymachine/packages.after", "| exit 9")
    with pytest.raises(StepError):
        provision(bare)
    bare.alter_script = lambda text: text
    bare.put("packages", bare.get("packages") + "editor\n")
    assert host(bare).restore()
    after = bare.tree()
    assert after.pop("packages")[1].split() == ["base", "runc", "editor"]
    before.pop("packages")
    assert after == before


def test_a_set_up_that_failed_is_given_back_too(lived_in: LocalHost) -> None:
    before = lived_in.tree()
    with pytest.raises(StepError):
        provision(lived_in, daemon={"storage-driver": "nonsense"})
    lived_in.calls()
    assert host(lived_in).restore()
    assert lived_in.tree() == before
    assert not [call for call in lived_in.calls() if "stop" in call or "restart" in call]


def test_a_script_is_run_from_a_private_file(bare: LocalHost) -> None:
    body = "#!/bin/sh\nset -e\napt-get install engine\n"
    provision(bare, script=InstallScript("http://example.org/get", body, "digest"))
    script = bare.root / "var/lib/pymachine/install-script"
    assert script.read_text() == body
    assert script.stat().st_mode & 0o777 == 0o600
    assert any(call == "apt-get install engine" for call in bare.calls())


def test_alpine_from_bare_and_back(tmp_path: Path) -> None:
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
    assert host(fake).restore()
    after = fake.tree()
    for folder in ("etc/conf.d", "etc/runlevels", "etc/runlevels/default"):  # the distribution's, not ours
        after.pop(folder, None)
    assert after == before
