"""A small signed apt repository, made by the test, and a web server that can be made to misbehave."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import lzma
import tarfile
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from pysequoia import SignatureMode, Tsk, sign

from pymachine.image.recipe import Source

Files = dict[str, bytes | str | tarfile.TarInfo]


def tar(files: Files) -> bytes:
    """Return a tar of files (bytes), links (their target as text), or ready entries."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, content in files.items():
            info = content if isinstance(content, tarfile.TarInfo) else tarfile.TarInfo(f"./{name}")
            if isinstance(content, bytes):
                info.size, info.mode = len(content), 0o755 if "bin/" in name else 0o644
            elif isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content
            archive.addfile(info, io.BytesIO(content) if isinstance(content, bytes) else None)
    return out.getvalue()


def compressed(data: bytes, kind: str) -> bytes:
    """Compress `data` in the format that the suffix `kind` names."""
    if kind == "zst":
        import zstandard

        return zstandard.ZstdCompressor().compress(data)
    if kind == "xz":
        return lzma.compress(data)
    return gzip.compress(data) if kind == "gz" else data


def deb(files: Files, *, kind: str = "xz") -> bytes:
    """Return a .deb that installs `files`."""
    suffix = f".{kind}" if kind else ""
    members = {
        "debian-binary": b"2.0\n",
        "control.tar.xz": lzma.compress(tar({"control": b"Package: any\n"})),
        f"data.tar{suffix}": compressed(tar(files), kind),
    }
    out = b"!<arch>\n"
    for name, data in members.items():
        out += f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(data):<10}`\n".encode() + data + b"\n" * (len(data) % 2)
    return out


@dataclass
class Repository:
    """A signed apt repository: its files, by path below the server's root."""

    key: Tsk = field(default_factory=lambda: Tsk.generate("Test repository <test@example.org>"))
    files: dict[str, bytes] = field(default_factory=dict)
    entries: list[str] = field(default_factory=list)

    def add(self, name: str, version: str, files: Files, **fields: str) -> bytes:
        """Add a package; `fields` are added to its Packages entry (``Depends`` and so on)."""
        data = deb(files)
        path = f"pool/{name}_{version}_amd64.deb"
        self.files[path] = data
        entry = {
            "Package": name,
            "Version": version,
            "Architecture": "amd64",
            "Filename": path,
            "Size": str(len(data)),
            "SHA256": hashlib.sha256(data).hexdigest(),
            **{key.replace("_", "-"): value for key, value in fields.items()},
        }
        self.entries.append("".join(f"{key}: {value}\n" for key, value in entry.items()))
        return data

    def publish(
        self,
        *,
        valid_for: timedelta = timedelta(days=7),
        key: Tsk | None = None,
        suite: str = "test",
        date: str = "",
        more: str = "",
    ) -> None:
        """Write Packages.xz and a signed InRelease for `suite`, optionally with another `date` and `more` lines."""
        index = lzma.compress("\n".join(self.entries).encode())
        digest = hashlib.sha256(index).hexdigest()
        now = datetime.now(UTC)
        stamp = "%a, %d %b %Y %H:%M:%S UTC"
        release = (
            f"Suite: {suite}\nDate: {date or format(now, stamp)}\n"
            f"Valid-Until: {now + valid_for:{stamp}}\nAcquire-By-Hash: yes\n"
            f"SHA256:\n {digest} {len(index)} main/binary-amd64/Packages.xz\n{more}"
        )
        signed = sign((key or self.key).signer(), release.encode(), mode=SignatureMode.CLEAR)
        self.files["dists/test/InRelease"] = bytes(signed)
        self.files[f"dists/test/main/binary-amd64/by-hash/SHA256/{digest}"] = index

    def source(self, folder: Path, url: str) -> Source:
        """Return the repository as a source for a recipe, and write its key to `folder`."""
        key = folder / "test-key.asc"
        key.write_text(str(self.key.extract_certificate()))
        return Source(name="test", url=url, suite="test", keyring=(key,))


@dataclass
class Server:
    """A web server on the loopback. `cut` maps a path to the number of bytes after which its first answer ends."""

    files: dict[str, bytes]
    url: str = ""
    cut: dict[str, int] = field(default_factory=dict)
    asked: Counter[str] = field(default_factory=Counter)
    ranges: list[str] = field(default_factory=list)

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        """Answer one GET, with byte ranges as in RFC 9110."""
        path = request.path.lstrip("/")
        self.asked[path] += 1
        data = self.files.get(path)
        if data is None:
            request.send_error(404)
            return
        begin = 0
        if wanted := request.headers.get("Range"):
            self.ranges.append(wanted)
            begin = int(wanted.removeprefix("bytes=").rstrip("-"))
        request.send_response(206 if begin else 200)
        request.send_header("Content-Length", str(len(data) - begin))
        request.end_headers()
        end = self.cut.pop(path, len(data))
        with contextlib.suppress(ConnectionError):
            request.wfile.write(data[begin:end])


@contextlib.contextmanager
def serving(files: dict[str, bytes]) -> Iterator[Server]:
    """Serve `files` until the block ends."""
    server = Server(files)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            server.answer(self)

        def log_message(self, *_args: Any) -> None:
            """Keep the tests' output quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        server.url = f"http://127.0.0.1:{http.server_port}"
        thread = threading.Thread(target=http.serve_forever, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            http.shutdown()
            thread.join()
