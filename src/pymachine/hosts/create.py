"""Create a machine: the order of the steps, the same for every driver."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from pymachine.driver import registry
from pymachine.driver.abilities import ImageBootable, ImageCheckable
from pymachine.driver.contract import Config, Driver, ImageFiles, Json, MachineRef, Trait
from pymachine.driver.kit import transactions
from pymachine.driver.names import check_new_name
from pymachine.errors import DriverError, MachineExistsError, PrecreateError
from pymachine.hosts import (
    change_notes,
    container_proxies,
    ipv6,
    local_socket,
    new_records,
    proxies,
    resume,
    trusted_cas,
)
from pymachine.hosts.boot import prefixing
from pymachine.hosts.host import SETS_UP_ENGINE, Host, Hosts, is_existing_host
from pymachine.hosts.locking import lock
from pymachine.hosts.remove import undo_create
from pymachine.hosts.shares import ShareRequest, accepted
from pymachine.store import paths
from pymachine.store.origins import Origin, Project
from pymachine.store.proxies import Proxies
from pymachine.store.record import EngineOptions, Machine, SwarmOptions


@dataclass(frozen=True, kw_only=True)
class CreateRequest:
    """The options of `create`; `options` are the driver's, by name."""

    name: str
    driver_name: str
    options: Mapping[str, Json]
    engine: EngineOptions = field(default_factory=EngineOptions)
    swarm: SwarmOptions = field(default_factory=SwarmOptions)
    sans: tuple[str, ...] = ()
    """Further names and addresses for the server certificate (``--tls-san``)."""
    template: bool = True
    """Whether it may be resumed from a template, if its driver can do that."""
    named_template: str = ""
    """The template that it is made from: see `pymachine.hosts.create_from_template`."""
    context: str = ""
    """The docker context to make with the machine."""
    expires: int | None = None
    """When its time to live ends, in seconds since 1970."""
    owner: str = ""
    """The command that the machine is removed with: see `pymachine.hosts.prune`."""
    install_script: str = ""
    """The URL of a script that installs the engine on an existing host, instead of the distribution's packages."""
    shares: ShareRequest = field(default_factory=ShareRequest)
    share_events: bool = True
    """Whether the host's changes in them raise inotify events in the guest."""
    origins: Mapping[str, Origin] = field(default_factory=dict)
    """Where the values of the options came from."""
    project: Project | None = None
    """The project file that the machine is created for."""
    socket: bool = False
    """Whether a unix socket on this host reaches its engine."""
    ca_certificates: tuple[str, ...] = ()
    """The certificates of further CAs that its guest trusts, in PEM."""
    ipv6_ports: bool = False
    """Whether its forwarded ports are on ::1 too."""
    proxies: Proxies = field(default_factory=Proxies)
    """The caller's proxies. A driver whose machines do not use them ignores them."""
    container_proxy: bool = False
    """Whether the docker client sets them in containers and builds."""


def create(hosts: Hosts, request: CreateRequest) -> Machine:
    """Create a machine and boot it. If a step fails or is interrupted, everything made so far is removed.

    The record is saved before anything exists outside the store, so that `remove` can clean up after a crash.
    """
    check_new_name(request.name)
    kind = registry.load(request.driver_name)
    check_options(hosts, request)
    with lock(hosts, request.name), ExitStack() as undo:
        refuse_existing(hosts, request.name)
        hosts.ensure_authority()
        host = reserve(hosts, request, lambda ref, siblings: kind.configure(ref, request.options, siblings))
        undo.callback(undo_create, host)

        def keep() -> None:
            """Keep the machine, whatever fails later."""
            undo.pop_all()
            finish(host)

        image = _check_and_find_image(hosts, host)
        hosts.reporter.info("Creating machine...")
        make_keys(host)
        with prefixing("Error creating machine: "):
            # Changes on an existing host are not undone: `provision` finishes the job.
            keep_existing = keep if is_existing_host(host.driver) else _keep_nothing
            resume.resume_or_boot(host, host.boot_request(image=image), template=request.template, keep=keep_existing)
        keep()
    return host.record


def check_options(hosts: Hosts, request: CreateRequest) -> None:
    """Raise `PymachineError` for options that the driver's machines cannot have, before anything is made."""
    from pymachine.docker import daemon_json  # noqa: PLC0415 (cryptography; see design.md on start-up)
    from pymachine.tls import certs  # noqa: PLC0415 (cryptography; see design.md on start-up)

    kind = registry.load(request.driver_name)
    if kind.info.traits & SETS_UP_ENGINE:
        daemon_json.files(request.engine, driver_name=request.driver_name)
        certs.check_names(request.sans)
    if request.socket:
        local_socket.check(kind)
    if request.container_proxy:
        container_proxies.check(kind)
    trusted_cas.check(hosts.store.root, kind, request.ca_certificates)


