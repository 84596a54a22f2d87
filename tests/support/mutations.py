"""Run commands on damaged and hostile records, chosen at random from a seed.

Run it by hand, or from a longer campaign::

    PYTHONPATH=src:drivers:tests python -m support.mutations ROUNDS SEED

Commands run in this process. They start no program and make no connection: both are recorded or refused.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from pymachine.cli.main import main
from pymachine.driver import registry
from pymachine.driver.contract import State

NAME = "m"
UUID = "0c6f1a52-6f9c-4d1f-8f0e-3b1b5e2f7a10"
COMMANDS = (
    ("ls", "-t", "3"),
    ("inspect", NAME),
    ("env", NAME),
    ("config", NAME),
    ("ip", NAME),
    ("url", NAME),
    ("status", NAME),
    ("ssh", NAME, "true"),
    ("rm", "-f", NAME),
)
_BASE = {
    "MachineName": NAME,
    "SSHUser": "docker",
    "SSHPort": 22022,
    "SSHKeyPath": "@STORE@/machines/m/id_rsa",
    "StorePath": "@STORE@",
    "IPAddress": "127.70.1.1",
}
_HARDWARE = {"CPU": 2, "Memory": 1024, "DiskSize": 20000, "ImageDigest": "ab12", "Boot2DockerURL": ""}
_PREVIOUS = {"ImageDigest": "cd34", "KernelCommandLine": "quiet"}
DRIVERS: dict[str, dict[str, Any]] = {
    "none": {"URL": "tcp://127.0.0.1:1"},
    "generic": {"SSHKey": "", "EnginePort": 2376},
    "qemu": {
        **_HARDWARE,
        "MachineID": UUID,
        "EnginePort": 2376,
        "Accelerator": "tcg",
        "QemuBinary": "",
        "Arch": "amd64",
        "TBSize": 256,
        "PreviousImage": _PREVIOUS,
    },
    "virtualbox": {
        **_HARDWARE,
        "VMUUID": UUID,
        "MACAddress": "08:00:27:12:34:56",
        "FixedAddress": True,
        "HostOnlyCIDR": "192.168.56.1/24",
        "UIType": "headless",
        "ShareFolder": "",
        "PreviousImage": {"ImageDigest": "cd34"},
    },
    "libvirt": {
        **_HARDWARE,
        "MachineID": UUID,
        "MACAddress": "52:54:00:12:34:56",
        "ConnectionURI": "qemu:///system",
        "Host": "",
        "Network": "user",
        "EnginePort": 2376,
        "StoragePool": "default",
        "DiskVolume": "m-0c6f1a52.raw",
        "ImageSet": "pymachine-0123456789ab-0c6f1a52",
        "XMLPatches": [],
        "PreviousImage": _PREVIOUS,
    },
    "amazonec2": {"Region": "eu-central-1"},  # a driver that is not installed
}
_LEAVES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 22, 65535, 65536, 2**31, 2**63, 2**64, 10**400, -(10**40), 0.5, 1e308),
    *(float("nan"), float("inf"), [], {}, [1], ["a", 2], {"a": 1}, [None], [[]], {"": None}, [{}]),
    *(
        "",
        " ",
        "x",
        "²",
        "\u0661",
        "-",
        "--",
        "--help",
        "-oProxyCommand=touch @HOME@/touched",
        "$(touch @HOME@/touched)",
    ),
    *(
        "a\nb",
        "a\rb",
        "a\tb",
        "a\0b",
        "\x1b[2J",
        "\x9b1m",
        "\u202eevil",
        "\ud800",
        "caf\udce9",
        "\ufeff",
        "ü",
        "a b",
        "a,b",
    ),
    *(
        "/",
        "..",
        "../../../home",
        "@HOME@",
        "@HOME@/precious",
        "@STORE@",
        "@STORE@/../home",
        "~",
        "/dev/zero",
        "/dev/stdin",
    ),
    *("tcp://[::1", "tcp://h:99999999999999", "unix:///x", "http://%zz", "tcp://h:²", "qemu+ext:///system?command=/x"),
    *("qemu+ssh://[x", "mine", "default", "127.0.0.1,hostfwd=tcp::1-:1", "0.0.0.0", "fe80::1%eth0", "::1", "a" * 300),
    *("x" * 100_000, "${HOME}", "%h", "'", '"', "\\", "NaN", "1e3", "True", "{{.}}", UUID, "0" * 12),
)


@dataclass
class Result:
    """The result of a campaign."""

    rounds: int = 0
    commands: int = 0
    faults: list[str] = field(default_factory=list)


def record(driver: str) -> dict[str, Any]:
    """Return a complete, harmless record of a machine with `driver`."""
    certificates = {
        key: f"@STORE@/certs/{file}" for key, file in (("CaCertPath", "ca.pem"), ("ClientCertPath", "cert.pem"))
    }
    return {
        "ConfigVersion": 3,
        "DriverName": driver,
        "Driver": {**_BASE, **copy.deepcopy(DRIVERS[driver])},
        "Name": NAME,
        "HostOptions": {
            "EngineOptions": {"ArbitraryFlags": [], "Labels": ["a=b"], "Env": [], "TlsVerify": True},
            "SwarmOptions": {
                "IsSwarm": False,
                "Master": False,
                "Host": "tcp://0.0.0.0:3376",
                "Discovery": "",
                "Overcommit": 0,
            },
            "AuthOptions": {
                "CertDir": "@STORE@/certs",
                "StorePath": "@STORE@/machines/m",
                "ServerCertSANs": [],
                **certificates,
            },
        },
        "Endpoint": {
            "Address": "127.70.1.1",
            "DockerPort": 2376,
            "SshPort": 22022,
            "SshUser": "docker",
            "DockerUrl": "",
        },
        "CertificatesExpire": 4102444800,
        "DockerContext": "",
        "Expires": None,
        "Owner": "",
        "Shares": [{"Path": "@HOME@", "GuestPath": "/home/me", "ReadOnly": False}],
        "Origins": {"driver": {"From": "default"}, "share": {"From": "flag", "Where": "--share", "Value": 1}},
        "Project": {"File": "@HOME@/pymachine.toml", "Provisioned": [], "Trusted": ["share /data"]},
        "Socket": True,
        "ContextSocket": True,
        "CACertificates": ["-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"],
        "Proxies": {"HTTP": "http://proxy.example:3128", "HTTPS": "", "No": "localhost"},
        "ContainerProxy": True,
        "ClientProxies": ["tcp://127.70.1.1:2376"],
    }


def mutated(value: Any, chance: random.Random) -> Any:
    """Return a copy of a record with one to three values replaced, removed, moved or deeply nested."""
    changed = copy.deepcopy(value)
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        changed = _once(changed, chance)
    return changed


def _once(value: Any, chance: random.Random) -> Any:
    places = list(_places(value))
    if not places or chance.random() < 0.02:
        return copy.deepcopy(chance.choice(_LEAVES))
    parent, key = chance.choice(places)
    action = chance.random()
    if action < 0.75:
        parent[key] = copy.deepcopy(chance.choice(_LEAVES))
    elif action < 0.85:
        del parent[key]
    elif action < 0.95:
        other, name = chance.choice(places)
        parent[key] = copy.deepcopy(other[name]) if other is not parent or name in _keys(parent) else None
    else:
        for _ in range(chance.choice((3, 40, 70))):
            parent[key] = [parent[key]] if chance.random() < 0.5 else {"a": parent[key]}
    return value


def _keys(parent: Any) -> Sequence[Any]:
    return list(parent) if isinstance(parent, dict) else range(len(parent))


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield each object or list in `value` with each of its keys."""
    rest = [value]
    while rest:
        parent = rest.pop()
        if isinstance(parent, dict | list):
            for key in _keys(parent):
                yield parent, key
                rest.append(parent[key])


