"""Build a template ahead of the first `create` that needs it."""

from __future__ import annotations

import os
from collections.abc import Mapping

from pymachine.driver import registry
from pymachine.driver.contract import BootRequest, Endpoint, Json, MachineRef
from pymachine.errors import TemplateError
from pymachine.hosts import proxies, registry_mirrors, templates
from pymachine.hosts.create import check_driver, find_image
from pymachine.hosts.host import Hosts
from pymachine.hosts.resume import with_seed
from pymachine.store import paths
from pymachine.store.proxies import Proxies, of_environment as proxies_of
from pymachine.system import files


def build_template(hosts: Hosts, driver_name: str, options: Mapping[str, Json]) -> templates.Template:
    """Return the template for machines with these options of the driver and the caller's proxies; make a missing one.

    Raises `TemplateError` if there can be none, or if it cannot be made.
    """
    root = hosts.store.root
    kind = registry.load(driver_name)
    folder = templates.directory(root)
    files.make_private_dir(folder)
    ref = MachineRef("template", folder, root, folder / paths.SSH_KEY)
    driver = kind(ref, kind.configure(ref, options, []), reporter=hosts.reporter)
    check_driver(driver)
    callers = proxies_of(os.environ) if proxies.supported(kind) else Proxies()
    boot = BootRequest(identity=_refuse_identity, image=find_image(hosts, driver))
    variables = proxies.reachable(driver, callers, hosts.reporter).variables()
    mirror = registry_mirrors.find(driver, root, hosts.reporter)
    request = with_seed(driver_name, boot, proxies=variables, mirror=mirror)
    templates.clear_failures(root)
    made = templates.ensure(driver, request, store=root, reporter=hosts.reporter)
    if made is None:
        raise TemplateError(f"the driver {driver_name} has no templates, or none for such machines")
    return made


def _refuse_identity(endpoint: Endpoint) -> bytes:
    raise TemplateError(f"a template has no identity, not even at {endpoint.address}")
