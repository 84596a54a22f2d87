"""Build a domain's XML from the machine's configuration."""

from __future__ import annotations

import platform
from collections.abc import Mapping

from pymachine.driver.contract import Json, MachineRef
from pymachine.driver.kit import identity_channel, kernel_parameters
from pymachine_driver_libvirt import connection as libvirts, domain as domains, options
from pymachine_driver_libvirt.connection import Domain
from pymachine_driver_libvirt.listen_address import ListenAddress
from pymachine_driver_libvirt.volumes import ImageSet


def xml(
    machine: MachineRef, config: Mapping[str, Json], listen: ListenAddress, image: ImageSet, disk: str, *, uri: str
) -> str:
    """Return the domain's XML. Keys that a later version added may be missing in `config`."""
    architecture = str(config.get("Arch") or "amd64")
    hardware = domains.Hardware(
        architecture=architecture,
        accelerator=str(config.get("AcceleratorInUse") or "tcg"),
        cpus=int(config.get("CPU", options.DEFAULT_CPUS)),
        memory_mib=int(config.get("Memory", options.RECORDED_MEMORY_MIB)),
        machine_type=str(config.get("MachineType", "")),
        cpu_mode=str(config.get("CPUMode") or options.AUTO),
    )
    boot = domains.Boot(
        kernel=image.kernel,
        initrd=image.initrd,
        command_line=command_line(config, str(config.get("KernelCommandLine", ""))),
    )
    made = domains.Machine(
        name=machine.name,
        machine_id=str(config["MachineID"]),
        mac=str(config["MACAddress"]),
        image=image.iso,
        disk=disk,
        owner=_owner(machine),
        network="" if listen.is_forwarded else listen.network,
        forwards=listen.forwards(uri),
        patches=tuple(config.get("XMLPatches") or ()),
    )
    return domains.machine(hardware, boot, made)


def command_line(config: Mapping[str, Json], of_image: str) -> str:
    """Return the kernel's parameters; `of_image` are those that the image needs."""
    is_emulated = (config.get("AcceleratorInUse") or "tcg") == "tcg"
    extra = kernel_parameters.emulated(no_aslr=bool(config.get("NoASLR"))) if is_emulated else []
    return kernel_parameters.for_machine(str(config.get("Arch") or "amd64"), of_image, extra=extra)


def describe(domain: Domain, machine: MachineRef) -> None:
    """Update the description and the mark of an existing domain. Raises libvirt's own errors."""
    libvirt = libvirts.library()
    owner, flags = _owner(machine), libvirt.VIR_DOMAIN_AFFECT_CONFIG
    domain.setMetadata(libvirt.VIR_DOMAIN_METADATA_DESCRIPTION, domains.description(owner), None, None, flags)
    domain.setMetadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, domains.mark(owner), "pymachine", domains.NAMESPACE, flags)


def add_containers_port(domain: Domain) -> None:
    """Add the port on which the guest reports its open ports, if the domain is older than that feature.

    The guest has the port from its next start on.
    """
    libvirt = libvirts.library()
    with libvirts.wrap_errors("cannot add a port to the machine's domain"):
        if identity_channel.CONTAINERS_PORT not in domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE):
            domain.attachDeviceFlags(domains.containers_port(), libvirt.VIR_DOMAIN_AFFECT_CONFIG)


def _owner(machine: MachineRef) -> domains.Owner:
    return domains.Owner(name=machine.name, store=str(machine.store), client=platform.node())