def encoded(value: Any, chance: random.Random, *, store: Path, home: Path) -> bytes:
    """Return `value` as the bytes of a file, sometimes with bytes changed."""
    text = json.dumps(value).replace("@STORE@", str(store)).replace("@HOME@", str(home))
    data = bytearray(text.encode())
    if data and chance.random() < 0.1:
        for _ in range(chance.randint(1, 5)):
            data[chance.randrange(len(data))] = chance.randrange(256)
    if chance.random() < 0.02:  # nested deeper than recursive code can follow
        data = bytearray(b'{"Driver": ' + b"[" * 100_000 + b"]" * 100_000 + b"}")
    if chance.random() < 0.03:
        del data[chance.randrange(len(data) + 1) :]
    return bytes(data)


class ProgramCalls:
    """Replaces programs that commands would start, and records the calls."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []

    def run(self, argv: Sequence[Any], **_: Any) -> subprocess.CompletedProcess[bytes]:
        """Replace `subprocess.run`: report each docker context as the user's own, and fail for other programs."""
        words = [os.fsdecode(word) for word in argv]
        self._note(words)
        if words[1:3] == ["context", "inspect"]:
            return subprocess.CompletedProcess(words, 0, b'[{"Metadata": {"Description": "of the user"}}]', b"")
        return subprocess.CompletedProcess(words, 1, b"", b"refused")

    def popen(self, argv: Sequence[Any], **_: Any) -> Any:
        """Replace `subprocess.Popen`: return a program that has ended."""
        self._note([os.fsdecode(word) for word in argv])
        ended = mock.MagicMock()
        ended.__enter__.return_value = ended
        ended.wait.return_value = ended.poll.return_value = ended.returncode = 0
        ended.communicate.return_value = (b"", b"")
        # Its output is read in a thread, by file descriptor.
        ended.stdout, ended.stderr = (Path(os.devnull).open("rb") for _ in range(2))  # noqa: SIM115 (its reader closes it)
        return ended

    def _note(self, words: list[str]) -> None:
        """Record a call; refuse, as the system does, what cannot be an argument."""
        for word in words:
            if "\0" in word:
                raise ValueError("embedded null byte")
            os.fsencode(word)
        self.calls.append(words)

    def faults(self) -> Iterator[str]:
        """Yield the calls that must not happen."""
        for words in self.calls:
            program = Path(words[0]).name
            if program == "docker" and words[2] != "inspect":
                yield f"docker changed a context: {words}"
            if program == "ssh":
                destination = next((word for word in words if "@" in word and not word.startswith("-")), "")
                if not destination or any(word.startswith("-oProxy") or "ProxyCommand=t" in word for word in words):
                    yield f"ssh has an option from a record: {words}"


