"""`modify`: change the hardware, shared folders, local socket or engine options of existing machines."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

from pymachine.cli import create_options, goflags, machine_args, share_options
from pymachine.cli.context import App, pass_app
from pymachine.cli.errors import RunError

if TYPE_CHECKING:
    from pymachine.store.proxies import Proxies

# Flag -> field of EngineOptions. A list replaces the current one; an empty value clears it.
LISTS = {
    "engine_opt": "arbitrary_flags",
    "engine_env": "env",
    "engine_insecure_registry": "insecure_registry",
    "engine_label": "labels",
    "engine_registry_mirror": "registry_mirror",
}


@click.command("modify", cls=goflags.GoCommand)
@goflags.flag("--cpus", type=int, help="Number of CPUs (-1: all of the host's)")
@goflags.flag("--memory", type=goflags.SIZE, help="Size of memory in MB, or such as 4g")
@goflags.flag("--disk-size", type=goflags.SIZE, help="Size of the disk in MB, or such as 60g (it can only grow)")
@goflags.flag("--engine-opt", multiple=True, help="Replace the engine flags, each in the form flag=value")
@goflags.flag("--engine-env", multiple=True, help="Replace the environment variables of the engine")
@goflags.flag("--engine-insecure-registry", multiple=True, help="Replace the insecure registries")
@goflags.flag("--engine-label", multiple=True, help="Replace the labels of the engine")
@goflags.flag("--engine-registry-mirror", multiple=True, help="Replace the registry mirrors")
@goflags.flag("--engine-storage-driver", help="Storage driver of the engine")
@goflags.flag("--tls-san", multiple=True, help="Replace the extra names in the server certificate")
@goflags.flag(
    "--share",
    multiple=True,
    help="Also share a folder of this host, as PATH[:GUEST_PATH][:ro]",
    shell_complete=share_options.complete_folder,
)
@goflags.flag(
    "--unshare",
    multiple=True,
    help="Stop sharing a folder, by its path on the host or in the guest",
    shell_complete=share_options.complete_folder,
)
@goflags.flag(
    "--share-events", is_flag=True, help="Tell programs in the machine that this host has changed a shared file"
)
@goflags.flag("--no-share-events", is_flag=True, help="Do not tell them")
@goflags.flag("--socket", is_flag=True, help="Make a unix socket that reaches the engine over SSH")
@goflags.flag("--no-socket", is_flag=True, help="Remove that socket")
@goflags.flag("--ipv6", is_flag=True, help="Let the machine and its containers use IPv6 as this host does")
@goflags.flag("--no-ipv6", is_flag=True, help="Let them use IPv4 only")
@goflags.flag("--ipv6-ports", is_flag=True, help="Forward the open ports of the machine from ::1 too")
@goflags.flag("--no-ipv6-ports", is_flag=True, help="Do not forward them from ::1")
@goflags.flag(
    "--ca-cert",
    multiple=True,
    help="Replace the CA certificates that the machine trusts by those in this file",
    shell_complete=machine_args.complete_file,
)
@goflags.flag("--host-proxy", is_flag=True, help="Use the proxies that HTTP_PROXY, HTTPS_PROXY and NO_PROXY have now")
@goflags.flag("--no-host-proxy", is_flag=True, help="Use no proxy")
@goflags.flag(
    "--container-proxy", is_flag=True, help="Let docker set the engine's proxies in containers and builds too"
)
@goflags.flag("--no-container-proxy", is_flag=True, help="Do not let docker set proxies there")
@goflags.flag("--restart", is_flag=True, help="Restart a running machine if the change requires it")
@machine_args.arguments()
@pass_app
def command(app: App, /, names: tuple[str, ...], **given: Any) -> None:
    """Change the hardware, shared folders, local socket or engine options of machines.

    A list option replaces the whole current list, and an empty value clears it. Engine options take effect in a running
    machine immediately; the engine restarts if it cannot reload them.
    """
    from pymachine.driver.abilities import HardwareChange  # noqa: PLC0415 (the help needs neither)
    from pymachine.hosts.modify import Changes, modify  # noqa: PLC0415
    from pymachine.hosts.shares import absolute  # noqa: PLC0415

    engine: dict[str, str | list[str] | bool] = {
        field: [word for word in given[flag] if word] for flag, field in LISTS.items() if given[flag]
    }
    if given["engine_storage_driver"]:
        engine["storage_driver"] = given["engine_storage_driver"]
    chosen_ipv6 = _chosen(given, "ipv6")
    if chosen_ipv6 is not None:
        engine["ipv6"] = chosen_ipv6
    trusted = create_options.ca_certificates([word for word in given["ca_cert"] if word])
    changes = Changes(
        hardware=HardwareChange(cpus=given["cpus"], memory_mib=given["memory"], disk_mb=given["disk_size"]),
        engine=engine,
        share=tuple(map(share_options.parsed, given["share"])),
        unshare=tuple(absolute(word, base=share_options.current_folder()) for word in given["unshare"]),
        share_events=_chosen(given, "share-events"),
        socket=_chosen(given, "socket"),
        ipv6_ports=_chosen(given, "ipv6-ports"),
        proxies=_proxies(given),
        container_proxy=_chosen(given, "container-proxy"),
        ca_certificates=trusted if given["ca_cert"] else None,
        sans=[name for name in given["tls_san"] if name] if given["tls_san"] else None,
    )
    if changes == Changes():
        raise RunError("Error: Nothing to change", hint="See the options: pymachine modify --help")
    machine_args.each(app, names, lambda name: modify(app.hosts, name, changes, restart=given["restart"]))


def _proxies(given: dict[str, Any]) -> Proxies | None:
    """Return the proxies that the flags choose, or None without them. Raises `UsageError`."""
    from pymachine.store import proxies  # noqa: PLC0415 (the help does not need it)

    chosen = _chosen(given, "host-proxy")
    if chosen is None:
        return None
    found = proxies.of_environment(os.environ) if chosen else proxies.Proxies()
    if chosen and not found:
        raise RunError("Error: Neither HTTP_PROXY nor HTTPS_PROXY is set", hint="To use no proxy: --no-host-proxy")
    return found


def _chosen(given: dict[str, Any], flag: str) -> bool | None:
    """Return what a flag and its opposite say, or None if neither is given. Raises `RunError` if both are."""
    name = flag.replace("-", "_")
    yes, no = given[name], given[f"no_{name}"]
    if yes and no:
        raise RunError(f"--{flag} and --no-{flag} exclude each other", hint="Use one of them.")
    return bool(yes) if yes or no else None
