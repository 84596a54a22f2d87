"""A fake engine on the loopback: mutual TLS with the store's real certificates, and an answer to ``GET /version``."""

from __future__ import annotations

import json
import socketserver
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from pymachine.driver.contract import Endpoint
from pymachine.store.record import EngineOptions, Machine
from pymachine.store.store import Store
from pymachine.system.progress import Silent
from pymachine.tls.certs import AuthPaths, ensure_authority, ensure_server

VERSION = "28.5.2"


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = json.dumps({"Version": VERSION}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


class _Server(ThreadingHTTPServer):
    """A server that does each TLS handshake in the connection's thread, and ignores clients that hang up early."""

    daemon_threads = True
    context: ssl.SSLContext

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            secure = self.context.wrap_socket(request, server_side=True)
        except OSError:
            return
        super().process_request_thread(secure, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass


class _UnixServer(socketserver.ThreadingUnixStreamServer):
    """A server on a unix socket."""

    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass


class _UnixHandler(_Handler):
    def address_string(self) -> str:
        return "unix"


@contextmanager
def on_socket(path: Path) -> Iterator[None]:
    """Run an engine on a unix socket, without TLS, as it is in a machine."""
    with _UnixServer(str(path), _UnixHandler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()
            path.unlink()


def record(store: Store, name: str, port: int, *, labels: tuple[str, ...] = ()) -> Machine:
    """Save a machine of the driver `none` whose engine listens on the loopback at `port`."""
    folder = store.machine_dir(name)
    machine = Machine(
        name=name,
        driver_name="none",
        driver={"URL": f"tcp://127.0.0.1:{port}", "IPAddress": "127.0.0.1", "MachineName": name},
        engine=EngineOptions(labels=list(labels)),
        endpoint=Endpoint("127.0.0.1", docker_port=port),
    )
    machine.auth.store_path = str(folder)
    store.save(machine)
    return machine


@contextmanager
def machine(root: Path, name: str = "intro") -> Iterator[int]:
    """Add a machine called `name`, whose engine answers, to the store at `root`; yield the engine's port."""
    store = Store(root)
    folder = store.machine_dir(name)
    certs = root / "certs"
    auth = AuthPaths(certs / "ca.pem", certs / "ca-key.pem", certs / "cert.pem", certs / "key.pem")
    ensure_authority(auth, reporter=Silent())
    server = _Server(("127.0.0.1", 0), _Handler)
    port = server.server_address[1]
    record(store, name, port)
    ensure_server(auth, directory=folder, name=name, hosts=["127.0.0.1", "localhost"])
    server.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.context.load_cert_chain(folder / "server.pem", folder / "server-key.pem")
    server.context.load_verify_locations(folder / "ca.pem")
    server.context.verify_mode = ssl.CERT_REQUIRED
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
