"""The store's certificate authority, its client certificate, and the machines' server certificates.

Subject, usage and validity of each certificate are docker-machine's. The keys are EC P-256, since an RSA key takes a
noticeable part of a second. The folder is locked while something in it is made or renewed, so that any number of
concurrent first creates share one authority.
"""

from __future__ import annotations

import datetime as dt
import getpass
import ipaddress
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from pymachine.driver.kit import transactions
from pymachine.errors import PymachineError
from pymachine.store import paths
from pymachine.system import files, os_errors
from pymachine.system.limits import RENEW_CERTIFICATES_SECONDS
from pymachine.system.progress import Reporter

VALID_DAYS = 1080
BACKDATED = dt.timedelta(minutes=5)
RENEW_BEFORE = dt.timedelta(seconds=RENEW_CERTIFICATES_SECONDS)
CERT_MODE = 0o644
KEY_MODE = 0o600
# docker-machine's texts for a key whose certificate is missing.
_KEY_EXISTS = {
    "CA certificate": "certificate authority key already exists",
    "Client certificate": "client key already exists",
}


class CertificateError(PymachineError):
    """A certificate or key is missing, cannot be read, or does not match its counterpart."""

    code = "certificate"


@dataclass(frozen=True)
class AuthPaths:
    """The files of the CA and of the client certificate, which ``--tls-ca-cert`` and similar options set."""

    ca_cert: Path
    ca_key: Path
    client_cert: Path
    client_key: Path


@dataclass(frozen=True)
class _Pair:
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


def ensure_authority(auth: AuthPaths, *, reporter: Reporter, margin: dt.timedelta = dt.timedelta()) -> None:
    """Make the CA and the client certificate if they are missing or expire within `margin`.

    Replaced files are kept as ``*.old``. Raises `CertificateError` for a certificate without its key, and for one that
    is not valid yet: the clock is probably wrong, and no machine would know a new CA.
    """
    with _locked(auth):
        new_ca = _needed(auth.ca_cert, auth.ca_key, "CA certificate", reporter, margin)
        if new_ca:
            _new_ca(auth, reporter)
            _keep_old(auth.client_cert)
            _keep_old(auth.client_key)
        if new_ca or _needed(auth.client_cert, auth.client_key, "Client certificate", reporter, margin):
            _new_client(auth, reporter)


def renew_authority(auth: AuthPaths, *, reporter: Reporter, ca: bool = True) -> None:
    """Make a new client certificate and, with `ca`, a new CA. Replaced files are kept as ``*.old``.

    Machines keep using their copies until they get certificates of the new CA.
    """
    with _locked(auth):
        replaced = [auth.client_cert, auth.client_key, *((auth.ca_cert, auth.ca_key) if ca else ())]
        for path in replaced:
            _keep_old(path)
        if ca or not auth.ca_cert.exists():
            _new_ca(auth, reporter)
        _new_client(auth, reporter)


def ensure_server(
    auth: AuthPaths, *, directory: Path, name: str, hosts: Sequence[str], renew: bool = False
) -> dt.datetime:
    """Make a server certificate for `hosts` in the machine's `directory`, and copy the client's files there.

    An existing certificate is kept if it is for these hosts, signed by the current CA and valid for another 30 days,
    unless `renew` is set. Returns when the first of the certificates expires.
    """
    cert, key = directory / paths.SERVER_CERT, directory / paths.SERVER_KEY
    with _locked(auth):
        ca = _read(auth.ca_cert, auth.ca_key)
        copies = [
            (directory / target, source.read_bytes(), mode)
            for source, target, mode in (
                (auth.ca_cert, paths.CA_CERT, CERT_MODE),
                (auth.client_cert, paths.CLIENT_CERT, CERT_MODE),
                (auth.client_key, paths.CLIENT_KEY, KEY_MODE),
            )
        ]
    _finish_write(cert, key)
    if renew or not _server_fits(cert, key, ca, hosts):
        _write(cert, key, _make_server(ca, name=name, hosts=hosts))
    for copy, data, mode in copies:
        if not copy.exists() or copy.read_bytes() != data:
            files.atomic_write(copy, data, mode=mode)
    return first_expiry(directory)


def check_names(hosts: Sequence[str]) -> None:
    """Raise `CertificateError` for a name or address that cannot be in a certificate."""
    _alternative_names(hosts)


