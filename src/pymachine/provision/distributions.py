"""The operating systems that can be provisioned, as data, in the order in which they are tried.

A package can add others: an entry point of the group ``pymachine.provisioners`` names a `Provisioner`. Those come
first, by their entry points' names, since whoever installs one wants it used.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from importlib.metadata import entry_points

from pymachine.provision.errors import ProvisionError, UnknownSystemError

GROUP = "pymachine.provisioners"


class Service(Enum):
    """What starts the engine, and so where its settings go."""

    SYSTEMD = "systemd"
    OPENRC = "openrc"
    BOOT2DOCKER = "boot2docker"


@dataclass(frozen=True, kw_only=True)
class PackageManager:
    """Shell commands, run by root; package names are appended to `install`, `upgrade` and `remove`."""

    name: str
    installed: str
    """Prints the names of the installed packages, one a line."""
    refresh: str
    """Brings the lists of packages up to date; it may fail, if what is needed is known all the same."""
    available: str
    """Succeeds if the package whose name takes the place of ``{}`` can be installed."""
    install: str
    upgrade: str
    """Brings installed packages to the newest version that there is, and installs no others for their own sake."""
    remove: str
    """Removes packages with their configuration, but none that another package needs: that is an error."""
    repair: str = ":"
    """Finishes what an interrupted run left half-done."""


@dataclass(frozen=True, kw_only=True)
class Provisioner:
    """One family of operating systems."""

    name: str
    """As it is said in "Provisioning with ..."."""
    ids: tuple[str, ...]
    """Values of ID in os-release(5), and words of ID_LIKE, that mean this family."""
    variants: tuple[str, ...] = ()
    """Values of VARIANT_ID that mean it, whatever ID is."""
    manager: PackageManager | None = None
    """None: the engine is part of the system."""
    packages: tuple[tuple[str, ...], ...] = ()
    """Sets of packages that have the engine; the first of which all can be installed is taken."""
    beside: tuple[str, ...] = ()
    """Packages that are installed with it where the distribution has them."""
    service: Service = Service.SYSTEMD
    certificates: str = "/etc/docker"
    state: str = "/var/lib/pymachine"
    """The folder on the host where it is written down what was found there."""


APT = PackageManager(
    name="apt",
    installed="dpkg-query -W -f '${db:Status-Abbrev}${binary:Package}\\n' | sed -n 's/^ii *//p'",
    refresh="apt-get -q update",
    available="apt-cache show --no-all-versions {} | grep -q .",
    install="apt-get -q -y -o DPkg::Lock::Timeout=600 -o Dpkg::Options::=--force-confold "
    "install --no-install-recommends",
    upgrade="apt-get -q -y -o DPkg::Lock::Timeout=600 -o Dpkg::Options::=--force-confold "
    "install --no-install-recommends --only-upgrade",
    remove="dpkg --purge",
    repair="dpkg --force-confold --configure -a",
)
DNF = PackageManager(
    name="dnf",
    installed="rpm -qa --qf '%{NAME}\\n'",
    refresh="dnf -q makecache",
    available="dnf -q list {}",
    install="dnf -y install",
    upgrade="dnf -y upgrade",
    remove="rpm -e",
)
ZYPPER = PackageManager(
    name="zypper",
    installed="rpm -qa --qf '%{NAME}\\n'",
    refresh="zypper --non-interactive refresh",
    available="zypper --non-interactive info {} | grep -q ^Version",
    install="zypper --non-interactive install --no-recommends",
    upgrade="zypper --non-interactive update --no-recommends",
    remove="rpm -e",
)
PACMAN = PackageManager(
    name="pacman",
    installed="pacman -Qq",
    # Lists that are newer than the system would make it a partial upgrade, which Arch does not support.
    refresh='test -n "$(ls /var/lib/pacman/sync 2>/dev/null)" || pacman -Sy --noconfirm',
    available="pacman -Si {}",
    install="pacman -S --noconfirm --needed",
    # Of some packages alone it would be a partial upgrade; this one is the newest that the lists of now know.
    upgrade="pacman -S --noconfirm --needed",
    remove="pacman -Rn --noconfirm",
)
APK = PackageManager(
    name="apk",
    installed="apk info -q",
    refresh="apk update -q",
    available="apk search -q -e {} | grep -q .",
    install="apk add --no-progress",
    upgrade="apk add --no-progress --upgrade",
    remove="apk del --purge",
)

BUILT_IN = (
    Provisioner(
        name="boot2docker",
        ids=("boot2docker",),
        service=Service.BOOT2DOCKER,
        certificates="/var/lib/boot2docker",
        state="/var/lib/boot2docker/pymachine",
    ),
    Provisioner(name="flatcar", ids=("flatcar", "coreos"), variants=("coreos",)),
    Provisioner(
        name="ubuntu",
        ids=("ubuntu",),
        manager=APT,
        packages=(("docker.io",),),
        beside=("docker-cli", "ca-certificates"),
    ),
    Provisioner(
        name="debian",
        ids=("debian", "raspbian"),
        manager=APT,
        packages=(("docker.io",),),
        beside=("docker-cli", "ca-certificates"),
    ),
    Provisioner(
        name="fedora", ids=("fedora",), manager=DNF, packages=(("moby-engine",), ("docker-ce",)), beside=("docker-cli",)
    ),
    # Their own archives have no engine: one from Docker's repository, or from another that is configured.
    Provisioner(
        name="redhat",
        ids=("rhel", "rocky", "almalinux", "centos", "ol"),
        manager=DNF,
        packages=(("docker-ce", "docker-ce-cli", "containerd.io"), ("moby-engine",)),
    ),
    Provisioner(
        name="opensuse",
        ids=("opensuse", "opensuse-leap", "opensuse-tumbleweed", "suse", "sles"),
        manager=ZYPPER,
        packages=(("docker",),),
    ),
    Provisioner(name="arch", ids=("arch", "archarm"), manager=PACMAN, packages=(("docker",),)),
    Provisioner(
        name="alpine",
        ids=("alpine",),
        manager=APK,
        packages=(("docker-engine",), ("docker",)),
        beside=("docker-cli", "ca-certificates"),
        service=Service.OPENRC,
    ),
)


def known() -> list[Provisioner]:
    """Every provisioner, in the order in which they are tried. Raises `ProvisionError` for a broken plug-in."""
    found: list[Provisioner] = []
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        try:
            added = entry.load()
        except (ImportError, AttributeError) as error:
            raise ProvisionError(f'the provisioner "{entry.name}" cannot be loaded ({entry.value}): {error}') from error
        if not isinstance(added, Provisioner):
            raise ProvisionError(f'the provisioner "{entry.name}" ({entry.value}) is not a Provisioner')
        found.append(added)
    return [*found, *BUILT_IN]


def choose(os_release: Mapping[str, str], provisioners: Sequence[Provisioner]) -> Provisioner:
    """The provisioner for a host with that os-release: by VARIANT_ID, by ID, then by each word of ID_LIKE.

    Raises `UnknownSystemError` with docker-machine's words if there is none.
    """
    variant = os_release.get("VARIANT_ID", "")
    for candidate in provisioners:
        if variant in candidate.variants:
            return candidate
    words = [os_release.get("ID", "linux"), *os_release.get("ID_LIKE", "").split()]
    for word in words:
        for candidate in provisioners:
            if word in candidate.ids:
                return candidate
    names = ", ".join(dict.fromkeys(name for candidate in provisioners for name in candidate.ids))
    raise UnknownSystemError(
        f"OS type not recognized: {os_release.get('PRETTY_NAME') or words[0]} (ID {words[0]})",
        hint=f"Known are {names}, and what says in ID_LIKE that it is like one of them. Others can be added through "
        f"the entry-point group {GROUP}.",
    )


def folders(provisioners: Iterable[Provisioner]) -> list[str]:
    """The folders of all `provisioners` in which their state is kept."""
    return list(dict.fromkeys(provisioner.state for provisioner in provisioners))
