"""Resume a new machine from a template, or boot it from power-on where there is none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from pymachine.driver.abilities import Templatable
from pymachine.driver.contract import BootRequest
from pymachine.errors import PymachineError, TemplateError
from pymachine.hosts.boot import boot, prefixing
from pymachine.hosts.host import Host
from pymachine.hosts.timeouts import RESUME_SECONDS, boot_timeout
from pymachine.store.record import EngineOptions

if TYPE_CHECKING:
    from pymachine.hosts import templates
    from pymachine.hosts.registry_mirrors import Mirror


def resume_or_boot(host: Host, request: BootRequest, *, template: bool, keep: Callable[[], object]) -> None:
    """Resume a new machine from a template, or boot it from power-on.

    Without `template` it is booted. `keep` is called before an existing host is changed.

    A template that failed is removed once the same machine came up without it, which shows that the template is
    at fault. Every other failure is the machine's or the host's, and is raised.
    """
    from pymachine.hosts import templates  # noqa: PLC0415 (only create needs them)

    failed: templates.TemplateFailedError | None = None
    try:
        if template and _resume(host, request):
            return
    except templates.TemplateFailedError as error:
        host.reporter.warn(f"{error.brief}: booting from power-on.")
        failed = error
    boot(host, partial(_create, host), request, before_provisioning=keep)
    if failed is not None:
        try:
            templates.remove_faulty(failed)
        except TemplateError as error:
            host.reporter.warn(f"The template could not be removed: {error.brief}")


def with_seed(
    driver_name: str, request: BootRequest, *, proxies: str = "", mirror: Mirror | None = None
) -> BootRequest:
    """Return `request` with the seed of a template: the settings of an engine without options, its IPv6, its proxies.

    An engine reads its proxies and sets IPv6 up only when it starts, and a clone's engine must not have to start again.
    It would not have to for `mirror`, this host's registry cache, but a reload takes time too.
    """
    from pymachine.docker import daemon_json  # noqa: PLC0415 (only create needs it)
    from pymachine.hosts import identity, registry_mirrors  # noqa: PLC0415 (only create needs it)

    options = registry_mirrors.with_mirror(EngineOptions(ipv6=request.ipv6), mirror)
    common = daemon_json.files(options, driver_name=driver_name)
    seed = identity.seed(common, proxies, mirror.member if mirror else "")
    return replace(request, seed=seed, timeout=boot_timeout())


def _create(host: Host, request: BootRequest) -> None:
    """Call the driver's `create`, with docker-machine's words in front of its errors."""
    with prefixing("Error in driver during machine creation: "):
        host.driver.create(request)


def _resume(host: Host, request: BootRequest) -> bool:
    """Resume a new machine from a template, and return whether there is one.

    Raises `TemplateFailedError` if the template may be at fault. Nothing of the machine runs then.
    """
    if not isinstance(host.driver, Templatable):
        return False
    from pymachine.docker import api  # noqa: PLC0415 (only create needs it)
    from pymachine.hosts import templates  # noqa: PLC0415 (only create needs them)
    from pymachine.tls import handshake  # noqa: PLC0415 (only create needs it)

    name, mirror = host.record.driver_name, host.registry_mirror
    request = with_seed(name, request, proxies=host.proxies().variables(), mirror=mirror)
    template = _find_template(host, request)
    if template is None:
        return False
    try:
        templates.touch(template)
        quick = replace(request, timeout=min(RESUME_SECONDS, request.timeout))
        boot(host, partial(host.driver.create_from_template, template.directory), quick)
    except handshake.CertificateRefusedError:
        raise
    except (TemplateError, handshake.TlsError, api.EngineError) as error:
        host.driver.remove()
        why = error.why if isinstance(error, handshake.TlsError) else error.brief
        brief = f"The template {template.name} does not resume ({why})"
        raise templates.TemplateFailedError(brief, template.directory, error, made=template.made) from error
    return True


def _find_template(host: Host, request: BootRequest) -> templates.Template | None:
    """Return the template for the machine, which is made if it is missing; None if there can be none.

    Raises `TemplateFailedError` if it cannot be made. Other errors are warnings.
    """
    from pymachine.hosts import templates  # noqa: PLC0415 (only create needs them)

    try:
        return templates.ensure(host.driver, request, store=host.store.root, reporter=host.driver.reporter)
    except templates.TemplateFailedError:
        raise
    except PymachineError as error:
        host.reporter.warn(f"There is no template ({error.brief}): booting from power-on.")
        return None
