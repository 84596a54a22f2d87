"""The certificate authority and its certificates, checked with OpenSSL and real TLS handshakes."""

from __future__ import annotations

import dataclasses
import datetime as dt
import multiprocessing
import signal
import socket
import ssl
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given, settings, strategies as st

from pymachine.docker import api
from pymachine.driver.contract import Endpoint
from pymachine.driver.kit import transactions
from pymachine.store.client_files import ClientFiles
from pymachine.system import files
from pymachine.system.progress import Silent
from pymachine.system.run import run
from pymachine.system.stream_reporter import StreamReporter
from pymachine.tls import certs, handshake
from pymachine.tls.certs import AuthPaths, CertificateError


def auth_paths(root: Path) -> AuthPaths:
    folder = root / "certs"
    return AuthPaths(folder / "ca.pem", folder / "ca-key.pem", folder / "cert.pem", folder / "key.pem")


@pytest.fixture
def auth(tmp_path: Path) -> AuthPaths:
    paths = auth_paths(tmp_path)
    certs.ensure_authority(paths, reporter=Silent())
    return paths


@pytest.fixture
def machine(auth: AuthPaths, tmp_path: Path) -> Path:
    folder = tmp_path / "machines" / "intro"
    folder.mkdir(parents=True)
    certs.ensure_server(auth, directory=folder, name="intro", hosts=["alias.example", "127.0.0.1", "localhost"])
    return folder


