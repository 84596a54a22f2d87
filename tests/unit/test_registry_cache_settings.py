"""The registry cache: its settings, its storage, wrong options, and the mirror in identities. Nothing is started."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from pymachine.cli import main as main_module
from pymachine.docker import daemon_json
from pymachine.driver import registry
from pymachine.driver.contract import Driver, MachineRef
from pymachine.driver.kit.identity_channel import activation_script
from pymachine.errors import UsageError
from pymachine.hosts import identity, registry_mirrors
from pymachine.hosts.registry_mirrors import Mirror
from pymachine.registry_cache import configuration, control, place, report, state as states, storage
from pymachine.registry_cache.state import DOCKER_HUB, State
from pymachine.store.record import EngineOptions
from pymachine.system.progress import Silent
from support import cli_calls
from support.cli_calls import Call

STATE = State(port=24873, upstream=DOCKER_HUB, limit_mib=2048, hosts=("127.0.0.1", "10.0.2.2"))
MIRROR = Mirror("10.0.2.2:24873", "-----BEGIN CERTIFICATE-----\n")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PYMACHINE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MACHINE_STORAGE_PATH", str(tmp_path / "store"))
    folder = place.folder(tmp_path / "store")
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def running(folder: Path) -> Iterator[Path]:
    """The folder of a cache that seems to run: this process holds the keeper's lock."""
    states.save(folder, STATE)
    (folder / "ca.pem").write_text(MIRROR.ca)
    with place.KEEPER.locked(folder):
        yield folder


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    monkeypatch.setattr(main_module.signals, "exit_on_termination", lambda: None)
    return cli_calls.any_code(capsys)


def driver(name: str, folder: Path) -> Driver:
    kind = registry.load(name)
    ref = MachineRef("m", folder, folder, folder / "id_rsa")
    return kind(ref, {}, reporter=Silent())


def blob(place: Path, number: int, *, size: int = 4096, age: float = 0.0) -> Path:
    digest = f"{number:064x}"
    path = place / "docker/registry/v2/blobs/sha256" / digest[:2] / digest / "data"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"x" * size)
    os.utime(path, (time.time() - age, time.time() - age))
    return path


def test_settings_are_kept_and_damaged_ones_are_as_none(folder: Path) -> None:
    assert states.load(folder) is None
    states.save(folder, STATE)
    assert states.load(folder) == STATE
    for damaged in ("", "[]", "{", '{"format": 1}', '{"format": 2}', '{"format": 1, "port": "x"}', "[" * 5000):
        (folder / place.STATE).write_text(damaged)
        assert states.load(folder) is None


def test_the_cache_runs_as_long_as_its_keeper(running: Path) -> None:
    assert states.of_running(running) == STATE


def test_a_cache_whose_keeper_has_ended_does_not_run(folder: Path) -> None:
    states.save(folder, STATE)
    with place.KEEPER.locked(folder):
        pass
    assert states.of_running(folder) is None


def test_each_upstream_has_its_own_storage() -> None:
    other = State(port=1, upstream="https://other.example", limit_mib=1, hosts=())
    assert STATE.storage != other.storage
    assert STATE.storage.startswith(states.STORAGE)


def test_the_configuration_has_tls_one_address_and_no_login(folder: Path) -> None:
    found = json.loads(configuration.text(folder, STATE))
    assert found["http"]["addr"] == "127.0.0.1:24873"
    assert set(found["http"]["tls"]) == {"certificate", "key", "minimumtls"}
    assert found["proxy"] == {"remoteurl": DOCKER_HUB}
    assert "cache" not in found["storage"]


def test_variables_do_not_override_the_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGISTRY_PROXY_PASSWORD", "s3cret")
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example")
    found = configuration.environment(tmp_path)
    assert "REGISTRY_PROXY_PASSWORD" not in found
    assert found["HTTPS_PROXY"] == "http://proxy.example"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://registry.example/", "https://registry.example"),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
        (" https://[::1]:5000 ", "https://[::1]:5000"),
    ],
)
def test_upstreams(url: str, expected: str) -> None:
    assert control.check_upstream(url) == expected


