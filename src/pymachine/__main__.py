"""Entry point: a short path for `env`, which runs in every prompt and script, and the full CLI for all else.

The short path answers the plain case (a known address, a machine that answers) without click, pathlib or dataclasses,
which together cost more than the TLS handshake. It says nothing itself about what goes wrong: then the full CLI does
the same again, and finds the words. A test holds what it may import.
"""

from __future__ import annotations

import os
import sys
from math import inf
from time import time

from pymachine.system import limits, streams

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

HANDSHAKE_SECONDS = 20.0
# Flags with a value that mean something to `env`, or nothing at all.
_VALUE_FLAGS = {"s": "storage-path", "storage-path": "storage-path", "shell": "shell", "bugsnag-api-token": "ignored"}


def main() -> int:
    """Run the command line in `sys.argv` and return its exit code."""
    streams.prepare()
    argv = [as_called(sys.argv[0], os.environ.get("PATH", "")), *sys.argv[1:]]
    if "env" in argv[1:]:
        text = quick_env(argv)
        if text:
            return _printed(text)
    from pymachine.cli.main import main as full  # noqa: PLC0415 (click is what the short path does without)

    return full(argv)


def as_called(program: str, path: str) -> str:
    """How the user called `program`: by its name alone if PATH leads to it, which is all that a script is not told."""
    folder, _, name = program.rpartition("/")
    for place in path.split(os.pathsep) if folder else ():
        if place == folder:
            return name
        if os.access(f"{place}/{name}", os.X_OK):
            break
    return program


def _printed(text: str) -> int:
    """Print `text`, and return the exit code."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except streams.OutputError as lost:
        from pymachine.cli import errors  # noqa: PLC0415 (click is what the short path does without)

        return errors.report(lost)
    return 0


def quick_env(argv: Sequence[str]) -> str | None:
    """What `env` prints for `argv`, or None when anything about it is out of the ordinary."""
    parsed = _scan(argv[1:])
    if parsed is None or "MACHINE_DEBUG" in os.environ:
        return None
    options, name = parsed
    from pymachine.cli import shells  # noqa: PLC0415 (only `env` needs it)

    shell = options.get("shell") or shells.detect(os.environ, parent=shells.caller(), windows=sys.platform == "win32")
    if not shell:
        return None
    try:
        directory = _directory(options.get("storage-path"), name)
        url, address, certificates = _shake_hands(directory)
    except Exception:  # noqa: BLE001 (whatever it is, the full CLI meets it again and tells of it)
        return None
    variables = shells.connection(url, certificates, name, windows=sys.platform == "win32")
    if "no-proxy" in options:
        variables += shells.no_proxy(os.environ, address)
    return shells.assignments(shells.find(shell), variables, argv)


def _scan(words: Sequence[str]) -> tuple[dict[str, str], str] | None:
    """The options and the machine's name, or None if there is a word that the short path does not know."""
    options: dict[str, str] = {}
    names: list[str] = []
    rest = iter(words)
    for word in rest:
        if not word.startswith("-"):
            names.append(word)
            continue
        flag, equals, value = word[2 if word.startswith("--") else 1 :].partition("=")
        if flag == "no-proxy" and not equals:
            options[flag] = ""
        elif flag in _VALUE_FLAGS and (bool(names) == (flag == "shell")):
            # Global flags come before the command, and its own after it.
            given = value if equals else next(rest, None)
            if given is None:
                return None
            options[_VALUE_FLAGS[flag]] = given
        else:
            return None
    if not names or names[0] != "env" or len(names) > 2:
        return None
    name = names[1] if len(names) == 2 else "default"
    return None if name.startswith(".") or not name or "/" in name else (options, name)


def _directory(option: str | None, name: str) -> str:
    """The machine's folder; the rules for the store's root are those of `pymachine.store.paths.storage_root`."""
    chosen = option or os.environ.get("MACHINE_STORAGE_PATH")
    if chosen:
        root = os.path.abspath(chosen)  # noqa: PTH100 (as in pymachine.store.paths)
    else:
        home = os.environ.get("USERPROFILE" if sys.platform == "win32" else "HOME")
        root = os.path.join(home or os.path.expanduser("~"), ".docker", "machine")  # noqa: PTH118, PTH111
    return os.path.join(root, "machines", name)  # noqa: PTH118 (pathlib costs 8 ms)


def _shake_hands(directory: str) -> tuple[str, str, str]:
    """Reach the machine's engine; return its URL, its address and the folder of the client's certificates."""
    record = _read(f"{directory}/config.json")
    if "Endpoint" not in record:
        # docker-machine drops it when it writes the record: see `pymachine.store.extra_fields`.
        extra = _read(f"{directory}/pymachine.json")
        if extra["Driver"]["IPAddress"] != record["Driver"]["IPAddress"]:
            raise ValueError(record["Driver"]["IPAddress"])
        record = {**extra, **record}
    endpoint = record["Endpoint"]
    address, port = endpoint["Address"], endpoint["DockerPort"]
    if (
        record["ConfigVersion"] != 3
        or not isinstance(address, str)
        or not address
        or not isinstance(port, int)
        or port > 65535
    ):
        raise ValueError(record["ConfigVersion"])
    if record.get("CertificatesExpire", inf) - time() < limits.RENEW_CERTIFICATES_SECONDS:  # the full CLI warns
        raise ValueError(record["CertificatesExpire"])
    folder = _certificates(record["HostOptions"]["AuthOptions"], directory)
    host = f"[{address}]" if ":" in address else address
    url = endpoint.get("DockerUrl") or f"tcp://{host}:{port}"
    if not url.isprintable():
        raise ValueError(url)
    from pymachine.tls import handshake  # noqa: PLC0415 (ssl, only now that there is something to connect to)

    handshake.check(
        address,
        port,
        ca=f"{folder}/ca.pem",
        cert=f"{folder}/cert.pem",
        key=f"{folder}/key.pem",
        timeout=HANDSHAKE_SECONDS,
    )
    return url, address, folder


def _read(path: str) -> dict[str, Any]:
    import json  # noqa: PLC0415 (not for the full CLI's sake)

    # A pipe in its place would never end: the full CLI refuses it.
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with open(handle, "rb") as stream:  # noqa: PTH123 (pathlib costs 8 ms)
        text = stream.read(limits.LONGEST_RECORD_BYTES) or b""
    record: dict[str, Any] = json.loads(text)
    return record


def _certificates(auth: dict[str, Any], directory: str) -> str:
    """Return the folder of the client's certificates; the rules are those of `Machine.client_files`.

    Raises ValueError where the full CLI has to look: the store was moved, or the files have unusual names.
    """
    if all(os.path.isfile(f"{directory}/{name}") for name in ("ca.pem", "cert.pem", "key.pem")):  # noqa: PTH113
        return directory
    folder = str(auth["CaCertPath"]).removesuffix("/ca.pem")
    named = (f"{folder}/ca.pem", f"{folder}/cert.pem", f"{folder}/key.pem")
    if named != (auth["CaCertPath"], auth["ClientCertPath"], auth["ClientKeyPath"]) or auth["StorePath"] != directory:
        raise ValueError(auth)
    return folder


if __name__ == "__main__":
    sys.exit(main())
