"""CA certificates that machines and downloads trust: options, config.toml, bad input, and real TLS downloads."""

from __future__ import annotations

import http.server
import io
import json
import ssl
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pymachine.driver.kit.identity_channel import activation_script
from pymachine.errors import RecordError
from pymachine.hosts import identity, origins, trusted_cas as of_machines
from pymachine.store import paths
from pymachine.store.record import Machine
from pymachine.store.store import Store
from pymachine.store.user_config import ConfigError
from pymachine.system import trust
from pymachine.system.http_client import FetchError, Session
from pymachine.system.progress import Silent
from pymachine.tls import certs, trusted_cas
from pymachine_driver_virtualbox import guest
from support import cli_calls, local_sockets, sharing
from support.cli_calls import Call

LOOPBACK = "127.0.0.1"


@pytest.fixture
def authority(tmp_path: Path) -> certs.AuthPaths:
    folder = tmp_path / "ca"
    folder.mkdir()
    names = (paths.CA_CERT, paths.CA_KEY, paths.CLIENT_CERT, paths.CLIENT_KEY)
    auth = certs.AuthPaths(*(folder / name for name in names))
    certs.ensure_authority(auth, reporter=Silent())
    return auth


@pytest.fixture
def pem(authority: certs.AuthPaths) -> str:
    return trusted_cas.read(authority.ca_cert)[0]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    sharing.install(monkeypatch)
    local_sockets.install(monkeypatch)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PYMACHINE_NO_SHARE", "1")
    monkeypatch.delenv("PYMACHINE_TRUST", raising=False)
    monkeypatch.setenv("MACHINE_STORAGE_PATH", str(tmp_path / "s"))
    (tmp_path / "s").mkdir()
    return Store(tmp_path / "s")


@pytest.fixture
def call(store: Store, capsys: pytest.CaptureFixture[str]) -> Call:
    return cli_calls.expecting_code(capsys)


# -- files ------------------------------------------------------------------------------------------------------


def test_only_the_certificates_of_a_file_are_read(authority: certs.AuthPaths, tmp_path: Path, pem: str) -> None:
    bundle = tmp_path / "bundle.pem"
    bundle.write_text(f"# ours\n{authority.ca_key.read_text()}{pem}{authority.client_cert.read_text()}{pem}")
    found = trusted_cas.read_all([bundle, authority.ca_cert])
    assert found == [pem, trusted_cas.read(authority.client_cert)[0]]
    assert "PRIVATE" not in "".join(found)


def test_der_is_read_too(tmp_path: Path, pem: str) -> None:
    der = tmp_path / "ca.der"
    der.write_bytes(ssl.PEM_cert_to_DER_cert(pem))
    assert trusted_cas.read(der) == [pem]


