"""Build a named template: create a machine, prepare it, freeze it, and remove it."""

from __future__ import annotations

import secrets
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pymachine.driver.contract import Json
from pymachine.errors import PymachineError, TemplateError
from pymachine.hosts import client_environment, named_templates, prune, templates
from pymachine.hosts.copies import request_like
from pymachine.hosts.create import CreateRequest
from pymachine.hosts.freeze import freeze
from pymachine.hosts.host import Hosts
from pymachine.hosts.remove import remove
from pymachine.hosts.shares import ShareRequest
from pymachine.hosts.templates import NamedTemplate
from pymachine.store.record import Machine
from pymachine.system import os_errors, signals, user_command

Creator = Callable[[Hosts, CreateRequest], Machine]


class PreparationError(PymachineError):
    """A step that prepares the machine of a template failed. Its output was printed as it came."""

    code = "template-preparation"


@dataclass(frozen=True, kw_only=True)
class Steps:
    """The steps that prepare the machine before it is frozen, in this order."""

    pull: Sequence[str] = ()
    """Images to pull."""
    load: Sequence[Path] = ()
    """Files of `docker save` to load."""
    execute: Sequence[str] = ()
    """Shell commands to run on this host, with the environment that connects a docker client to the machine."""
    folder: Path = Path()
    """The working directory of the commands."""

    def to_json(self) -> Mapping[str, Json]:
        """Return them for a recipe."""
        return {
            "pull": list(self.pull),
            "load": [str(path) for path in self.load],
            "exec": list(self.execute),
            "folder": str(self.folder),
        }

    @classmethod
    def from_json(cls, recipe: Mapping[str, Json]) -> Steps:
        """Read them from a recipe."""
        return cls(
            pull=list(recipe["pull"]),
            load=[Path(path) for path in recipe["load"]],
            execute=list(recipe["exec"]),
            folder=Path(recipe["folder"]),
        )


def rebuild(hosts: Hosts, old: NamedTemplate, create: Creator) -> NamedTemplate:
    """Make a named template again by its recipe, unless another process has done so since `old` was read.

    `create` makes the machine that is prepared, as `create_from_template.create` does.
    """
    with named_templates.building(hosts.store.root, old.name, hosts.reporter):
        now = templates.Templates(templates.directory(hosts.store.root)).open(old.name)
        if isinstance(now, NamedTemplate) and now.made != old.made:
            return now
        _check_bases(hosts, old.name, str(old.recipe.get("template", "")))
        like = request_like(old.record, "template", ShareRequest())
        try:
            steps = Steps.from_json(old.recipe)
            request = replace(like, options=dict(old.recipe["options"]), named_template=str(old.recipe["template"]))
        except (KeyError, TypeError, ValueError) as error:
            raise TemplateError(f"the recipe of the template {old.name} cannot be read") from error
        return _build(hosts, old.name, request, steps, create)


def build(hosts: Hosts, name: str, request: CreateRequest, steps: Steps, create: Creator) -> NamedTemplate:
    """Make the template `name` from a new machine with the options of `request`, after `steps`.

    `create` makes that machine, as for `rebuild`. It is removed at the end. If a step fails, an older template of that
    name is unchanged. Raises `PreparationError` with the exit code of a step that failed.
    """
    named_templates.check_new_name(name)
    _check_bases(hosts, name, request.named_template)
    with named_templates.building(hosts.store.root, name, hosts.reporter):
        return _build(hosts, name, request, steps, create)


def _build(hosts: Hosts, name: str, request: CreateRequest, steps: Steps, create: Creator) -> NamedTemplate:
    _check(steps)
    machine = f"template-{secrets.token_hex(4)}"
    with prune.hold(hosts.store, machine):
        create(hosts, replace(request, name=machine, owner=prune.RUN))
        try:
            _prepare(hosts, machine, steps)
            return freeze(hosts, machine, name, recipe=_recipe(request, steps))
        finally:
            with signals.ignored():
                remove(hosts, machine)


def _check_bases(hosts: Hosts, name: str, base: str) -> None:
    """Raise `TemplateError` if the template `name` would begin with itself: then it could not be made again."""
    seen: set[str] = set()
    while base and base not in seen:
        if base == name:
            raise TemplateError(f"the template {name} cannot begin with itself")
        seen.add(base)
        found = templates.Templates(templates.directory(hosts.store.root)).open(base)
        base = str(found.recipe.get("template", "")) if isinstance(found, NamedTemplate) else ""


def _recipe(request: CreateRequest, steps: Steps) -> Mapping[str, Json]:
    return {"options": dict(request.options), "template": request.named_template, **steps.to_json()}


def _check(steps: Steps) -> None:
    """Raise `PreparationError` for a folder or files that are missing, before anything is made."""
    if not steps.folder.is_dir():
        raise PreparationError(
            f"the folder {steps.folder}, in which the template was built, is gone",
            hint="Build the template again in another folder.",
        )
    for path in steps.load:
        if not path.is_file():
            raise PreparationError(f"{path} is no file", hint="--load takes a file that `docker save` wrote.")


def _prepare(hosts: Hosts, machine: str, steps: Steps) -> None:
    environment = client_environment.of(hosts, machine)
    client = shutil.which("docker")
    for image in steps.pull:
        hosts.reporter.info(f"Pulling {image}...")
        if client:  # which knows the user's logins at registries
            _call([client, "pull", image], environment, what=f"docker pull {image}")
        else:
            _pull_in_guest(hosts, machine, image)
    for path in steps.load:
        hosts.reporter.info(f"Loading {path}...")
        _load(client, path, environment)
    for command in steps.execute:
        hosts.reporter.info(f"Running {command}...")
        _call(["/bin/sh", "-c", command], environment, what=command, folder=steps.folder)


def _load(client: str | None, path: Path, environment: Mapping[str, str]) -> None:
    if not client:
        raise PreparationError(
            "--load needs a docker client on this host", hint="Install one: sudo apt install docker-cli"
        )
    with path.open("rb") as file:
        _call([client, "load"], environment, what=f"docker load < {path}", stdin=file.fileno())


def _pull_in_guest(hosts: Hosts, machine: str, image: str) -> None:
    host = hosts.open(machine)
    result = host.ssh(host.login()).run(f"docker pull {shlex.quote(image)}")
    if result.returncode:
        raise PreparationError(f"docker pull {image} failed", details=result.stderr, exit_code=result.returncode)


def _call(
    words: Sequence[str],
    environment: Mapping[str, str],
    *,
    what: str,
    folder: Path | None = None,
    stdin: int = subprocess.DEVNULL,
) -> None:
    """Run a command whose output goes to stderr, since stdout has pymachine's result."""
    try:
        code = user_command.call(words, environment, folder=folder, stdin=stdin, stdout=sys.stderr.fileno())
    except OSError as error:
        raise os_errors.wrapped(PreparationError, f"cannot run {words[0]}", error) from error
    if code:
        raise PreparationError(f"{what} failed with exit code {code}", exit_code=code)