def refuse_existing(hosts: Hosts, name: str) -> None:
    """Raise `MachineExistsError` if the name is taken."""
    if hosts.store.exists(name):
        raise MachineExistsError(name)


def reserve(hosts: Hosts, request: CreateRequest, configure: Callable[[MachineRef, Sequence[Config]], Config]) -> Host:
    """Configure the driver and save the record, which reserves addresses and ports that no two machines share.

    `configure` gets the new machine and the configurations of the other machines with the same driver.
    """
    store = hosts.store
    folder = store.machine_dir(request.name)
    ref = MachineRef(request.name, folder, store.root, folder / paths.SSH_KEY)
    kind = registry.load(request.driver_name)
    is_foreign = Trait.FOREIGN_CONFIG in kind.info.traits
    with store.reserving():
        with prefixing("Error setting machine configuration from flags provided: "):
            config = configure(ref, new_records.siblings(store, request.driver_name))
        if not is_foreign:
            config = new_records.with_base_fields(config, ref, ssh=Trait.NO_SSH not in kind.info.traits)
        machine = Machine(
            name=request.name,
            driver_name=kind.info.name,
            driver=config,
            driver_program=kind.program if is_foreign else None,
            engine=request.engine,
            swarm=request.swarm,
            auth=new_records.auth_options(hosts, request.name, request.sans),
            context=request.context,
            expires=request.expires,
            owner=request.owner,
            install_script=request.install_script,
            share_events=request.share_events,
            origins=dict(request.origins),
            project=request.project,
            socket=request.socket,
            ipv6_ports=request.ipv6_ports,
            ca_certificates=list(request.ca_certificates),
            proxies=request.proxies if proxies.supported(kind) else Proxies(),
            container_proxy=request.container_proxy,
        )
        host = Host(hosts, machine)
        if host.has(Trait.FIXED_ADDRESS):
            machine.endpoint = host.driver.endpoint()
        ipv6.check(host.driver, guest=request.engine.ipv6, ports=request.ipv6_ports)
        machine.shares = accepted(host.driver, request.shares)
        store.add(machine)
    return host


def _keep_nothing() -> None:
    """Let a failure remove a machine that the driver has made, even if it is only partly set up."""


def _check_and_find_image(hosts: Hosts, host: Host) -> ImageFiles | None:
    """Run the driver's pre-create check, and return the image that the machine boots, as `find_image` does.

    The check comes first if it can, since the image may have to be built.
    """
    driver, authorities = host.driver, host.record.ca_certificates
    hosts.reporter.info("Running pre-create checks...")
    if not isinstance(driver, ImageCheckable):
        check_driver(driver)
        return find_image(hosts, driver, ca_certificates=authorities)
    image = find_image(hosts, driver, ca_certificates=authorities)
    if image is not None:
        driver.offer_image(image)
    check_driver(driver)
    return image


def check_driver(driver: Driver) -> None:
    """Run the driver's pre-create check. Raises `PrecreateError`."""
    try:
        driver.precreate_check()
    except DriverError as error:
        raise PrecreateError(
            f"Error with pre-create check: {json.dumps(error.brief, ensure_ascii=False)}",
            details=error.details,
            hint=error.hint,
        ) from error


def find_image(hosts: Hosts, driver: Driver, *, ca_certificates: Sequence[str] = ()) -> ImageFiles | None:
    """Return the image of pymachine that the machine boots, which is built if necessary, or None if it boots another.

    The build also trusts `ca_certificates`, in PEM, and those of config.toml.
    """
    request = driver.image_request() if isinstance(driver, ImageBootable) else None
    if request is None:
        return None
    trusted_cas.trust_in_downloads(hosts.store.root, ca_certificates)
    from pymachine.image import provide  # noqa: PLC0415 (only create needs the builder)

    return provide.find_or_build(request, store=hosts.store.root, reporter=driver.reporter)


def make_keys(host: Host) -> None:
    """Make the machine's SSH keys, unless it has no SSH, or the user or a driver's program brings a key."""
    from pymachine.hosts import identity  # noqa: PLC0415 (cryptography)

    is_given_key = host.record.base.ssh_key != host.directory / paths.SSH_KEY
    if host.has(Trait.NO_SSH | Trait.FOREIGN_CONFIG) or is_given_key:
        return
    host.driver.reporter.info("Creating SSH key...")
    if host.driver.info.traits & SETS_UP_ENGINE == Trait.PROVISION:
        # An existing host has a host key, which is pinned at the first login.
        identity.make_login_key(host.directory, name=host.name)
    else:
        identity.make_keys(host.directory, name=host.name)


def finish(host: Host) -> None:
    """Note that the machine is complete: from now on nothing removes it but `rm`."""
    change_notes.end(host, transactions.CREATE)