@pytest.mark.parametrize("content", ["", "text", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_a_file_without_certificates_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "bad.pem"
    path.write_text(content)
    with pytest.raises(trusted_cas.CaCertificateError, match=r"bad\.pem has no certificate"):
        trusted_cas.read(path)


def test_a_missing_file_a_folder_and_a_large_file_are_refused(tmp_path: Path) -> None:
    large = tmp_path / "large"
    large.write_bytes(b"x" * (trusted_cas.LONGEST_FILE + 1))
    for path in (tmp_path / "missing", tmp_path, large):
        with pytest.raises(trusted_cas.CaCertificateError, match="cannot read"):
            trusted_cas.read(path)


# -- machines ---------------------------------------------------------------------------------------------------


def test_more_certificates_than_a_guest_reads_are_refused(
    authority: certs.AuthPaths, pem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Those of the machine and those of config.toml, with a rest for everything else.
    assert 2 * trusted_cas.MOST_BYTES <= guest.LARGEST - (1 << 18)
    both = [authority.ca_cert, authority.client_cert]
    monkeypatch.setattr(trusted_cas, "MOST_BYTES", len(pem))
    assert trusted_cas.read_all([authority.ca_cert]) == [pem]
    with pytest.raises(trusted_cas.CaCertificateError, match="KiB are possible"):
        trusted_cas.read_all(both)


def test_config_toml_is_for_all_machines(authority: certs.AuthPaths, store: Store, pem: str) -> None:
    config = store.root / paths.USER_CONFIG
    machine = Machine(name="one", driver_name="plain", driver={}, ca_certificates=[pem])
    other = trusted_cas.read(authority.client_cert)[0]
    (store.root / "other.pem").write_text(other)
    config.write_text('[certificates]\nca = ["other.pem", "~/ca/ca.pem"]\n')
    assert of_machines.of(machine, store.root, Silent()) == [other, pem]
    assert of_machines.of_all_machines(store.root) == [other, pem]
    config.write_text('[certificates]\nca = ["missing.pem"]\n')
    assert of_machines.of(machine, store.root, Silent()) == [pem]


@pytest.mark.parametrize("text", ['ca = "x"', "ca = [1]", 'cas = ["x"]', '[certificates.ca]\nx = "y"'])
def test_a_wrong_table_is_refused(store: Store, text: str) -> None:
    (store.root / paths.USER_CONFIG).write_text(f"[certificates]\n{text}\n")
    with pytest.raises(ConfigError, match="may only have a list of files called ca"):
        of_machines.of_all_machines(store.root)


@pytest.mark.parametrize("value", [["x"], "x", ["-----BEGIN CERTIFICATE-----\n'\n-----END CERTIFICATE-----\n"], [1]])
def test_a_record_with_other_texts_is_refused(value: object) -> None:
    record = Machine(name="one", driver_name="plain", driver={}).to_json()
    with pytest.raises(RecordError, match="CACertificates"):
        Machine.from_json({**record, "CACertificates": value}, name="one")


def test_create_modify_and_clone_keep_them(
    call: Call, store: Store, authority: certs.AuthPaths, pem: str, tmp_path: Path
) -> None:
    call("create", "--ca-cert", str(authority.ca_cert), "one")
    assert json.loads(call("inspect", "one")[1])["CACertificates"] == [pem]
    assert "--ca-cert" in call("inspect", "--origin", "one")[1]
    call("clone", "one", "copy")
    assert store.load("copy").ca_certificates == [pem]
    call("stop", "one")
    call("modify", "--ca-cert", str(authority.client_cert), "one")
    assert store.load("one").ca_certificates == trusted_cas.read(authority.client_cert)
    call("export", "one", str(tmp_path / "file"))
    call("modify", "--ca-cert", "", "one")
    assert store.load("one").ca_certificates == []
    call("modify", "--ca-cert", str(tmp_path / "missing"), "one", code=1)


def test_a_project_file_names_them(
    call: Call, store: Store, authority: certs.AuthPaths, pem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    (folder / "company.pem").write_text(pem)
    file = folder / "pymachine.toml"
    file.write_text('[machine]\nname = "one"\nca-certs = ["company.pem"]\n')
    call("up")
    assert store.load("one").ca_certificates == [pem]
    file.write_text(f'[machine]\nname = "one"\nca-certs = ["{authority.client_cert}"]\n')
    assert "trusted in the machine" in call("up", "--apply", code=1)[2]


def test_a_machine_without_a_trust_store_of_ours_is_refused(
    call: Call, store: Store, authority: certs.AuthPaths
) -> None:
    words = ("--driver", "none", "--url", "tcp://127.0.0.1:2376", "--ca-cert", str(authority.ca_cert))
    _, _, err = call("create", *words, "one", code=1)
    assert "does not support --ca-cert" in err
    assert not store.exists("one")


def test_a_bad_file_creates_nothing(call: Call, store: Store, tmp_path: Path) -> None:
    _, _, err = call("create", "--ca-cert", str(tmp_path / "missing.pem"), "one", code=1)
    assert "cannot read" in err
    assert not store.exists("one")


# -- the identity -----------------------------------------------------------------------------------------------


def test_the_identity_has_them_and_a_clone_gets_them(pem: str, tmp_path: Path) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    identity.make_keys(folder, name="m")
    for name in (paths.CA_CERT, paths.SERVER_CERT, paths.SERVER_KEY):
        (folder / name).write_text("x")
    from pymachine.docker import daemon_json

    engine = daemon_json.files(Machine(name="m", driver_name="qemu", driver={}).engine, driver_name="qemu")
    seed = identity.seed(engine)
    tar = identity.of_machine(folder, hostname="m", engine=engine, ca_certificates=[pem])
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        member = archive.extractfile("ca-certificates.pem")
        assert member is not None
        assert member.read().decode() == pem
    script = activation_script(tar, seed=seed, now=0.0).decode()
    assert f"put ca-certificates.pem '{pem}'" in script
    assert script.rstrip().endswith(" same")
    without = identity.of_machine(folder, hostname="m", engine=engine)
    assert "ca-certificates" not in activation_script(without, seed=seed, now=0.0).decode()


def test_the_origin_shows_a_fingerprint(pem: str) -> None:
    machine = Machine(name="one", driver_name="plain", driver={}, ca_certificates=[pem])
    (shown,) = origins.current_value(machine, origins.CA_CERT)
    assert shown.startswith("sha256:")
    assert json.dumps(shown)


# -- downloads --------------------------------------------------------------------------------------------------


@pytest.fixture
def server(authority: certs.AuthPaths, tmp_path: Path) -> Iterator[str]:
    """Run a server with a certificate of the CA; its URL."""
    folder = tmp_path / "server"
    folder.mkdir()
    (folder / "file").write_text("content")
    certs.ensure_server(authority, directory=folder, name="server", hosts=[LOOPBACK])

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: object) -> None:
            super().__init__(*args, directory=str(folder))  # type: ignore[arg-type]

        def log_message(self, *_: object) -> None:
            pass

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / paths.SERVER_CERT, folder / paths.SERVER_KEY)
    with http.server.ThreadingHTTPServer((LOOPBACK, 0), Handler) as running:
        running.socket = context.wrap_socket(running.socket, server_side=True)
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"https://{LOOPBACK}:{running.server_address[1]}/file"
        running.shutdown()
        thread.join()


def test_downloads_trust_what_was_added(server: str, pem: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(trust, "_added", {})
    with Session() as session, pytest.raises(FetchError, match="certificate"):
        session.read(server, largest=100, seconds=20)
    trust.add([pem])
    with Session() as session:
        assert session.read(server, largest=100, seconds=20) == b"content"
