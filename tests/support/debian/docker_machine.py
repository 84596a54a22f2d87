"""Set up a machine as docker-machine 0.16.2's generic driver leaves it, in the store and on the host."""

from __future__ import annotations

import datetime as dt
import ipaddress
import json
import shutil
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from support.debian.host import Host

DROP_IN = """\
[Service]
ExecStart=
ExecStart=/usr/sbin/dockerd -H tcp://0.0.0.0:{port} -H unix:///var/run/docker.sock --storage-driver overlay2 \
--tlsverify --tlscacert /etc/docker/ca.pem --tlscert /etc/docker/server.pem --tlskey /etc/docker/server-key.pem \
--label provider=generic 
Environment=
"""  # noqa: W291 (exactly as docker-machine writes it)


def record(store: Path, name: str, host: Host) -> None:
    """Write the machine's folder with config.json and the key, without certificates."""
    folder = store / "machines" / name
    folder.mkdir(parents=True, mode=0o700)
    shutil.copy(host.built.key, folder / "id_ed25519")
    (folder / "id_ed25519").chmod(0o600)
    certs = store / "certs"
    config = {
        "ConfigVersion": 3,
        "Driver": {
            "IPAddress": "127.0.0.1",
            "MachineName": name,
            "SSHUser": "admin",
            "SSHPort": host.ssh_port,
            "SSHKeyPath": str(folder / "id_ed25519"),
            "StorePath": str(store),
            "SwarmMaster": False,
            "SwarmHost": "tcp://0.0.0.0:3376",
            "SwarmDiscovery": "",
            "EnginePort": host.engine_port,
            "SSHKey": str(host.built.key),
        },
        "DriverName": "generic",
        "HostOptions": {
            "Driver": "",
            "Memory": 0,
            "Disk": 0,
            "EngineOptions": {
                "ArbitraryFlags": [],
                "Dns": None,
                "GraphDir": "",
                "Env": [],
                "Ipv6": False,
                "InsecureRegistry": [],
                "Labels": [],
                "LogLevel": "",
                "StorageDriver": "",
                "SelinuxEnabled": False,
                "TlsVerify": True,
                "RegistryMirror": [],
                "InstallURL": "https://get.docker.com",
            },
            "SwarmOptions": {"IsSwarm": False, "Host": "tcp://0.0.0.0:3376", "Image": "swarm:latest", "Env": None},
            "AuthOptions": {
                "CertDir": str(certs),
                "CaCertPath": str(certs / "ca.pem"),
                "CaPrivateKeyPath": str(certs / "ca-key.pem"),
                "ServerCertPath": str(folder / "server.pem"),
                "ServerKeyPath": str(folder / "server-key.pem"),
                "ClientKeyPath": str(certs / "key.pem"),
                "ClientCertPath": str(certs / "cert.pem"),
                "ServerCertSANs": [],
                "StorePath": str(folder),
            },
        },
        "Name": name,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=4))


def generic(store: Path, name: str, host: Host) -> None:
    """Write the record and docker-machine's RSA certificates, and set up the host's engine as docker-machine does."""
    record(store, name, host)
    folder, certs = store / "machines" / name, store / "certs"
    certs.mkdir(mode=0o700)
    ca_key, ca = _issue("tester", None, None)
    for organisation, stem, purpose in (
        ("tester.<bootstrap>", certs / "cert", ExtendedKeyUsageOID.CLIENT_AUTH),
        (f"tester.{name}", folder / "server", ExtendedKeyUsageOID.SERVER_AUTH),
    ):
        key, certificate = _issue(organisation, purpose, (ca_key, ca))
        _write(stem.with_suffix(".pem"), _pem(certificate))
        key_file = certs / "key.pem" if stem.name == "cert" else folder / "server-key.pem"
        _write(key_file, _key_pem(key))
    _write(certs / "ca.pem", _pem(ca))
    _write(certs / "ca-key.pem", _key_pem(ca_key))
    for file in ("ca.pem", "cert.pem", "key.pem"):
        shutil.copy(certs / file, folder / file)
    host.run("mkdir -p /etc/systemd/system/docker.service.d")
    for file in ("ca.pem", "server.pem", "server-key.pem"):
        host.run(f"cat > /etc/docker/{file}", stdin=(folder / file).read_text())
    drop_in = DROP_IN.format(port=host.engine_port)
    # docker-machine put labels on the command line; then daemon.json must not have any.
    host.run("sed -i '/labels/d' /etc/docker/daemon.json")
    host.run("cat > /etc/systemd/system/docker.service.d/10-machine.conf", stdin=drop_in)
    host.run("systemctl daemon-reload && systemctl restart docker")


def _issue(
    organisation: str,
    purpose: x509.ObjectIdentifier | None,
    issuer: tuple[rsa.RSAPrivateKey, x509.Certificate] | None,
) -> tuple[rsa.RSAPrivateKey, x509.Certificate]:
    key = rsa.generate_private_key(65537, 2048)
    subject = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, organisation)])
    now = dt.datetime.now(dt.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer[1].subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(minutes=5))
        .not_valid_after(now + dt.timedelta(days=1080))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
    )
    if purpose:
        builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
    if purpose == ExtendedKeyUsageOID.SERVER_AUTH:
        names = [x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName("localhost")]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return key, builder.sign(issuer[0] if issuer else key, hashes.SHA256())


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    path.chmod(0o600)