def is_for(certificate: Path, host: str) -> bool:
    """Return whether there is a server certificate at this path that names `host`. Raises `CertificateError`."""
    if not certificate.exists():
        return False
    try:
        extension = _load_certificate(certificate).extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return False
    return _alternative_names([host])[0] in list(extension.value)


def first_expiry(directory: Path) -> dt.datetime:
    """Return when the first of a machine's certificates expires (UTC). Raises `CertificateError`."""
    return min(expires(directory / name) for name in (paths.CA_CERT, paths.CLIENT_CERT, paths.SERVER_CERT))


def expires(certificate: Path) -> dt.datetime:
    """Return when a certificate expires (UTC). Raises `CertificateError`."""
    return _load_certificate(certificate).not_valid_after_utc


@contextmanager
def _locked(auth: AuthPaths) -> Iterator[None]:
    """Lock the CA's folder, and remove the temporary files that killed processes left there."""
    with files.acquire_lock(auth.ca_cert.parent / ".lock"):
        for path in (auth.ca_cert, auth.ca_key, auth.client_cert, auth.client_key):
            transactions.sweep_copies(path)
        yield


def _new_ca(auth: AuthPaths, reporter: Reporter) -> None:
    reporter.info(f"Creating CA: {auth.ca_cert}")
    _write(auth.ca_cert, auth.ca_key, _make_ca())


def _new_client(auth: AuthPaths, reporter: Reporter) -> None:
    reporter.info(f"Creating client certificate: {auth.client_cert}")
    _write(auth.client_cert, auth.client_key, _make_client(_read(auth.ca_cert, auth.ca_key)))


def _needed(cert: Path, key: Path, what: str, reporter: Reporter, margin: dt.timedelta) -> bool:
    """Return whether a pair must be made because it is missing or expired. Expired ones are reported.

    A key without its certificate is refused, as in docker-machine: the path of the certificate may be wrong.
    """
    _finish_write(cert, key)
    if not cert.exists():
        if key.exists():
            raise CertificateError(
                _KEY_EXISTS[what],
                details=f"{key} is there, and {cert} is not.",
                hint=f"Give the right path, or restore {cert.name} from a backup. To make both again, move the key "
                "away; machines that exist then need new certificates: pymachine regenerate-certs",
            )
        return True
    if not key.exists():
        raise CertificateError(
            f"{key} is missing, but {cert} is there",
            hint=f"Restore {key.name} from a backup; or move {cert.name} away, and both are made again.",
        )
    _check_begun(cert, key, what)
    if expires(cert) > _now() + margin:
        return False
    reporter.info(f"{what} is outdated and needs to be regenerated")
    _keep_old(cert)
    _keep_old(key)
    return True


def _check_begun(cert: Path, key: Path, what: str) -> None:
    begins, now = _load_certificate(cert).not_valid_before_utc, _now()
    if begins > now:
        raise CertificateError(
            f"{what} {cert} is not valid before {begins:%Y-%m-%d %H:%M:%S} UTC; this host's clock says "
            f"{now:%Y-%m-%d %H:%M:%S} UTC",
            hint=f"Set this host's clock. If it is right, move {cert.name} and {key.name} away: both are made again at "
            "the next create. Machines that exist then need new ones too: pymachine regenerate-certs",
        )


def _keep_old(path: Path) -> None:
    if path.exists():
        shutil.copy2(path, path.with_name(path.name + ".old"))


def _server_fits(cert: Path, key: Path, ca: _Pair, hosts: Sequence[str]) -> bool:
    if not cert.exists() or not key.exists():
        return False
    found = _load_certificate(cert)
    try:
        found.verify_directly_issued_by(ca.certificate)
        names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except Exception:  # noqa: BLE001 (cryptography raises a different type for each way of not fitting)
        return False
    valid = found.not_valid_before_utc <= _now() < found.not_valid_after_utc - RENEW_BEFORE
    return list(names) == _alternative_names(hosts) and valid


