"""Real programs of Debian for the tests' containers, each in one archive with its libraries."""

from __future__ import annotations

import io
import os
import re
import subprocess
import tarfile
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from support.registry import listening_address
from support.runner import cache_folder

MERGED = re.compile(r"^(bin|sbin|lib|lib64)/")
# The rest of the dependencies serves maintainer scripts. Node.js consists of the modules, too.
LIBRARY = re.compile(r"^(lib|node-|zlib)")
DEPENDS = re.compile(r"^  (?:Pre)?Depends: ([^<>\s]+)$", re.MULTILINE)
# Only what the package sources have: an installed package of another origin may be in none of them.
FROM_SOURCES = ["-o", "Dir::State::status=/dev/null"]
NO_OTHERS = [f"--no-{kind}" for kind in ("recommends", "suggests", "conflicts", "breaks", "replaces")]
NO_OTHERS += ["--no-enhances"]
# A configuration without the users, modules and folders that Debian's own expects.
NGINX_CONF = """\
user root;
worker_processes 1;
pid /run/nginx.pid;
error_log stderr;
events { worker_connections 64; }
http {
    access_log off;
    client_body_temp_path /tmp/body;
    proxy_temp_path /tmp/proxy;
    fastcgi_temp_path /tmp/fastcgi;
    uwsgi_temp_path /tmp/uwsgi;
    scgi_temp_path /tmp/scgi;
    server { listen 80; root /usr/share/nginx/html; index index.html; }
}
"""
EXTRA: dict[str, dict[str, str]] = {
    "nginx": {"etc/nginx/nginx.conf": NGINX_CONF},
    "curl": {},
    "inotify-tools": {},
    "nodejs": {},
    "socat": {},
    "util-linux": {},
}


def archive_folder() -> Path:
    """Return the folder of the archives, which all test runs of this user share."""
    return cache_folder() / "container-packages"


def archive(program: str) -> Path:
    """Return the archive ``PROGRAM.tar.gz``, `program` with its libraries; make it if it is missing."""
    target = archive_folder() / f"{program}.tar.gz"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as scratch:
            # apt drops to the user _apt for downloads.
            Path(scratch).chmod(0o755)
            subprocess.run(
                ["apt-get", *FROM_SOURCES, "download", "-q", program, *_libraries(program)],
                cwd=scratch,
                check=True,
                capture_output=True,
            )
            # Other test runs may make the same archive at this time.
            unfinished = target.with_name(f"{target.name}.{os.getpid()}")
            with tarfile.open(unfinished, "w:gz", compresslevel=1) as output:
                for package in sorted(Path(scratch).glob("*.deb")):
                    _append(package, output)
                for name, text in EXTRA.get(program, {}).items():
                    member = tarfile.TarInfo(name)
                    member.size, member.mode = len(text), 0o644
                    output.addfile(member, io.BytesIO(text.encode()))
            unfinished.rename(target)
    return target


def unpack(folder: Path, *programs: str) -> None:
    """Unpack programs on this host. Containers that mount the folder can use them after `link_script`."""
    for program in programs:
        with tarfile.open(archive(program)) as source:
            source.extractall(folder, filter="fully_trusted")


def link_script(folder: str) -> str:
    """Return a script for a container: link what is unpacked in `folder` into its /usr, but replace nothing there.

    That takes a moment, while unpacking a program there and committing an image may take a minute in emulation.
    """
    return f"for each in bin lib lib64 share; do ln -s {folder}/usr/$each/* /usr/$each/ 2> /dev/null; done; true"


def _libraries(program: str) -> list[str]:
    """Return the libraries that `program` depends on, directly or through others, by apt's lists: one call a level."""
    found: set[str] = set()
    level = {program}
    while level:
        output = subprocess.run(
            ["apt-cache", *FROM_SOURCES, "depends", *NO_OTHERS, *level], capture_output=True, text=True, check=True
        )
        level = {name for name in DEPENDS.findall(output.stdout) if LIBRARY.match(name)} - found
        found |= level
    return sorted(found)


def _append(package: Path, output: tarfile.TarFile) -> None:
    """Copy the files that programs need at run time from `package` to `output`, with their usr-merged paths."""
    content = subprocess.run(["dpkg-deb", "--fsys-tarfile", str(package)], capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(content)) as source:
        for member in source:
            member.name = MERGED.sub(r"usr/\1/", member.name.removeprefix("./"))
            wanted = member.name.startswith(("usr/bin/", "usr/sbin/", "usr/lib", "usr/share/nodejs/"))
            wanted = wanted and "/gconv/" not in member.name  # conversions of text, a third of each archive
            if wanted and not member.isdir():
                output.addfile(member, source.extractfile(member) if member.isfile() else None)


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the base class's name)
        """Keep the tests' output quiet."""

    def do_GET(self) -> None:
        """Answer ``/ip`` with the client's address, as ifconfig.co does, and other paths with files."""
        if self.path != "/ip":
            super().do_GET()
            return
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.client_address[0].encode() + b"\n")


@contextmanager
def serving(folder: Path, host_from_guest: str) -> Iterator[int]:
    """Serve `folder` over HTTP, for machines at the address `host_from_guest`; yield the port."""
    server = ThreadingHTTPServer((listening_address(host_from_guest), 0), partial(_Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