def load(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def test_openssl_verifies_the_chain_and_the_purposes(auth: AuthPaths, machine: Path) -> None:
    run(["openssl", "verify", "-x509_strict", "-CAfile", auth.ca_cert, auth.ca_cert])
    run(["openssl", "verify", "-CAfile", auth.ca_cert, "-purpose", "sslclient", auth.client_cert])
    run(["openssl", "verify", "-CAfile", auth.ca_cert, "-purpose", "sslserver", machine / "server.pem"])
    wrong = run(["openssl", "verify", "-CAfile", auth.ca_cert, "-purpose", "sslserver", auth.client_cert], check=False)
    assert wrong.returncode != 0


def test_certificates_have_docker_machines_names_lifetime_and_usages(auth: AuthPaths, machine: Path) -> None:
    server = load(machine / "server.pem")
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(name.value) for name in names] == ["alias.example", "127.0.0.1", "localhost"]
    assert server.not_valid_after_utc - server.not_valid_before_utc == dt.timedelta(days=1080)
    assert server.not_valid_before_utc < dt.datetime.now(dt.UTC) - dt.timedelta(minutes=4)
    assert server.subject.rfc4514_string().endswith(".intro")
    assert list(server.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [
        ExtendedKeyUsageOID.SERVER_AUTH
    ]
    assert load(auth.client_cert).subject.rdns[0].rfc4514_string().endswith(".\\<bootstrap\\>")
    assert load(auth.ca_cert).extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert server.serial_number.bit_length() <= 128


def test_keys_are_readable_by_the_owner_only(auth: AuthPaths, machine: Path) -> None:
    for key in (auth.ca_key, auth.client_key, machine / "server-key.pem", machine / "key.pem"):
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert stat.S_IMODE(auth.ca_cert.parent.stat().st_mode) == 0o700
    assert not list(machine.glob("ca-key*"))


def test_valid_certificates_are_kept(auth: AuthPaths, machine: Path) -> None:
    before = {path: path.read_bytes() for path in (auth.ca_cert, auth.client_key, machine / "server.pem")}
    certs.ensure_authority(auth, reporter=Silent())
    certs.ensure_server(auth, directory=machine, name="intro", hosts=["alias.example", "127.0.0.1", "localhost"])
    assert {path: path.read_bytes() for path in before} == before


def test_a_new_address_or_authority_gives_a_new_server_certificate(auth: AuthPaths, machine: Path) -> None:
    first = (machine / "server.pem").read_bytes()
    certs.ensure_server(auth, directory=machine, name="intro", hosts=["127.0.0.2", "localhost"])
    second = (machine / "server.pem").read_bytes()
    assert first != second
    for path in (auth.ca_cert, auth.ca_key, auth.client_cert, auth.client_key):
        path.unlink()
    certs.ensure_authority(auth, reporter=Silent())
    certs.ensure_server(auth, directory=machine, name="intro", hosts=["127.0.0.2", "localhost"])
    assert (machine / "server.pem").read_bytes() != second
    assert (machine / "ca.pem").read_bytes() == auth.ca_cert.read_bytes()


def test_the_hosts_of_a_certificate_are_known(auth: AuthPaths, machine: Path) -> None:
    certificate = machine / "server.pem"
    assert all(certs.is_for(certificate, host) for host in ("127.0.0.1", "localhost", "alias.example"))
    assert not certs.is_for(certificate, "127.0.0.2")
    assert not certs.is_for(auth.client_cert, "127.0.0.1")
    assert not certs.is_for(machine / "missing.pem", "127.0.0.1")


def test_an_expired_authority_is_replaced_and_the_old_files_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import sys

    auth = auth_paths(tmp_path)
    now = dt.datetime.now(dt.UTC).replace(microsecond=0)
    monkeypatch.setattr(certs, "_now", lambda: now - dt.timedelta(days=2000))
    certs.ensure_authority(auth, reporter=Silent())
    old = auth.ca_key.read_bytes()
    monkeypatch.setattr(certs, "_now", lambda: now)
    certs.ensure_authority(auth, reporter=StreamReporter(sys.stdout))
    assert "CA certificate is outdated and needs to be regenerated" in capsys.readouterr().out
    assert certs.expires(auth.ca_cert) > now
    assert (auth.ca_key.parent / "ca-key.pem.old").read_bytes() == old
    run(["openssl", "verify", "-CAfile", auth.ca_cert, auth.client_cert])


@pytest.mark.parametrize("name", ["ca_cert", "client_cert"])
def test_a_certificate_that_is_not_valid_yet_is_an_error_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The cause may be a slow clock, and no machine would know a new CA."""
    auth = auth_paths(tmp_path)
    now = dt.datetime(2026, 5, 4, 12, tzinfo=dt.UTC)
    monkeypatch.setattr(certs, "_now", lambda: now)
    certs.ensure_authority(auth, reporter=Silent())
    monkeypatch.setattr(certs, "_now", lambda: now - dt.timedelta(days=1))
    if name == "client_cert":
        certs._new_ca(auth, Silent())
    before = auth.ca_cert.read_bytes()
    with pytest.raises(CertificateError) as caught:
        certs.ensure_authority(auth, reporter=Silent())
    told = f"{getattr(auth, name)} is not valid before 2026-05-04 11:55:00 UTC; this host's clock says 2026-05-03"
    assert told in caught.value.brief
    assert "clock" in caught.value.hint
    assert auth.ca_cert.read_bytes() == before
    monkeypatch.setattr(certs, "_now", lambda: now)
    certs.ensure_authority(auth, reporter=Silent())


def test_a_server_certificate_that_is_not_valid_yet_is_replaced(
    auth: AuthPaths, machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = certs._now()
    hosts = ["127.0.0.1"]
    with monkeypatch.context() as ahead:
        ahead.setattr(certs, "_now", lambda: now + dt.timedelta(days=1))
        certs.ensure_server(auth, directory=machine, name="intro", hosts=hosts)
    assert load(machine / "server.pem").not_valid_before_utc > now
    certs.ensure_server(auth, directory=machine, name="intro", hosts=hosts)
    assert load(machine / "server.pem").not_valid_before_utc <= now


def test_a_certificate_without_its_key_is_not_overwritten(auth: AuthPaths) -> None:
    auth.ca_key.unlink()
    before = auth.ca_cert.read_bytes()
    with pytest.raises(CertificateError, match="ca-key.pem is missing"):
        certs.ensure_authority(auth, reporter=Silent())
    assert auth.ca_cert.read_bytes() == before


def test_a_client_certificate_that_a_new_ca_replaces_is_kept_as_old(auth: AuthPaths) -> None:
    """It may be the user's own, from --tls-client-cert."""
    given = (auth.client_cert.read_bytes(), auth.client_key.read_bytes())
    auth.ca_cert.unlink()
    auth.ca_key.unlink()
    certs.ensure_authority(auth, reporter=Silent())
    kept = [path.with_name(f"{path.name}.old").read_bytes() for path in (auth.client_cert, auth.client_key)]
    assert (kept[0], kept[1]) == given
    assert auth.client_cert.read_bytes() != given[0]


@pytest.mark.parametrize(
    ("cert", "said"),
    [("ca_cert", "certificate authority key already exists"), ("client_cert", "client key already exists")],
)
def test_a_key_without_its_certificate_is_not_replaced(auth: AuthPaths, tmp_path: Path, cert: str, said: str) -> None:
    """The certificate's path may be wrong (``--tls-ca-cert``). docker-machine reports the same error."""
    moved = replace(auth, **{cert: tmp_path / "elsewhere" / "x.pem"})
    before = {path: path.read_bytes() for path in auth.ca_cert.parent.iterdir()}
    with pytest.raises(CertificateError, match=said) as caught:
        certs.ensure_authority(moved, reporter=Silent())
    assert "x.pem is not" in caught.value.details
    assert {path: path.read_bytes() for path in auth.ca_cert.parent.iterdir()} == before


def test_a_certificate_and_its_key_are_replaced_together_or_not_at_all(auth: AuthPaths, tmp_path: Path) -> None:
    pair = certs._read(auth.client_cert, auth.client_key)
    before = auth.client_key.read_bytes()
    with pytest.raises(CertificateError, match=r"cannot write c\.pem and key\.pem: No such file or directory"):
        certs._write(tmp_path / "none" / "c.pem", auth.client_key, pair)
    (tmp_path / "file").touch()
    with pytest.raises(CertificateError, match=r"cannot write cert\.pem and key\.pem: Not a directory"):
        certs._write(auth.client_cert, tmp_path / "file" / "key.pem", pair)
    assert auth.client_key.read_bytes() == before
    assert not [path for path in auth.ca_cert.parent.iterdir() if path.name.endswith(".new")]


@pytest.mark.parametrize("step", ["before the key", "after the key"])
def test_a_crash_between_certificate_and_key_is_repaired(
    auth: AuthPaths, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    class Killed(BaseException):
        pass

    write, before = files.atomic_write, auth.ca_key.read_bytes()

    def killed(path: Path, data: bytes, *, mode: int) -> None:
        if path == auth.ca_key:
            if step == "after the key":
                write(path, data, mode=mode)
            raise Killed
        write(path, data, mode=mode)

    with monkeypatch.context() as dying:
        dying.setattr(files, "atomic_write", killed)
        with pytest.raises(Killed):
            certs.renew_authority(auth, reporter=Silent())
    certs.ensure_authority(auth, reporter=Silent())
    certs._read(auth.ca_cert, auth.ca_key)
    assert (auth.ca_key.read_bytes() == before) == (step == "before the key")
    assert not [path for path in auth.ca_cert.parent.iterdir() if path.name.endswith(".new")]


@pytest.mark.parametrize(
    "content", [b"", b"nonsense", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
)
def test_a_file_that_is_not_a_certificate_is_named_in_the_error(auth: AuthPaths, content: bytes) -> None:
    auth.ca_cert.write_bytes(content)
    with pytest.raises(CertificateError, match="cannot read the certificate .*ca.pem"):
        certs.ensure_authority(auth, reporter=Silent())


def _create_certificates(root: str) -> None:
    certs.ensure_authority(auth_paths(Path(root)), reporter=Silent())


def test_twenty_simultaneous_first_creates_share_one_authority(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_create_certificates, args=(str(tmp_path),)) for _ in range(20)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    auth = auth_paths(tmp_path)
    run(["openssl", "verify", "-CAfile", auth.ca_cert, auth.client_cert])
    assert not list(auth.ca_cert.parent.glob("*.old"))


@contextmanager
def tls_server(context: ssl.SSLContext) -> Iterator[int]:
    """A TLS server that completes a handshake with any client and sends one word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    plain, _ = listener.accept()
                except OSError:
                    return
                with plain:
                    try:
                        with context.wrap_socket(plain, server_side=True) as secure:
                            secure.recv(1)
                    except OSError:
                        continue

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


def server_context(machine: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(machine / "server.pem", machine / "server-key.pem")
    context.load_verify_locations(machine / "ca.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def check_handshake(machine: Path, port: int, host: str = "127.0.0.1") -> None:
    handshake.check(host, port, ca=machine / "ca.pem", cert=machine / "cert.pem", key=machine / "key.pem", timeout=5)


def test_the_handshake_check_accepts_our_certificates(machine: Path) -> None:
    with tls_server(server_context(machine)) as port:
        check_handshake(machine, port)
        check_handshake(machine, port, "localhost")


def test_the_handshake_check_fails_if_the_server_refuses_the_client(machine: Path, tmp_path: Path) -> None:
    """The refusal comes before the handshake is complete. With TLS 1.3 it would come only afterwards."""
    other = auth_paths(tmp_path / "other")
    certs.ensure_authority(other, reporter=Silent())
    with (
        tls_server(server_context(machine)) as port,
        pytest.raises(handshake.CertificateRefusedError, match="unknown certificate authority"),
    ):
        handshake.check(
            "127.0.0.1", port, ca=machine / "ca.pem", cert=other.client_cert, key=other.client_key, timeout=5
        )


def test_the_handshake_check_accepts_a_server_with_tls_1_3_only(machine: Path) -> None:
    context = server_context(machine)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    with tls_server(context) as port:
        check_handshake(machine, port)


def test_the_handshake_check_rejects_another_authority_or_name(machine: Path, tmp_path: Path) -> None:
    other = auth_paths(tmp_path / "other")
    certs.ensure_authority(other, reporter=Silent())
    folder = tmp_path / "other" / "m"
    folder.mkdir()
    certs.ensure_server(other, directory=folder, name="m", hosts=["127.0.0.1"])
    with tls_server(server_context(folder)) as port, pytest.raises(handshake.TlsError, match="x509: .*certificate"):
        check_handshake(machine, port)
    with tls_server(server_context(machine)) as port, pytest.raises(handshake.TlsError, match="x509: .*127.0.0.5"):
        # 127.0.0.5 reaches nothing: the name is what is wrong here, so connect by a socket that lies about it
        import unittest.mock

        real = socket.create_connection
        with unittest.mock.patch("socket.create_connection", lambda _a, timeout: real(("127.0.0.1", port), timeout)):
            check_handshake(machine, port, "127.0.0.5")


@pytest.mark.parametrize(("days", "said"), [(1, "not yet valid"), (-2000, "has expired")])
def test_an_expired_or_future_server_certificate_is_final_and_the_hint_names_the_clock(
    auth: AuthPaths, machine: Path, monkeypatch: pytest.MonkeyPatch, days: int, said: str
) -> None:
    now = certs._now()
    monkeypatch.setattr(certs, "_now", lambda: now + dt.timedelta(days=days))
    pair = certs._make_server(certs._read(auth.ca_cert, auth.ca_key), name="x", hosts=["127.0.0.1"])
    certs._write(machine / "server.pem", machine / "server-key.pem", pair)
    with (
        tls_server(server_context(machine)) as port,
        pytest.raises(handshake.CertificateRefusedError, match=said) as caught,
    ):
        check_handshake(machine, port)
    assert "clock" in caught.value.hint
    assert "regenerate-certs" in caught.value.hint


def stranger(auth: AuthPaths, tmp_path: Path) -> certs._Pair:
    other = auth_paths(tmp_path / "other")
    certs.ensure_authority(other, reporter=Silent())
    return certs._read(other.client_cert, other.client_key)


def outdated(auth: AuthPaths, tmp_path: Path) -> certs._Pair:
    with pytest.MonkeyPatch.context() as patch:
        now = certs._now()
        patch.setattr(certs, "_now", lambda: now - dt.timedelta(days=2000))
        return certs._make_client(certs._read(auth.ca_cert, auth.ca_key))


def premature(auth: AuthPaths, tmp_path: Path) -> certs._Pair:
    with pytest.MonkeyPatch.context() as patch:
        now = certs._now()
        patch.setattr(certs, "_now", lambda: now + dt.timedelta(days=1))
        return certs._make_client(certs._read(auth.ca_cert, auth.ca_key))


@pytest.mark.parametrize("client", [stranger, outdated, premature])
def test_a_client_certificate_that_the_engine_refuses_is_a_final_error(
    auth: AuthPaths, machine: Path, tmp_path: Path, client: Callable[[AuthPaths, Path], certs._Pair]
) -> None:
    """With TLS 1.3 the refusal arrives after the handshake, with the first answer."""
    certs._write(machine / "cert.pem", machine / "key.pem", client(auth, tmp_path))
    with (
        tls_server(server_context(machine)) as port,
        pytest.raises(handshake.CertificateRefusedError, match="remote error: tls: ") as caught,
    ):
        api.ping(Endpoint("127.0.0.1", docker_port=port), certificates=ClientFiles.in_folder(machine), timeout=5)
    assert "does not accept the client's certificate" in caught.value.hint


def test_the_handshake_check_rejects_an_old_protocol(machine: Path) -> None:
    context = server_context(machine)
    with pytest.warns(DeprecationWarning):
        context.minimum_version = ssl.TLSVersion.TLSv1_1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    with tls_server(context) as port, pytest.raises(handshake.TlsError):
        check_handshake(machine, port)


def test_a_refused_connection_and_missing_files_are_different_errors(machine: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(handshake.TlsError, match="connection refused") as refused:
        check_handshake(machine, port)
    assert 'validating certificates for host "127.0.0.1:' in refused.value.brief
    (machine / "cert.pem").unlink()
    with pytest.raises(handshake.TlsError, match="No such file"):
        check_handshake(machine, port)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(min_size=1, max_size=20), max_size=4))
def test_any_san_is_accepted_or_refused_by_value(names: list[str]) -> None:
    try:
        made = certs._alternative_names(names)
    except CertificateError as error:
        assert any(repr(name) in error.brief for name in names)
    else:
        assert len(made) == len(set(names))


def test_files_kept_by_a_killed_renewal_are_removed_once_unused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The authority may be in any folder; files of other programs there stay."""
    auth = certs.AuthPaths(*(tmp_path / "mine" / name for name in ("ca.pem", "ca-key.pem", "cert.pem", "key.pem")))
    certs.ensure_authority(auth, reporter=Silent())
    folder = auth.ca_cert.parent
    before = set(folder.iterdir())
    code = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom pymachine.system import files\n"
        "with files.kept([Path(name) for name in sys.argv[1:]]):\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    words = [sys.executable, "-c", code, *map(str, dataclasses.astuple(auth))]
    assert subprocess.run(words, check=False).returncode == -signal.SIGKILL
    foreign = folder / ".other.pem.0123456789ab.tmp"
    foreign.touch()
    assert len(set(folder.iterdir()) - before) == 5
    certs.ensure_authority(auth, reporter=Silent())  # too young to tell from files that are being written
    assert len(set(folder.iterdir()) - before) == 5
    monkeypatch.setattr(transactions, "_TEMPORARY_SECONDS", -1.0)
    with files.kept(dataclasses.astuple(auth)) as restore:
        certs.renew_authority(auth, reporter=Silent())
        certs.ensure_authority(auth, reporter=Silent())
        renewed = auth.ca_cert.read_bytes()
        restore()
    assert auth.ca_cert.read_bytes() != renewed
    certs.ensure_authority(auth, reporter=Silent())
    left = {path.name for path in set(folder.iterdir()) - before}
    assert left == {foreign.name, *(f"{path.name}.old" for path in dataclasses.astuple(auth))}
