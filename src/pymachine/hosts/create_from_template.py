"""Create a machine from a named template, which is made again by its recipe if it cannot be resumed any more."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial

from pymachine.driver import registry
from pymachine.driver.abilities import Clonable, Freezable
from pymachine.driver.contract import Config, MachineRef
from pymachine.driver.names import check_new_name
from pymachine.errors import PymachineError, StaleTemplateError, TemplateError, UnsupportedError, UsageError
from pymachine.hosts import create as creating, named_templates, templates
from pymachine.hosts.boot import boot
from pymachine.hosts.copies import request_like
from pymachine.hosts.create import CreateRequest, finish, make_keys, refuse_existing, reserve
from pymachine.hosts.host import Host, Hosts
from pymachine.hosts.locking import lock
from pymachine.hosts.named_templates import SEED
from pymachine.hosts.origins import CA_CERT, CONTAINER_PROXY, DRIVER, NO_HOST_PROXY
from pymachine.hosts.remove import undo_create
from pymachine.hosts.templates import NamedTemplate
from pymachine.hosts.timeouts import boot_timeout
from pymachine.store import origins, paths
from pymachine.store.record import EngineOptions, Machine
from pymachine.system import manifests, os_errors

# Options, beside those of the driver, that a running engine has read already.
_FIXED = {CA_CERT, NO_HOST_PROXY, CONTAINER_PROXY}


class TemplateUnusableError(PymachineError):
    """A named template cannot be used. The machine is not booted without its images and containers."""

    code = "template-unusable"


class DamagedTemplateError(TemplateError):
    """A file of a named template is damaged."""

    code = "template-damaged"


def create(hosts: Hosts, request: CreateRequest) -> Machine:
    """Create a machine, from a named template if `request` has one. If a step fails, all that was made is removed.

    It has the template's hardware and engine options, and the request's labels, mirrors and such in addition. A
    template that this host can no longer resume, or that is damaged, is made again if there is a recipe for it. Raises
    `UsageError` for options that cannot be had with a template, and `TemplateUnusableError` for one without a recipe.
    """
    if not request.named_template:
        return creating.create(hosts, request)
    check_new_name(request.name)
    template = named_templates.find(hosts.store.root, request.named_template)
    try:
        return _create_current(hosts, request, template)
    except (DamagedTemplateError, StaleTemplateError) as error:
        if not template.recipe:
            raise TemplateUnusableError(
                f"the template {template.name} cannot be used: {error.brief}",
                details=error.details,
                hint=f"Make it again: pymachine template create {template.name} --from MACHINE",
            ) from error
        hosts.reporter.warn(f"The template {template.name} is made again by its recipe: {error.brief}.")
    from pymachine.hosts import build_named_template  # noqa: PLC0415 (rarely needed)

    try:
        template = build_named_template.rebuild(hosts, template, create)
    except PymachineError as error:
        raise error.prefixed(f"the template {template.name} cannot be made again: ") from error
    return _create_current(hosts, request, template)


def _create_current(hosts: Hosts, request: CreateRequest, template: NamedTemplate) -> Machine:
    """Create the machine, and again if another process replaced the template meanwhile, whose files do not mix."""
    while True:
        try:
            return _create(hosts, request, template)
        except PymachineError:
            if not _is_replaced(hosts, template):
                raise
            template = named_templates.find(hosts.store.root, template.name)


def _is_replaced(hosts: Hosts, template: NamedTemplate) -> bool:
    """Return whether there is another template of that name now. Without one, all files were opened before."""
    now = templates.Templates(templates.directory(hosts.store.root)).open(template.name)
    return now is not None and now.made != template.made


def _create(hosts: Hosts, request: CreateRequest, template: NamedTemplate) -> Machine:
    _check_intact(hosts, template)
    merged = _merged(template.record, request, template.name)
    creating.check_options(hosts, merged)
    seed = _seed(template)
    _check_engine(template.record, merged, seed)
    with lock(hosts, request.name), ExitStack() as undo:
        refuse_existing(hosts, request.name)
        hosts.ensure_authority()
        host = reserve(hosts, merged, partial(_config, template))
        undo.callback(undo_create, host)
        creating.check_driver(host.driver)
        hosts.reporter.info("Creating machine...")
        make_keys(host)
        _resume(host, template, seed)
        if _is_replaced(hosts, template):
            raise TemplateUnusableError(f"the template {template.name} was replaced while the machine was made")
        undo.pop_all()
        finish(host)
    _warn_of_certificates(host, seed)
    return host.record


def _check_intact(hosts: Hosts, template: NamedTemplate) -> None:
    """Raise `DamagedTemplateError` if a file has another content than when the template was made."""
    try:
        templates.Templates(templates.directory(hosts.store.root)).check(template)
    except manifests.ContentError as error:
        raise DamagedTemplateError(error.brief) from error


def _seed(template: NamedTemplate) -> bytes:
    """Return the part of an identity that the template's guest has. Raises `TemplateUnusableError`."""
    try:
        return (template.directory / SEED).read_bytes()
    except OSError as error:
        raise os_errors.wrapped(TemplateUnusableError, f"cannot read the template {template.name}", error) from error