def _make_ca() -> _Pair:
    key = ec.generate_private_key(ec.SECP256R1())
    usage = _usage(digital_signature=True, key_encipherment=True, key_agreement=True, key_cert_sign=True)
    builder = (
        _builder(key, organisation=_user(), issuer=_name(_user()))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    return _Pair(builder.sign(key, hashes.SHA256()), key)


def _make_client(ca: _Pair) -> _Pair:
    usage = _usage(digital_signature=True)
    return _issue(ca, f"{_user()}.<bootstrap>", usage, [ExtendedKeyUsageOID.CLIENT_AUTH], [])


def _make_server(ca: _Pair, *, name: str, hosts: Sequence[str]) -> _Pair:
    usage = _usage(digital_signature=True, key_encipherment=True, key_agreement=True)
    return _issue(ca, f"{_user()}.{name}", usage, [ExtendedKeyUsageOID.SERVER_AUTH], _alternative_names(hosts))


def _issue(
    ca: _Pair,
    organisation: str,
    usage: x509.KeyUsage,
    purposes: list[x509.ObjectIdentifier],
    names: list[x509.GeneralName],
) -> _Pair:
    key = ec.generate_private_key(ec.SECP256R1())
    authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca.key.public_key())
    builder = (
        _builder(key, organisation=organisation, issuer=ca.certificate.subject)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        .add_extension(authority, critical=False)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return _Pair(builder.sign(ca.key, hashes.SHA256()), key)


def _builder(key: ec.EllipticCurvePrivateKey, *, organisation: str, issuer: x509.Name) -> x509.CertificateBuilder:
    start = _now() - BACKDATED
    return (
        x509.CertificateBuilder()
        .subject_name(_name(organisation))
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number() >> 32)  # 128 bits, as docker-machine's
        .not_valid_before(start)
        .not_valid_after(start + dt.timedelta(days=VALID_DAYS))
    )


def _usage(
    *,
    digital_signature: bool,
    key_encipherment: bool = False,
    key_agreement: bool = False,
    key_cert_sign: bool = False,
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=key_encipherment,
        data_encipherment=False,
        key_agreement=key_agreement,
        key_cert_sign=key_cert_sign,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


def _alternative_names(hosts: Sequence[str]) -> list[x509.GeneralName]:
    names: list[x509.GeneralName] = []
    for host in dict.fromkeys(hosts):
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(host)))
        except ValueError:
            names.append(_dns_name(host))
    return names


def _dns_name(host: str) -> x509.DNSName:
    try:
        return x509.DNSName(host)
    except ValueError as error:
        raise CertificateError(f"{host!r} cannot be a name in a certificate: {error}") from error


def _name(organisation: str) -> x509.Name:
    # 64 characters is what X.520 allows for an organisation's name.
    return x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, organisation[:64])])


def _user() -> str:
    try:
        return getpass.getuser() or "unknown"
    except (KeyError, OSError):
        return "unknown"


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC).replace(microsecond=0)


def _write(cert: Path, key: Path, pair: _Pair) -> None:
    """Replace both files, or neither if one cannot be written. After a crash `_finish_write` completes it."""
    text = pair.key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
    pending = _pending(cert)
    try:
        files.atomic_write(pending, pair.certificate.public_bytes(serialization.Encoding.PEM), mode=CERT_MODE)
        try:
            files.atomic_write(key, text, mode=KEY_MODE)
        except OSError:
            pending.unlink()
            raise
        pending.replace(cert)
    except OSError as error:
        raise os_errors.wrapped(CertificateError, f"cannot write {cert.name} and {key.name}", error) from error


def _pending(cert: Path) -> Path:
    return cert.with_name(f".{cert.name}.new")


def _finish_write(cert: Path, key: Path) -> None:
    """Complete a `_write` that was interrupted after it replaced the key, by installing the new certificate."""
    pending = _pending(cert)
    if not pending.exists():
        return
    try:
        _read(pending, key)
    except CertificateError:  # interrupted earlier: the key is still the old certificate's
        pending.unlink()
    else:
        pending.replace(cert)


def _read(cert: Path, key: Path) -> _Pair:
    certificate = _load_certificate(cert)
    try:
        loaded = serialization.load_pem_private_key(key.read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:
        raise CertificateError(f"cannot read the key {key}: {error}") from error
    if loaded.public_key() != certificate.public_key():
        raise CertificateError(f"the key {key} is not the one of the certificate {cert}")
    return _Pair(certificate, loaded)  # type: ignore[arg-type]  # RSA keys of docker-machine sign just as well


def _load_certificate(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError) as error:
        raise CertificateError(f"cannot read the certificate {path}: {error}") from error
