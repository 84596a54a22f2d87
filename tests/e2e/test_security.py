"""Which clients a running machine accepts, and who can read its keys and certificates."""

from __future__ import annotations

import ssl
import stat
from pathlib import Path

import pytest

from pymachine.system.progress import Silent
from pymachine.tls.certs import AuthPaths, ensure_authority
from support.runner import Pymachine
from support.tls_clients import ping, signed_by

# A refusal by the server is a TLS alert or a closed connection.
REFUSED = (ssl.SSLError, ConnectionError)


@pytest.fixture
def url(intro: Pymachine) -> str:
    return intro("url", "intro").stdout.strip()


@pytest.fixture
def certs(intro: Pymachine) -> Path:
    return intro.store / "certs"


def test_a_client_of_the_store_is_accepted(url: str, certs: Path, tmp_path: Path) -> None:
    """This shows that the refusals below have the intended reasons."""
    assert ping(url, ca=certs / "ca.pem", pair=(certs / "cert.pem", certs / "key.pem")) == "OK"
    own = signed_by(certs / "ca.pem", certs / "ca-key.pem", tmp_path)
    assert ping(url, ca=certs / "ca.pem", pair=own) == "OK"


def test_a_client_without_a_certificate_is_refused(url: str, certs: Path) -> None:
    with pytest.raises(REFUSED):
        ping(url, ca=certs / "ca.pem", pair=None)


def test_a_certificate_of_another_ca_is_refused(url: str, certs: Path, tmp_path: Path) -> None:
    """The CA of another user's store has the same names in it."""
    other = AuthPaths(*(tmp_path / name for name in ("ca.pem", "ca-key.pem", "cert.pem", "key.pem")))
    ensure_authority(other, reporter=Silent())
    with pytest.raises(REFUSED):
        ping(url, ca=certs / "ca.pem", pair=(other.client_cert, other.client_key))


def test_an_expired_certificate_is_refused(url: str, certs: Path, tmp_path: Path) -> None:
    expired = signed_by(certs / "ca.pem", certs / "ca-key.pem", tmp_path, expired=True)
    with pytest.raises(REFUSED):
        ping(url, ca=certs / "ca.pem", pair=expired)


def test_old_tls_is_refused(url: str, certs: Path) -> None:
    pair = (certs / "cert.pem", certs / "key.pem")
    # The server must send the alert; a client without TLS 1.1 would fail with NO_PROTOCOLS_AVAILABLE.
    with pytest.raises(ssl.SSLError, match=r"(?i)alert[_ ]protocol[_ ]version"):
        ping(url, ca=certs / "ca.pem", pair=pair, newest=ssl.TLSVersion.TLSv1_1)


def test_the_engine_does_not_listen_without_tls(intro: Pymachine) -> None:
    listening = intro("ssh", "intro", "cat /proc/net/tcp /proc/net/tcp6").stdout.splitlines()
    ports = {int(line.split()[1].rpartition(":")[2], 16) for line in listening if " 0A " in line}
    assert 2376 in ports
    assert 2375 not in ports


def test_ssh_accepts_only_keys(intro: Pymachine) -> None:
    settings = intro("ssh", "intro", "sudo /usr/sbin/sshd -T").stdout.lower().splitlines()
    assert "passwordauthentication no" in settings


def test_another_host_key_is_refused(intro: Pymachine) -> None:
    """SSH fails if the machine's host key is not the pinned one."""
    known = intro.store / "machines" / "intro" / "known_hosts"
    good = known.read_text()
    kind, key = good.split()[-2:]
    forged = good.replace(key, key[:-6] + ("AAAAAA" if not key.endswith("AAAAAA") else "BBBBBB"))
    assert kind
    known.write_text(forged)
    try:
        assert intro("ssh", "intro", "true", code=None).code != 0
    finally:
        known.write_text(good)
    intro("ssh", "intro", "true")


def test_keys_and_certificates_are_readable_only_by_the_owner(intro: Pymachine) -> None:
    checked = 0
    for path in intro.store.rglob("*"):
        if path.is_symlink() or not path.is_file():
            continue
        if path.name.endswith("key.pem") or path.name in {"id_rsa", "ssh_host_ed25519_key"}:
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
            checked += 1
        if path.suffix in {".pem", ".raw", ".qcow2", ".json"} and "cache" not in path.parts:
            assert not readable_by_others(path, intro.store), path
            checked += 1
    assert checked > 8
    for entry in (intro.store / "machines", intro.store / "machines" / "intro"):
        assert stat.S_IMODE(entry.stat().st_mode) == 0o700, entry


def readable_by_others(path: Path, top: Path) -> bool:
    """Return whether the modes of `path` and of its parents below `top` let other users read it."""
    way = [parent for parent in path.parents if parent == top or top in parent.parents]
    return bool(path.stat().st_mode & 0o044) and all(parent.stat().st_mode & 0o011 for parent in way)
