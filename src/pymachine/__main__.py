"""Entry point: a fast path for `env`, which runs in shell prompts and scripts, and the full CLI for everything else.

The fast path handles the usual case (a known address, a machine that answers) without click, pathlib and dataclasses,
which together take longer than the TLS handshake. It reports no errors: if anything goes wrong, the full CLI does the
same again and reports it. A test lists the modules that the fast path may import.
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

# Flags with a value that the fast path uses or ignores.
_VALUE_FLAGS = {"s": "storage-path", "storage-path": "storage-path", "shell": "shell", "bugsnag-api-token": "ignored"}


def main() -> int:
    """Run the command line in `sys.argv` and return its exit code."""
    streams.prepare()
    argv = [as_called(sys.argv[0], os.environ.get("PATH", "")), *sys.argv[1:]]
    if "env" in argv[1:]:
        text = quick_env(argv)
        if text:
            return _printed(text)
    from pymachine.cli.main import main as full  # noqa: PLC0415 (the fast path does not need click)

    return full(argv)


def as_called(program: str, path: str) -> str:
    """Return `program` as the user typed it: only its name if PATH leads to it.

    The system passes the whole path to a script in both cases.
    """
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
        from pymachine.cli import errors  # noqa: PLC0415 (the fast path does not need click)

        return errors.report(lost)
    return 0


def quick_env(argv: Sequence[str]) -> str | None:
    """Return the output of `env` for `argv`, or None if the full CLI has to handle it."""
    parsed = _scan(argv[1:])
    if parsed is None or "MACHINE_DEBUG" in os.environ:
        return None
    options, name = parsed
    from pymachine.cli import shells  # noqa: PLC0415 (only `env` needs it)
    from pymachine.docker.variables import connection_variables  # noqa: PLC0415

    shell = options.get("shell") or shells.detect(os.environ, parent=shells.caller(), windows=sys.platform == "win32")
    if not shell:
        return None
    try:
        directory = _directory(options.get("storage-path"), name)
        url, address, certificates = _shake_hands(directory)
    except Exception:  # noqa: BLE001 (the full CLI meets the same error, and reports it)
        return None
    variables = connection_variables(url, certificates, name, windows=sys.platform == "win32")
    if "no-proxy" in options:
        variables += shells.no_proxy(os.environ, address)
    return shells.assignments(shells.find(shell), variables, argv)


def _scan(words: Sequence[str]) -> tuple[dict[str, str], str] | None:
    """Return the options and the machine's name, or None if the fast path does not know a word."""
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
            # Global flags come before the command, and the command's own flags after it.
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
    """Return the machine's folder, by the rules of `pymachine.store.paths.storage_root`."""
    chosen = option or os.environ.get("MACHINE_STORAGE_PATH")
    if chosen:
        root = os.path.abspath(chosen)  # noqa: PTH100 (as in pymachine.store.paths)
    else:
        home = os.environ.get("USERPROFILE" if sys.platform == "win32" else "HOME")
        root = os.path.join(home or os.path.expanduser("~"), ".docker", "machine")  # noqa: PTH118, PTH111
    return os.path.join(root, "machines", name)  # noqa: PTH118 (pathlib costs 8 ms)


def _shake_hands(directory: str) -> tuple[str, str, str]:
    """Make a TLS handshake with the engine. Return its URL, its address and the folder of the client's certificates."""
    record = _read(f"{directory}/config.json")
    if "Endpoint" not in record:
        # docker-machine drops this field when it writes the record: see `pymachine.store.extra_fields`.
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
    from pymachine.tls import handshake  # noqa: PLC0415 (imports ssl, which is not needed before)

    handshake.check(
        address,
        port,
        ca=f"{folder}/ca.pem",
        cert=f"{folder}/cert.pem",
        key=f"{folder}/key.pem",
    )
    return url, address, folder


def _read(path: str) -> dict[str, Any]:
    import json  # noqa: PLC0415 (the full CLI does not need it here)

    # Do not wait for a pipe at this path. The full CLI refuses it.
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with open(handle, "rb") as stream:  # noqa: PTH123 (pathlib costs 8 ms)
        text = stream.read(limits.LONGEST_RECORD_BYTES) or b""
    record: dict[str, Any] = json.loads(text)
    return record


def _certificates(auth: dict[str, Any], directory: str) -> str:
    """Return the folder of the client's certificates, by the rules of `Machine.client_files`.

    Raises ValueError if the full CLI has to find it: the store was moved, or the files have unusual names.
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
