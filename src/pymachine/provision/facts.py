"""Facts about a host, parsed from the output of ``scripts/facts.sh``."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field

from pymachine.provision import unit
from pymachine.provision.distributions import Provisioner, Service, state_folders
from pymachine.provision.errors import ProvisionError

DAEMON_JSON = "/etc/docker/daemon.json"
PROFILE = "/var/lib/boot2docker/profile"
OPENRC = "/etc/conf.d/docker"
BACKUP_SUFFIX = ".before-pymachine"
CERTIFICATES = ("ca.pem", "server.pem", "server-key.pem")
# Folders that an engine creates. They are removed with it, unless they existed before.
ENGINE_FOLDERS = ("/etc/docker", "/var/lib/docker", "/var/lib/containerd", "/etc/containerd", "/etc/cni", unit.FOLDER)
STATE = "state.json"
INSTALLED = "installed"
PENDING = "pending"
SSHFS = "sshfs"
SWARM = "/var/lib/docker/swarm/docker-state.json"


@dataclass(frozen=True)
class Facts:
    """The state of a host at one moment."""

    os_release: dict[str, str]
    init: str = ""
    """``systemd``, ``openrc``, ``sysv``, or empty if unknown."""
    dockerd: str = ""
    """The path of the engine's program; empty if there is none."""
    active: bool = False
    enabled: bool = False
    unit: str = ""
    """The output of ``systemctl cat`` for the engine's unit."""
    sshfs: str = ""
    """The path of sshfs; empty if it is not installed."""
    fuse: bool = False
    """Whether the kernel has FUSE, or a module of it."""
    containers: int = 0
    """The number of running containers."""
    present: frozenset[str] = frozenset()
    """Those of the requested files and folders that exist."""
    files: dict[str, str] = field(default_factory=dict)
    """The contents of those watched files that exist."""
    digests: dict[str, str] = field(default_factory=dict)
    """The SHA-256 of those secret files that exist."""


def watched_files(provisioners: Sequence[Provisioner]) -> list[str]:
    """Return the files whose contents are needed."""
    own = [f"{folder}/{name}" for folder in state_folders(provisioners) for name in (STATE, INSTALLED, PENDING)]
    ours = [DAEMON_JSON, unit.DROP_IN, unit.DOCKER_MACHINE, PROFILE, OPENRC]
    return [*ours, *(path + BACKUP_SUFFIX for path in ours), *own]


def secret_files(provisioners: Sequence[Provisioner]) -> list[str]:
    """Return the files of which only a digest is read, since they are secret."""
    places = dict.fromkeys(provisioner.certificates for provisioner in provisioners)
    return [f"{place}/{name}" for place in places for name in CERTIFICATES]


def parse(text: str) -> Facts:
    """Parse the script's output. Raises `ProvisionError` if it is incomplete or missing."""
    lines = text.partition("pymachine-begin\n")[2].splitlines()
    if not lines or lines[-1] != "end":
        raise ProvisionError("the output of the script on the host is incomplete", details=text[-2000:])
    words: dict[str, str] = {}
    blocks: dict[str, list[str]] = {}
    digests: dict[str, str] = {}
    present: set[str] = set()
    block: list[str] = []
    for line in lines:
        if line.startswith("|"):
            block.append(line[1:])
            continue
        word, _, rest = line.partition(" ")
        if word in {"os-release", "unit", "file"}:
            block = blocks.setdefault(f"{word} {rest}".strip(), [])
        elif word == "sha256":
            digest, _, path = rest.partition(" ")
            digests[path] = digest
        elif word == "present":
            present.add(rest)
        elif word:
            words[word] = rest.strip()
    contents = {key: "".join(f"{line}\n" for line in value) for key, value in blocks.items()}
    return Facts(
        os_release=os_release(contents.pop("os-release", "")),
        init=words.get("init", ""),
        dockerd=words.get("dockerd", ""),
        active=words.get("active") == "active",
        enabled=words.get("enabled") in {"enabled", "enabled-runtime"},
        unit=contents.pop("unit", ""),
        sshfs=words.get("sshfs", ""),
        fuse=words.get("fuse") == "yes",
        containers=int(words.get("containers") or 0),
        present=frozenset(present),
        files={key.removeprefix("file "): value for key, value in contents.items()},
        digests=digests,
    )


def os_release(text: str) -> dict[str, str]:
    """Parse the variables of os-release(5). Values may have shell quotes."""
    found = {}
    for line in text.splitlines():
        name, equals, value = line.partition("=")
        if equals and not name.lstrip().startswith("#"):
            try:
                words = shlex.split(value)
            except ValueError:
                words = [value]
            found[name.strip()] = " ".join(words)
    return found


def check_service(facts: Facts, provisioner: Provisioner) -> None:
    """Raise `ProvisionError` if the host does not run its family's service manager."""
    wanted = provisioner.service
    if wanted is Service.BOOT2DOCKER or facts.init == wanted.value:
        return
    name = facts.os_release.get("PRETTY_NAME", provisioner.name)
    raise ProvisionError(
        f"{name} is expected to start services with {wanted.value}, but this host does not run it",
        hint="pymachine cannot set up an engine here; set it up by hand, and make a machine of its URL.",
    )