@pytest.mark.parametrize(
    "url",
    ["", "registry.example", "ftp://x", "https://", "https://x/path", "https://x?a", "https://x:99999", "https://[x"],
)
def test_texts_that_are_no_upstream_are_refused(url: str) -> None:
    with pytest.raises(UsageError, match="--upstream"):
        control.check_upstream(url)


def test_an_upstream_with_a_login_is_refused_and_not_shown() -> None:
    with pytest.raises(UsageError) as caught:
        control.check_upstream("https://ann:s3cret@registry.example")
    assert "s3cret" not in str(caught.value) + caught.value.hint


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--limit", "0"], "--limit '0' is not a size above 0"),
        (["--limit", "many"], "--limit 'many' is not a size above 0"),
        (["--port", "0"], "--port"),
        (["--port", "65536"], "--port"),
    ],
)
def test_wrong_options_are_refused(call: Call, folder: Path, words: list[str], says: str) -> None:
    code, _, err = call("cache", "start", *words)
    assert (code != 0, says in err) == (True, True), err
    assert list(folder.iterdir()) == []


def test_a_wrong_duration_is_refused(call: Call, folder: Path) -> None:
    code, _, err = call("cache", "prune", "--unused-for", "soon")
    assert (code != 0, "--unused-for" in err) == (True, True)


def test_the_blobs_that_were_used_least_recently_are_removed_first(tmp_path: Path) -> None:
    new, old, oldest = (blob(tmp_path, number, age=age) for number, age in ((1, 0), (2, 1000), (3, 2000)))
    total = sum(found.size for found in storage.blobs(tmp_path))
    assert [found.path for found in storage.blobs(tmp_path)] == [oldest, old, new]
    assert storage.trim(tmp_path, limit=total) == []
    assert [found.path for found in storage.trim(tmp_path, limit=total - 1)] == [oldest]
    assert not oldest.parent.exists()
    assert [found.path for found in storage.trim(tmp_path, limit=0)] == [old, new]
    assert storage.trim(tmp_path / "missing", limit=0) == []


def test_a_blob_that_was_only_read_counts_as_used(tmp_path: Path) -> None:
    path = blob(tmp_path, 1, age=2000)
    os.utime(path, (time.time(), time.time() - 2000))
    assert storage.prune(tmp_path, unused_seconds=1000) == []
    assert [found.digest for found in storage.prune(tmp_path, unused_seconds=0)] == [f"{1:064x}"]


def test_downloads_that_ended_halfway_are_removed(tmp_path: Path) -> None:
    uploads = tmp_path / "docker/registry/v2/repositories/library/box/_uploads"
    for name, age in (("old", 2000.0), ("new", 0.0)):
        (uploads / name).mkdir(parents=True)
        (uploads / name / "data").write_text("x")
        for path in (uploads / name / "data", uploads / name):
            os.utime(path, (time.time() - age, time.time() - age))
    storage.remove_downloads(tmp_path, unchanged_seconds=1000)
    assert [path.name for path in uploads.iterdir()] == ["new"]
    storage.remove_downloads(tmp_path)
    assert list(uploads.iterdir()) == []


@pytest.mark.parametrize(
    ("logged", "expected"),
    [
        (
            'time="x" level=fatal msg="listen tcp 127.0.0.1:1: bind: \\"denied\\""\n',
            'listen tcp 127.0.0.1:1: bind: "denied"',
        ),
        ('panic: Get "http://x/v2/": refused\n\ngoroutine 1\n', 'Get "http://x/v2/": refused'),
        ("nothing\n", ""),
    ],
)
def test_the_reason_for_an_end_is_taken_from_the_log(tmp_path: Path, logged: str, expected: str) -> None:
    (tmp_path / place.LOG).write_text("panic: earlier\n" + logged)
    assert report.reason(tmp_path, begin=15) == expected
    assert report.problem(tmp_path) == ""
    report.save(tmp_path, expected)
    assert report.problem(tmp_path) == expected


