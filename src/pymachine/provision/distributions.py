"""The operating systems that can be provisioned, as data, in the order in which they are tried.

A package can add others with an entry point of the group ``pymachine.provisioners`` that names a `Provisioner`.
Those are tried first, ordered by entry point name, since they were installed on purpose.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from importlib.metadata import entry_points

from pymachine.provision.errors import ProvisionError, UnknownSystemError

GROUP = "pymachine.provisioners"


class Service(Enum):
    """The service manager that starts the engine. It decides where the settings go."""

    SYSTEMD = "systemd"
    OPENRC = "openrc"
    BOOT2DOCKER = "boot2docker"


@dataclass(frozen=True, kw_only=True)
class PackageManager:
    """A package manager's shell commands, run by root. Package names are appended to `install`, `upgrade`, `remove`."""

    name: str
    installed: str
    """Prints the names of the installed packages, one per line."""
    refresh: str
    """Updates the package lists. It may fail: the existing lists may suffice."""
    available: str
    """Succeeds if the package whose name replaces ``{}`` can be installed."""
    install: str
    upgrade: str
    """Upgrades installed packages to the newest available version. It installs no new ones but dependencies."""
    remove: str
    """Removes packages with their configuration. It fails if another package needs one of them."""
    repair: str = ":"
    """Completes an interrupted run of the package manager."""


@dataclass(frozen=True, kw_only=True)
class Provisioner:
    """One family of operating systems."""

    name: str
    """The name in the message "Provisioning with ..."."""
    ids: tuple[str, ...]
    """Values of ID in os-release(5), and words of ID_LIKE, that select this family."""
    variants: tuple[str, ...] = ()
    """Values of VARIANT_ID that select it, whatever ID is."""
    manager: PackageManager | None = None
    """None if the engine is part of the system."""
    packages: tuple[tuple[str, ...], ...] = ()
    """Sets of packages that contain the engine. The first set that can be installed completely is used."""
    optional_packages: tuple[str, ...] = ()
    """Packages that are installed with the engine where the distribution has them."""
    sshfs: str = "sshfs"
    """The package with sshfs, which is installed if the machine shares folders. Unused without `manager`."""
    inotify: str = "inotify-tools"
    """The package with inotifywait, which is installed with sshfs where the distribution has it."""
    service: Service = Service.SYSTEMD
    certificates: str = "/etc/docker"
    state: str = "/var/lib/pymachine"
    """The folder on the host that records its state before the changes."""

    @property
    def package_names(self) -> list[str]:
        """The names in all sets of packages, and the optional packages."""
        return list(dict.fromkeys([*(name for names in self.packages for name in names), *self.optional_packages]))


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
    # Package lists newer than the system would lead to a partial upgrade, which Arch does not support.
    refresh='test -n "$(ls /var/lib/pacman/sync 2>/dev/null)" || pacman -Sy --noconfirm',
    available="pacman -Si {}",
    install="pacman -S --noconfirm --needed",
    # Installs the newest version in the present lists. Refreshing them first would cause a partial upgrade.
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
        optional_packages=("docker-cli", "ca-certificates"),
    ),
    Provisioner(
        name="debian",
        ids=("debian", "raspbian"),
        manager=APT,
        packages=(("docker.io",),),
        optional_packages=("docker-cli", "ca-certificates"),
    ),
    Provisioner(
        name="fedora",
        ids=("fedora",),
        manager=DNF,
        packages=(("moby-engine",), ("docker-ce",)),
        optional_packages=("docker-cli",),
        sshfs="fuse-sshfs",
    ),
    # Their own archives have no engine. It comes from Docker's repository or another configured one.
    Provisioner(
        name="redhat",
        ids=("rhel", "rocky", "almalinux", "centos", "ol"),
        manager=DNF,
        packages=(("docker-ce", "docker-ce-cli", "containerd.io"), ("moby-engine",)),
        sshfs="fuse-sshfs",
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
        optional_packages=("docker-cli", "ca-certificates"),
        service=Service.OPENRC,
    ),
)


def all_provisioners() -> list[Provisioner]:
    """Return every provisioner in the order in which they are tried. Raises `ProvisionError` for a broken plug-in."""
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
    """Return the provisioner for an os-release: by VARIANT_ID, by ID, then by each word of ID_LIKE.

    Raises `UnknownSystemError` with docker-machine's text if there is none.
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
        hint=f"Supported are {names}, and systems whose ID_LIKE names one of them. Packages can add others with "
        f"the entry-point group {GROUP}.",
    )


def state_folders(provisioners: Iterable[Provisioner]) -> list[str]:
    """Return the state folders of all `provisioners`."""
    return list(dict.fromkeys(provisioner.state for provisioner in provisioners))