def _check_engine(frozen: Machine, merged: CreateRequest, seed: bytes) -> None:
    """Refuse settings with which the engine would have to restart, which would end the template's containers.

    Raises `UsageError` for options of the request, and `StaleTemplateError` if the template's own settings are written
    in another way now.
    """
    from pymachine.docker import daemon_json  # noqa: PLC0415 (cryptography)
    from pymachine.hosts import identity  # noqa: PLC0415 (cryptography)

    fingerprint = identity.member(seed, identity.ENGINE_FINGERPRINT).decode(errors="replace").strip()

    def is_running_with(engine: EngineOptions) -> bool:
        return daemon_json.files(engine, driver_name=frozen.driver_name).fingerprint == fingerprint

    if not is_running_with(frozen.engine):
        raise StaleTemplateError("this version of pymachine starts its engine in another way")
    if not is_running_with(merged.engine):
        raise UsageError(
            "the engine would have to restart for these options, which would end the template's containers",
            hint="Only options that dockerd reloads can be used with --template, such as --engine-label.",
        )


def _warn_of_certificates(host: Host, seed: bytes) -> None:
    """Say so if the machine trusts other CAs than the template did, whose engine may have read their certificates."""
    from pymachine.hosts import identity, trusted_cas  # noqa: PLC0415 (cryptography)

    wanted = "".join(trusted_cas.of(host.record, host.store.root, host.reporter)).encode()
    if wanted != identity.member(seed, identity.CA_CERTIFICATES):
        host.reporter.warn(
            "The CA certificates in config.toml are not those of the template. Its engine may use them only after a "
            f"restart: pymachine ssh {host.name} -- sudo /etc/init.d/docker restart"
        )


def _resume(host: Host, template: NamedTemplate, seed: bytes) -> None:
    """Raises `StaleTemplateError`, and `TemplateUnusableError` for other failures of the template."""
    driver = host.driver
    if not isinstance(driver, Freezable):
        raise driver.unsupported("named templates")
    try:
        templates.touch(template)
        request = replace(host.boot_request(), seed=seed, timeout=boot_timeout())
        boot(host, partial(driver.create_from_frozen, template.directory, template.facts), request)
    except StaleTemplateError:
        raise
    except TemplateError as error:
        raise TemplateUnusableError(
            f"the template {template.name} cannot be resumed: {error.brief}", details=error.details
        ) from error
    except FileNotFoundError as error:
        raise TemplateUnusableError(f"the template {template.name} was removed meanwhile") from error


def _merged(record: Machine, request: CreateRequest, name: str) -> CreateRequest:
    """Return the request for a machine with the record's options and those of `request`."""
    _refuse_fixed(record, request, name)
    like = request_like(record, request.name, request.shares)
    return replace(
        request,
        driver_name=record.driver_name,
        options={},
        engine=_engine(record.engine, request.engine),
        swarm=like.swarm,
        sans=(*like.sans, *request.sans),
        share_events=request.share_events and like.share_events,
        socket=request.socket or like.socket,
        ipv6_ports=request.ipv6_ports or like.ipv6_ports,
        ca_certificates=like.ca_certificates,
        # The engine reads its proxies when it starts, and it runs already.
        proxies=like.proxies,
        container_proxy=like.container_proxy,
    )


def _engine(frozen: EngineOptions, given: EngineOptions) -> EngineOptions:
    """Return the options of the template's engine with those of the request in addition."""
    return replace(
        frozen,
        storage_driver=given.storage_driver or frozen.storage_driver,
        env=_joined(frozen.env, given.env),
        ipv6=frozen.ipv6 or given.ipv6,
        arbitrary_flags=_joined(frozen.arbitrary_flags, given.arbitrary_flags),
        insecure_registry=_joined(frozen.insecure_registry, given.insecure_registry),
        labels=_joined(frozen.labels, given.labels),
        registry_mirror=_joined(frozen.registry_mirror, given.registry_mirror),
    )


def _joined(first: Sequence[str], second: Sequence[str]) -> list[str]:
    return list(dict.fromkeys([*first, *second]))


def _refuse_fixed(record: Machine, request: CreateRequest, name: str) -> None:
    """Raise `UsageError` if the command line or the project file has options for what the template decides."""
    chosen = {option for option, origin in request.origins.items() if origin.kind in {origins.FLAG, origins.FILE}}
    if DRIVER in chosen and request.driver_name != record.driver_name:
        raise UsageError(f"the template {name} is for the driver {record.driver_name}, not {request.driver_name}")
    fixed = {option.name for option in registry.load(request.driver_name).options()} | _FIXED
    if refused := sorted(chosen & fixed):
        raise UsageError(
            f"--{refused[0]} cannot be used with --template: it is fixed in the template {name}",
            hint=f"Change it afterwards: pymachine modify {request.name}",
        )


def _config(template: NamedTemplate, ref: MachineRef, siblings: Sequence[Config]) -> Config:
    """Return the configuration of a machine from the template."""
    record = template.record
    source = MachineRef(template.name, template.directory, ref.store, template.directory / paths.SSH_KEY)
    driver = registry.load(record.driver_name)(source, dict(record.driver))
    if not isinstance(driver, Clonable):
        raise UnsupportedError(f"{record.driver_name} driver does not support copies of machines")
    return driver.copy_config(ref, siblings)