def test_machines_that_reach_the_loopback_get_the_mirror(running: Path, tmp_path: Path) -> None:
    assert registry_mirrors.find(driver("qemu", tmp_path), tmp_path, Silent()) == MIRROR
    for name in ("none", "generic"):
        assert registry_mirrors.find(driver(name, tmp_path), tmp_path, Silent()) is None


def test_without_a_cache_there_is_no_mirror(folder: Path, tmp_path: Path) -> None:
    assert registry_mirrors.find(driver("qemu", tmp_path), tmp_path, Silent()) is None
    states.save(folder, STATE)
    assert registry_mirrors.find(driver("qemu", tmp_path), tmp_path, Silent()) is None


def test_an_address_that_is_not_in_the_certificate_is_not_used(running: Path, tmp_path: Path) -> None:
    states.save(running, State(port=1, upstream=DOCKER_HUB, limit_mib=1, hosts=("192.0.2.1",)))
    assert registry_mirrors.find(driver("qemu", tmp_path), tmp_path, Silent()) is None


def test_the_cache_comes_after_the_mirrors_of_the_user() -> None:
    options = EngineOptions(registry_mirror=["http://a"], arbitrary_flags=["registry-mirror=http://b", "debug"])
    with_cache = daemon_json.files(registry_mirrors.with_mirror(options, MIRROR), driver_name="qemu")
    mirrors = json.loads(with_cache.daemon_json)["registry-mirrors"]
    assert mirrors == ["http://a", "http://b", "https://10.0.2.2:24873"]
    # The engine need not restart for it.
    assert with_cache.fingerprint == daemon_json.files(options, driver_name="qemu").fingerprint
    assert registry_mirrors.with_mirror(options, None) is options


@pytest.mark.parametrize(
    ("frozen", "now", "is_late"),
    [
        (None, None, False),
        (MIRROR, MIRROR, False),
        (None, MIRROR, True),
        (MIRROR, None, True),
        (Mirror(MIRROR.address, "another CA"), MIRROR, True),
        (Mirror("10.0.2.2:1", MIRROR.ca), MIRROR, True),
    ],
)
def test_no_create_waits_for_its_engine_to_reload_the_cache(
    tmp_path: Path, frozen: Mirror | None, now: Mirror | None, *, is_late: bool
) -> None:
    script = activation_script(identity_of(tmp_path, now), seed=seed_of(frozen), now=0.0).decode()
    assert ("late_change=reload\n" in script, script.endswith(" same\n")) == (is_late, True)
    assert ("put registry-cache ''\n" in script) == (now is None and frozen is not None)


def test_create_waits_for_other_settings(tmp_path: Path) -> None:
    tar = identity_of(tmp_path, MIRROR, labels=["a=b"])
    script = activation_script(tar, seed=seed_of(None), now=0.0).decode()
    assert script.endswith(" reload\n")
    assert "late_change" not in script


def engine(mirror: Mirror | None, labels: Sequence[str] = ()) -> daemon_json.EngineFiles:
    options = EngineOptions(labels=list(labels))
    return daemon_json.files(registry_mirrors.with_mirror(options, mirror), driver_name="qemu")


def seed_of(mirror: Mirror | None) -> bytes:
    return identity.seed(engine(mirror), "", mirror.member if mirror else "")


def identity_of(folder: Path, mirror: Mirror | None, *, labels: Sequence[str] = ()) -> bytes:
    identity.make_keys(folder, name="m")
    for name in ("ca.pem", "server.pem", "server-key.pem"):
        (folder / name).write_text("pem")
    member = mirror.member if mirror else ""
    return identity.of_machine(folder, hostname="m", engine=engine(mirror, labels), registry_cache=member)
