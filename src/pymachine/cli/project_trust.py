"""Permissions for project files: which of their requests need one, and the question to the user.

A project file may come from a cloned repository, and may name any folder, program or host.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pymachine.cli import create_options, goflags, share_options
from pymachine.cli.output import echo
from pymachine.cli.project_file import ProjectFile
from pymachine.driver import registry
from pymachine.driver.contract import Json, Trait
from pymachine.driver.options import Option
from pymachine.errors import PymachineError
from pymachine.system import printable

if TYPE_CHECKING:
    from pymachine.hosts.create import CreateRequest

TRUST_VARIABLE = "PYMACHINE_TRUST"
flag = goflags.flag(
    "--trust",
    is_flag=True,
    env=TRUST_VARIABLE,
    help="Allow the project file to use more than its own folder, without asking",
)


class UntrustedProjectError(PymachineError):
    """A project file reaches beyond its own folder, and the user has not allowed that."""

    code = "project-untrusted"


def wishes(
    ctx: click.Context, file: ProjectFile, request: CreateRequest, places: Mapping[Path, bool], *, existing: str = ""
) -> list[str]:
    """Return each request of the project file that reaches beyond its folder and its machine, as the end of a question.

    The file may come from a cloned repository. Values of the command line and of the environment are the user's own.
    Two different requests have different texts, since a permission is noted as its text. `places` is the result of
    `script_places`, and `existing` the driver of the machine if there is one.
    """
    from_file = {name for name, _ in create_options.from_file(ctx)}
    found = []
    if file.owner not in (-1, os.getuid() if hasattr(os, "getuid") else -1, 0):
        found.append(f"be used although it belongs to another user ({_user(file.owner)})")
    kind = registry.load(request.driver_name)
    if "driver" in from_file and Trait.PROVISION in kind.info.traits:
        is_existing = Trait.FIXED_ADDRESS in kind.info.traits
        what = "set up an existing host as root" if is_existing else "create a machine, which may cost money"
        found.append(f"{what}, with the driver {request.driver_name}")
    if "tls_san" in from_file:
        found += [f"have a certificate of this store for {name}" for name in request.sans]
    if "ca_cert" in from_file:
        outer = [path for path in map(Path, ctx.params["ca_cert"]) if not file.contains(path)]
        found += [f"have the CA certificates in {path} trusted in the machine" for path in outer]
    if "template" in from_file:
        found.append(f"use what is in the template {request.named_template}")
    if "engine_install_url" in from_file:
        found.append(f"install the engine with the script of {request.install_script}")
    for option in kind.options():
        if create_options.parameter(option) in from_file:
            found += _wishes_of_option(option, request.options[option.name])
    if request.origins["share"].where == file.place(share_options.SHARES):
        shares = [share for share in request.shares.shares if not file.contains(share.path)]
        found += [f"share {share} with the machine" for share in shares]
    is_host = Trait.PROVISION in registry.load(existing or request.driver_name).info.traits
    where = "on an existing host" if is_host else "in the machine"
    found += [f"run {path} as root {where}" for path, is_inside in places.items() if is_host or not is_inside]
    return found


def _wishes_of_option(option: Option, value: Json) -> list[str]:
    """Return the wishes for an option of a driver. Texts can name programs, files and hosts."""
    if isinstance(value, int) or value == option.default:
        return []
    return [f"set {option.name} to {text}" for text in (value if isinstance(value, tuple) else (value,)) if text]


def ensure(file: ProjectFile, wishes: Sequence[str], *, trusted: Sequence[str] = (), trust: bool) -> None:
    """Return if the user allows the `wishes` of a file: before (`trusted`), with ``--trust`` or on the terminal.

    Raises `UntrustedProjectError`.
    """
    new = [wish for wish in wishes if wish not in trusted]
    if trust or not new:
        return
    lines = [printable.line(f"- {wish}") for wish in new]
    question = f"{file.path} reaches beyond its own folder. It wants to"
    if sys.stdin.isatty() and sys.stderr.isatty():
        echo("\n".join([f"{printable.line(question)}:", *lines]), err=True)
        echo("Allow that? (y/N): ", nl=False, err=True)
        answer = sys.stdin.readline()
        if not answer.endswith("\n"):
            echo(err=True)
        if answer.strip().lower() in {"y", "yes"}:
            return
    raise UntrustedProjectError(
        f"{file.path} reaches beyond its own folder, which was not allowed",
        details="\n".join(["It wants to", *lines]),
        hint="If you trust the file, allow it with --trust. Nothing was done.",
    )


def _user(number: int) -> str:
    if sys.platform != "win32":
        import pwd  # noqa: PLC0415 (not on Windows)

        with suppress(KeyError):
            return pwd.getpwuid(number).pw_name
    return f"user {number}"
