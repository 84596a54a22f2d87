"""Engine options as daemon.json, and the identity archive that carries them."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from pymachine.docker import daemon_json
from pymachine.errors import UsageError
from pymachine.hosts import identity
from pymachine.store.record import EngineOptions


def test_options_have_dockerds_keys_and_types() -> None:
    options = EngineOptions(
        arbitrary_flags=[
            "log-driver=none", "dns=8.8.8.8", "dns=1.1.1.1", "mtu=1400", "debug", "icc=false", "label=x=y",
            "log-opt=max-size=1m", "graph=/data", "cpu-rt-runtime=5", "--oom-score-adjust=-500",
        ],
        labels=["a=b"],
        insecure_registry=["r:5000"],
        registry_mirror=["http://m"],
        storage_driver="overlay2",
    )  # fmt: skip
    daemon, flags = daemon_json.content(options, driver_name="qemu")
    assert daemon == {
        "labels": ["a=b", "provider=qemu", "x=y"],
        "insecure-registries": ["r:5000"],
        "registry-mirrors": ["http://m"],
        "storage-driver": "overlay2",
        "log-driver": "none",
        "dns": ["8.8.8.8", "1.1.1.1"],
        "mtu": 1400,
        "debug": True,
        "icc": False,
        "log-opts": {"max-size": "1m"},
        "data-root": "/data",
        "oom-score-adjust": -500,
    }
    assert flags == ["--cpu-rt-runtime=5"]


@pytest.mark.parametrize("option", ["", "=x", "a b=c", "mtu=x", "debug=perhaps", "x=1\n2"])
def test_an_option_that_dockerd_cannot_read_is_refused(option: str) -> None:
    with pytest.raises(UsageError, match="--engine-opt"):
        daemon_json.content(EngineOptions(arbitrary_flags=[option]), driver_name="qemu")


@pytest.mark.parametrize(
    ("labels", "flags", "said"),
    [
        (["nolabel"], [], "'nolabel': expected KEY=VALUE"),
        ([], ["label=nolabel"], "'nolabel': expected KEY=VALUE"),
        (["a=1", "a=2"], [], "'a=2': there is 'a=1' already"),
        (["provider=mine"], [], "there is 'provider=mine' already"),
    ],
)
def test_labels_that_dockerd_would_drop_on_reload_are_refused(labels: list[str], flags: list[str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        daemon_json.content(EngineOptions(labels=labels, arbitrary_flags=flags), driver_name="qemu")


@pytest.mark.parametrize("line", ["", "FOO", "=x", "A=b\nC=d", "A-B=1", "1A=b", "a b=c"])
def test_an_environment_without_a_name_is_refused(line: str) -> None:
    with pytest.raises(UsageError, match="--engine-env"):
        daemon_json.files(EngineOptions(env=[line]), driver_name="qemu")


@given(st.text(), st.text())
def test_any_option_becomes_json_or_is_refused(name: str, value: str) -> None:
    try:
        daemon, flags = daemon_json.content(EngineOptions(arbitrary_flags=[f"{name}={value}"]), driver_name="q")
    except UsageError:
        return
    assert json.loads(json.dumps(daemon)) == daemon
    assert all(flag.startswith("--") for flag in flags)


def test_only_settings_that_need_a_restart_change_the_fingerprint() -> None:
    plain = daemon_json.files(EngineOptions(), driver_name="qemu").fingerprint
    labelled = EngineOptions(labels=["a=b"], registry_mirror=["http://m"], arbitrary_flags=["debug"])
    assert daemon_json.files(labelled, driver_name="qemu").fingerprint == plain
    for other in (EngineOptions(env=["A=b"]), EngineOptions(arbitrary_flags=["mtu=9"]), EngineOptions(ipv6=True)):
        assert daemon_json.files(other, driver_name="qemu").fingerprint != plain


def test_the_identity_is_a_reproducible_tar_of_private_files(tmp_path: Path) -> None:
    identity.make_keys(tmp_path, name="intro")
    for name in ("ca.pem", "server.pem", "server-key.pem"):
        (tmp_path / name).write_text(name)
    files = daemon_json.files(EngineOptions(env=["A=b"]), driver_name="qemu")
    data = identity.of_machine(tmp_path, hostname="intro", engine=files)
    assert identity.of_machine(tmp_path, hostname="intro", engine=files) == data
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        modes = {member.name: member.mode for member in archive}
        host_key = archive.extractfile("ssh_host_ed25519_key")
        assert host_key is not None
        assert host_key.read() == (tmp_path / "ssh_host_ed25519_key").read_bytes()
    assert modes["tls/server-key.pem"] == modes["ssh_host_ed25519_key"] == 0o600
    assert {"hostname", "machine-id", "authorized_keys", "daemon.json", "engine.env", "engine.args"} <= set(modes)
    assert "id_rsa" not in modes, "the private half of the user's key never goes into a guest"


def test_ssh_keys_are_created_once_and_the_host_key_is_pinned(tmp_path: Path) -> None:
    identity.make_keys(tmp_path, name="intro")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    identity.make_keys(tmp_path, name="intro")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert before["known_hosts"].startswith(b"intro ssh-ed25519 ")
    assert before["id_rsa"].startswith(b"-----BEGIN OPENSSH PRIVATE KEY-----")
