"""Drivers that are known by name: the program that has each, and where it comes from.

docker-machine's own drivers are those of its last version, 0.16.2. Only names that users type are listed.
"""

from __future__ import annotations

from dataclasses import dataclass

_DOCKER_MACHINE = (
    *("amazonec2", "azure", "digitalocean", "exoscale", "google", "hyperv", "openstack", "rackspace", "softlayer"),
    *("virtualbox", "vmwarefusion", "vmwarevcloudair", "vmwarevsphere"),
)
_RANCHER_MACHINE = ("amazonec2", "azure", "digitalocean", "exoscale", "google", "openstack", "vmwarevsphere")
# Drivers that were given up for another one, which does the same.
_SUCCESSORS = {"vmwarefusion": ("vmware",)}


@dataclass(frozen=True)
class _Source:
    """Where a program comes from."""

    project: str
    """The project on GitHub."""
    note: str = ""


_SOURCES = {
    "aliyunecs": _Source("AliyunContainerService/docker-machine-driver-aliyunecs"),
    "harvester": _Source("harvester/docker-machine-driver-harvester"),
    "hetzner": _Source("JonasProgrammer/docker-machine-driver-hetzner"),
    "kvm": _Source("dhiltgen/docker-machine-kvm", "pymachine's own driver libvirt does the same"),
    "kvm2": _Source("kubernetes/minikube", "pymachine's own driver libvirt does the same"),
    "linode": _Source("linode/docker-machine-driver-linode"),
    "nutanix": _Source("nutanix/docker-machine"),
    "opentelekomcloud": _Source("opentelekomcloud/docker-machine-opentelekomcloud"),
    "ovh": _Source("yadutaf/docker-machine-driver-ovh"),
    "parallels": _Source("Parallels/docker-machine-parallels"),
    "metal": _Source("equinix/docker-machine-driver-metal"),
    "proxmoxve": _Source("lnxbil/docker-machine-driver-proxmox-ve"),
    "scaleway": _Source("scaleway/docker-machine-driver-scaleway"),
    "vmware": _Source("machine-drivers/docker-machine-driver-vmware"),
    "vultr": _Source("vultr/docker-machine-driver-vultr"),
    "xhyve": _Source("machine-drivers/docker-machine-driver-xhyve"),
}


def successors(driver: str) -> tuple[str, ...]:
    """Return the names of drivers that do the same as `driver`, which was given up."""
    return _SUCCESSORS.get(driver, ())


def built_in(program: str) -> tuple[str, ...]:
    """Return the names of the drivers that the program called `program` usually has built in."""
    if program == "rancher-machine":
        return _RANCHER_MACHINE
    return _DOCKER_MACHINE


def advice(driver: str) -> str:
    """Return how to get the program that has `driver`, in one or more lines, or an empty text if it is unknown."""
    lines = []
    for name in (driver, *successors(driver)):
        if source := _SOURCES.get(name):
            lines.append(
                f"Install docker-machine-driver-{name}: it is the project {source.project} on GitHub."
                + (f" Or: {source.note}." if source.note else "")
            )
    built_into = {"docker-machine": _DOCKER_MACHINE, "rancher-machine": _RANCHER_MACHINE}
    having = [program for program, drivers in built_into.items() if driver in drivers]
    if having:
        projects = " and ".join(
            program.replace("docker-", "docker/").replace("rancher-", "rancher/") for program in having
        )
        lines.append(
            f"It is built into {' and '.join(having)} ({projects} on GitHub): put one on PATH, or name it with "
            "--plugin-program."
        )
    return "\n".join(lines)