@contextlib.contextmanager
def isolated(chance: random.Random) -> Iterator[ProgramCalls]:
    """Let no program start and no connection succeed in the block; machines run or not at random."""
    calls = ProgramCalls()

    def fail_lookup(host: Any, *rest: Any, **more: Any) -> Any:
        if isinstance(host, str):
            host.encode("idna")
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    def refuse(*_: Any) -> None:
        raise ConnectionRefusedError(111, "Connection refused")

    running = chance.random() < 0.5
    with contextlib.ExitStack() as stack:
        enter = stack.enter_context
        enter(mock.patch("subprocess.run", calls.run))
        enter(mock.patch("subprocess.Popen", calls.popen))
        enter(mock.patch("shutil.which", lambda program, **_: f"/usr/bin/{program}"))
        enter(mock.patch("socket.getaddrinfo", fail_lookup))
        enter(mock.patch.object(socket.socket, "connect", refuse))
        # No machine of these calls ever stops.
        enter(mock.patch("pymachine_driver_virtualbox.power.OFF_SECONDS", 0.0))
        for name in DRIVERS if running else ():
            if name in registry.names():
                enter(mock.patch.object(registry.load(name), "state", lambda self: State.RUNNING))
        yield calls


def output_of(words: Sequence[str]) -> str:
    """Run ``pymachine WORDS`` in this process and return all its output."""
    output = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="surrogateescape", write_through=True)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            main(["pymachine", *words])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return output.buffer.getvalue().decode(errors="replace")


def campaign(rounds: int, seed: int) -> Result:
    """Run all commands on `rounds` damaged records, one after the other."""
    chance = random.Random(seed)
    result = Result()
    with tempfile.TemporaryDirectory(prefix="pm-mutations-") as scratch:
        home, store = Path(scratch, "home"), Path(scratch, "store")
        keys = home / "precious"
        keys.mkdir(parents=True, mode=0o700)
        (keys / "id_rsa").write_text("precious")
        (home / "profile").write_text("precious")
        kept = _tree(home)
        environment = {"HOME": str(home), "MACHINE_STORAGE_PATH": str(store), "PATH": os.environ.get("PATH", "")}
        with mock.patch.dict(os.environ, environment, clear=True):
            for number in range(rounds):
                driver = chance.choice(list(DRIVERS))
                data = encoded(mutated(record(driver), chance), chance, store=store, home=home)
                _write_store(store, home, data, chance)
                for fault in _round(result, chance):
                    result.faults.append(f"round {number}, seed {seed}: {fault}\n{data[:2000]!r}")
                if _tree(home) != kept:
                    result.faults.append(f"round {number}, seed {seed}: files of the user changed\n{data[:2000]!r}")
                    break
                result.rounds += 1
    return result


def _round(result: Result, chance: random.Random) -> Iterator[str]:
    for words in COMMANDS:
        with isolated(chance) as calls:
            text = output_of(words)
        result.commands += 1
        if "internal error" in text or "Traceback" in text:
            yield f"{words}: {text[-3000:]}"
        yield from calls.faults()


def _write_store(store: Path, home: Path, data: bytes, chance: random.Random) -> None:
    """Fill `store` with one machine that has the record `data`, and sometimes links to the user's files."""
    shutil.rmtree(store, ignore_errors=True)
    folder = store / "machines" / NAME
    folder.mkdir(parents=True, mode=0o700)
    (folder / "id_rsa").write_text("key")
    (folder / "id_rsa").chmod(0o600)
    (folder / "config.json").write_bytes(data)
    if chance.random() < 0.2:
        # config.json then has none of pymachine's own fields, as docker-machine writes it.
        (folder / "pymachine.json").write_bytes(data)
        with contextlib.suppress(ValueError, RecursionError):
            kept = json.loads(data)
            if isinstance(kept, dict):
                bare = {
                    key: value
                    for key, value in kept.items()
                    if key in {"ConfigVersion", "Driver", "DriverName", "HostOptions"}
                }
                (folder / "config.json").write_text(json.dumps(bare))
    for name, target in (
        ("run", "precious"),
        ("console.log", "profile"),
        ("disk.raw", "profile"),
        ("snapshots", "precious"),
    ):
        if chance.random() < 0.2:
            (folder / name).symlink_to(home / target)


def _tree(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


if __name__ == "__main__":
    done = campaign(int(sys.argv[1]), int(sys.argv[2]))
    for each in done.faults:
        sys.stdout.write(f"{each}\n\n")
    sys.stdout.write(f"{done.rounds} records, {done.commands} commands, {len(done.faults)} faults\n")
    sys.exit(1 if done.faults else 0)
