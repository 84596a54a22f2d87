"""Checks whether this host can run machines, for `health` and before `create`."""

from __future__ import annotations

import platform
from collections.abc import Mapping

from pymachine.driver.contract import Health, Json
from pymachine.driver.errors import PrecreateError, PymachineError
from pymachine.driver.kit.system import Reporter
from pymachine_driver_virtualbox import hardware, network, options, output, versions
from pymachine_driver_virtualbox.errors import VirtualizationError, VmNotFoundError
from pymachine_driver_virtualbox.vboxmanage import VBoxManage

X86 = ("x86_64", "amd64", "i386", "i686")


def health() -> Health:
    """Report whether VirtualBox is installed, new enough and loaded, and allows the default network."""
    try:
        vbox = VBoxManage(patience=0.0)
        traits = vbox.traits
        _check_version(traits)
        _check_host()
        if traits.limits_host_only:
            network.check_allowed(options.cidr(options.DEFAULT_CIDR))
    except PymachineError as error:
        return Health(usable=False, problem=error.brief, fix=error.hint or "Run VBoxManage --version.")
    version = versions.text(traits.version)
    for problem in (hardware.module_problem(), hardware.processor_problem(traits)):
        if problem is not None and problem.fatal:
            return Health(usable=False, version=version, problem=problem.what, fix=problem.fix)
    return Health(usable=True, version=version)


def before_create(vbox: VBoxManage, config: Mapping[str, Json], *, reporter: Reporter) -> None:
    """Raise an error that names the fix if a machine with `config` could not be created or started."""
    traits = vbox.traits
    _check_version(traits)
    _check_host()
    if traits.version < versions.SUPPORTED:
        reporter.warn(
            f"VirtualBox {versions.text(traits.version)} is old: {versions.text(versions.SUPPORTED)} or later is "
            "recommended."
        )
    if not config.get("NoVTXCheck"):
        _check_hardware(traits, reporter)
    _check_network(vbox, config)
    if config.get("Boot2DockerImportVM"):
        _check_import(vbox, str(config["Boot2DockerImportVM"]))


def _check_version(traits: versions.Traits) -> None:
    if traits.version < versions.OLDEST:
        raise PrecreateError(
            f"VirtualBox {versions.text(traits.version)} is too old: at least {versions.text(versions.OLDEST)} is "
            "needed",
            hint=f"Install VirtualBox {versions.text(versions.SUPPORTED)} or later.",
        )


def _check_host() -> None:
    if platform.machine().lower() not in X86:
        raise PrecreateError(
            f"the virtualbox driver supports only x86-64 hosts, and this host is {platform.machine()}",
            hint="Use the driver qemu.",
        )


def _check_hardware(traits: versions.Traits, reporter: Reporter) -> None:
    for problem in (hardware.module_problem(platform=traits.platform), hardware.processor_problem(traits)):
        if problem is not None and problem.fatal:
            raise VirtualizationError(problem.what, hint=f"{problem.fix}\n{hardware.NO_CHECK}")
        if problem is not None:
            reporter.warn(f"{problem.what}. {problem.fix}")


def _check_network(vbox: VBoxManage, config: Mapping[str, Json]) -> None:
    wanted = options.cidr(str(config["HostOnlyCIDR"]))
    listing = "hostonlynets" if vbox.traits.host_only_networks else "hostonlyifs"
    read = network.networks if vbox.traits.host_only_networks else network.interfaces
    if network.choose(read(vbox("list", listing)), wanted) is not None:
        return  # it exists, so VirtualBox allows it
    if vbox.traits.limits_host_only:
        network.check_allowed(wanted)
    network.check_collisions(vbox, wanted)


def _check_import(vbox: VBoxManage, name: str) -> None:
    try:
        info = vbox.info(name)
    except VmNotFoundError as error:
        raise PrecreateError(f"there is no VirtualBox machine {name} to import", details=error.details) from error
    if output.state(info).word != "Stopped":
        raise PrecreateError(f"{name} is {output.state(info).word.lower()}: stop it before you import it")
