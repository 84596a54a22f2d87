"""Debian's docker-registry on the loopback, and a small client that pushes images without a docker daemon."""

from __future__ import annotations

import hashlib
import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bcrypt
import requests

from pymachine.store import paths
from pymachine.system.progress import Silent
from pymachine.tls import certs
from support.runner import search_path

MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
CONFIG = "application/vnd.docker.container.image.v1+json"
LAYER = "application/vnd.docker.image.rootfs.diff.tar"
# The address of this host's loopback in guests with QEMU's user network.
USER_NETWORK_HOST = "10.0.2.2"
LOOPBACK = "127.0.0.1"
CONFIGURATION = """\
version: 0.1
log: {{level: error}}
storage: {{filesystem: {{rootdirectory: {storage}}}}}
http: {{addr: "{address}:{port}"{tls}}}
{auth}
"""
LOG = "registry.log"


@dataclass(frozen=True)
class Registry:
    """A running registry."""

    port: int
    host_from_guest: str = USER_NETWORK_HOST
    ca: Path | None = None
    """The CA of its certificate; None for a registry without TLS."""

    @property
    def url(self) -> str:
        """Its address on this host."""
        return f"{self._scheme}://{listening_address(self.host_from_guest)}:{self.port}"

    @property
    def url_from_guest(self) -> str:
        """Its address in a machine, for ``--engine-registry-mirror``."""
        return f"{self._scheme}://{self.host_from_guest}:{self.port}"

    @property
    def _scheme(self) -> str:
        return "https" if self.ca else "http"

    @property
    def verify(self) -> str | bool:
        """The value of `verify` for `requests`."""
        return str(self.ca) if self.ca else True

    def push(self, repository: str, tags: list[str], layer: bytes, config: Mapping[str, Any]) -> str:
        """Push an image of one layer (an uncompressed tar) under `tags`; return the image's ID."""
        layer_digest = self._blob(repository, layer)
        document = {**config, "rootfs": {"type": "layers", "diff_ids": [layer_digest]}}
        text = json.dumps(document, sort_keys=True).encode()
        config_digest = self._blob(repository, text)
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {"mediaType": CONFIG, "size": len(text), "digest": config_digest},
            "layers": [{"mediaType": LAYER, "size": len(layer), "digest": layer_digest}],
        }
        for tag in tags:
            url = f"{self.url}/v2/{repository}/manifests/{tag}"
            answer = requests.put(
                url, json.dumps(manifest), headers={"Content-Type": MANIFEST}, timeout=60, verify=self.verify
            )
            answer.raise_for_status()
        return config_digest

    def catalogue(self) -> list[str]:
        """Return the names of its repositories."""
        names: list[str] = requests.get(f"{self.url}/v2/_catalog", timeout=60, verify=self.verify).json()[
            "repositories"
        ]
        return names

    def _blob(self, repository: str, content: bytes) -> str:
        digest = "sha256:" + hashlib.sha256(content).hexdigest()
        begun = requests.post(f"{self.url}/v2/{repository}/blobs/uploads/", timeout=60, verify=self.verify)
        begun.raise_for_status()
        location = begun.headers["Location"]
        separator = "&" if "?" in location else "?"
        url = f"{location}{separator}digest={digest}"
        requests.put(url, content, timeout=60, verify=self.verify).raise_for_status()
        return digest


def free_port() -> int:
    """Return a port of the loopback on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def listening_address(host_from_guest: str) -> str:
    """Return the address on which a server must listen so that machines reach it at `host_from_guest`."""
    return LOOPBACK if host_from_guest == USER_NETWORK_HOST else host_from_guest


@dataclass(frozen=True)
class Tls:
    """The certificate and key of a registry, and the CA that signed the certificate."""

    certificate: Path
    key: Path
    ca: Path


@contextmanager
def running(
    folder: Path, host_from_guest: str = USER_NETWORK_HOST, *, tls: Tls | None = None, users: Path | None = None
) -> Iterator[Registry]:
    """Run a registry with its data, configuration and log in `folder`; end it afterwards.

    With `users`, the file of an Apache server with names and passwords, it demands a login.
    """
    address = listening_address(host_from_guest)
    program = shutil.which("docker-registry", path=search_path())
    assert program, "docker-registry is missing: scripts/setup --tests"
    port = free_port()
    configuration = folder / "registry.yml"
    served = f", tls: {{certificate: {tls.certificate}, key: {tls.key}}}" if tls else ""
    auth = f"auth: {{htpasswd: {{realm: tests, path: {users}}}}}" if users else ""
    text = CONFIGURATION.format(storage=folder / "storage", address=address, port=port, tls=served, auth=auth)
    configuration.write_text(text)
    registry = Registry(port, host_from_guest, tls.ca if tls else None)
    with (folder / LOG).open("wb") as log:
        process = subprocess.Popen([program, "serve", str(configuration)], stdout=log, stderr=log)
    try:
        _await_answer(registry, process)
        yield registry
    finally:
        process.terminate()
        process.wait(20)


def users_file(folder: Path, login: str) -> Path:
    """Write the file for `users` of `running`, with one name and password, and return its path."""
    name, _, password = login.partition(":")
    path = folder / "users"
    path.write_text(f"{name}:{bcrypt.hashpw(password.encode(), bcrypt.gensalt(4)).decode()}\n")
    return path


@contextmanager
def under_private_ca(folder: Path) -> Iterator[Registry]:
    """Run a registry with a certificate of a CA that no system trusts, with everything in `folder`."""
    names = (paths.CA_CERT, paths.CA_KEY, paths.CLIENT_CERT, paths.CLIENT_KEY)
    authority = certs.AuthPaths(*(folder / name for name in names))
    certs.ensure_authority(authority, reporter=Silent())
    certs.ensure_server(authority, directory=folder, name="registry", hosts=[USER_NETWORK_HOST, LOOPBACK])
    tls = Tls(folder / paths.SERVER_CERT, folder / paths.SERVER_KEY, authority.ca_cert)
    with running(folder, tls=tls) as found:
        yield found


def requests_in(folder: Path, text: str) -> int:
    """Return how many requests for what begins with `text` the registry in `folder` has answered with success.

    A cache in front of it may fetch and store something that it has served already, so wait until no more come.
    """
    count, now = -1, _requests_in(folder, text)
    while now != count:
        time.sleep(1)
        count, now = now, _requests_in(folder, text)
    return count


def _requests_in(folder: Path, text: str) -> int:
    lines = (folder / LOG).read_text(encoding="utf-8", errors="replace").splitlines()
    return sum(f'"GET /v2/{text}' in line and ' HTTP/1.1" 200 ' in line for line in lines)


def _await_answer(registry: Registry, process: subprocess.Popen[bytes]) -> None:
    url = f"{registry.url}/v2/"
    deadline = time.monotonic() + 30
    while True:
        try:
            # One that demands a login answers that it does.
            if requests.get(url, timeout=5, verify=registry.verify).status_code in (200, 401):
                return
        except requests.ConnectionError:
            assert process.poll() is None, "docker-registry ended at once"
            assert time.monotonic() < deadline, f"no answer from {url}"
        time.sleep(0.1)
