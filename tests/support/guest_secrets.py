"""The keys, certificates and identities of a guest in plain QEMU."""

from __future__ import annotations

import datetime as dt
import shutil
import ssl
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from pymachine.docker import daemon_json
from pymachine.hosts import identity
from pymachine.ssh import keys
from pymachine.store import paths
from pymachine.store.record import EngineOptions
from pymachine.system.progress import Silent
from pymachine.tls import certs
from pymachine.tls.handshake import context


class Secrets:
    """The keys, certificates and identities of one machine."""

    def __init__(self, folder: Path, *, addresses: tuple[str, ...] = ("127.0.0.1",)) -> None:
        """The server certificate is for `addresses`."""
        self.folder = folder
        self._addresses = addresses
        names = (paths.CA_CERT, paths.CA_KEY, paths.CLIENT_CERT, paths.CLIENT_KEY)
        self.auth = certs.AuthPaths(*(folder / "certs" / name for name in names))
        certs.ensure_authority(self.auth, reporter=Silent())
        self.directory = folder / "machine"
        self.directory.mkdir()
        shutil.copy(self.auth.ca_cert, self.directory)
        identity.make_keys(self.directory, name="guest")
        self.new_server_certificate()

    def new_server_certificate(self) -> None:
        (self.directory / paths.SERVER_CERT).unlink(missing_ok=True)
        certs.ensure_server(self.auth, directory=self.directory, name="guest", hosts=self._addresses)

    @property
    def server_certificate(self) -> bytes:
        """In DER."""
        return ssl.PEM_cert_to_DER_cert((self.directory / paths.SERVER_CERT).read_text())

    @property
    def ssh_key(self) -> Path:
        return self.directory / paths.SSH_KEY

    @property
    def host_key(self) -> str:
        return keys.public_half(self.directory / paths.SSH_HOST_KEY).read_text().strip()

    def identity(self, *, hostname: str, labels: list[str]) -> bytes:
        options = EngineOptions(labels=labels, env=["NO_PROXY=10.9.8.7"])
        files = daemon_json.files(options, driver_name="test")
        return identity.of_machine(self.directory, hostname=hostname, engine=files)

    def context(self) -> ssl.SSLContext:
        return context(ca=self.auth.ca_cert, cert=self.auth.client_cert, key=self.auth.client_key)

    def expired_client(self) -> ssl.SSLContext:
        """Return a TLS context like `context`, with a certificate of the same CA that expired yesterday."""
        key = ec.generate_private_key(ec.SECP256R1())
        authority = serialization.load_pem_private_key(self.auth.ca_key.read_bytes(), None)
        assert isinstance(authority, ec.EllipticCurvePrivateKey)
        now = dt.datetime.now(dt.UTC)
        name = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "expired")])
        builder = (
            x509.CertificateBuilder(x509.load_pem_x509_certificate(self.auth.ca_cert.read_bytes()).subject, name)
            .public_key(key.public_key())
            .serial_number(1)
            .not_valid_before(now - dt.timedelta(days=2))
            .not_valid_after(now - dt.timedelta(days=1))
        )
        pem = serialization.Encoding.PEM
        private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        file = self.folder / "expired.pem"
        file.write_bytes(builder.sign(authority, hashes.SHA256()).public_bytes(pem) + private)
        return context(ca=self.auth.ca_cert, cert=file, key=file)
