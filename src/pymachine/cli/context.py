"""The state of one run of the command line: store, machines, options and where messages go."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from pymachine.cli.errors import RunError, called_as
from pymachine.cli.output import echo
from pymachine.store import paths
from pymachine.system import printable, streams
from pymachine.system.progress import Reporter
from pymachine.system.stream_reporter import StreamReporter

if TYPE_CHECKING:
    from pymachine.driver.contract import Json
    from pymachine.hosts.host import Hosts
    from pymachine.store.store import Store

T = TypeVar("T")
DEFAULT_MACHINE = "default"
DOCKER_MACHINE = "docker-machine"


class App:
    """One run of the command line."""

    def __init__(
        self,
        *,
        argv: list[str],
        storage_path: str = "",
        authority: Mapping[str, Path] | None = None,
        native_ssh: bool = False,
        debug: bool = False,
    ) -> None:
        """`argv` is the whole command line. `authority` has the files that the --tls-* options name."""
        self.argv = argv
        self.store_root = paths.storage_root(storage_path)
        self.authority = dict(authority or {})
        self.native_ssh = native_ssh
        self.debug = debug
        self.structured = False
        self._messages_to_stderr = False

    @property
    def program(self) -> str:
        """The name that pymachine was called by."""
        return self.argv[0]

    @property
    def as_docker_machine(self) -> bool:
        """Whether pymachine was called as docker-machine."""
        return is_docker_machine(self.program)

    @cached_property
    def store(self) -> Store:
        """The store of the machines. Creating it reads nothing."""
        from pymachine.store.store import Store  # noqa: PLC0415 (not needed by `help` and `version`)

        return Store(self.store_root)

    @cached_property
    def reporter(self) -> Reporter:
        """The reporter of messages: on stdout, unless `messages_to_stderr` was called.

        With --debug it redraws nothing, since several processes may log to the terminal.
        """
        stream = sys.stderr if self._messages_to_stderr else streams.for_messages(sys.stdout)
        return StreamReporter(stream, terminal=False if self.debug else None, rewrite=self.named)

    @cached_property
    def hosts(self) -> Hosts:
        """The machines of the store, with the options of this run."""
        return self.hosts_with(self.reporter)

    def hosts_with(self, reporter: Reporter, *, labelled: bool = False) -> Hosts:
        """Return the machines of the store with another reporter; `labelled`: its lines name the machine already."""
        from pymachine.hosts.host import Hosts  # noqa: PLC0415

        return Hosts(
            self.store, reporter=reporter, authority=self.authority, labelled=labelled, native_ssh=self.native_ssh
        )

    def named(self, text: str) -> str:
        """Return `text` with its pymachine commands under the name that pymachine was called by."""
        return called_as(os.path.basename(self.program), text)  # noqa: PTH119 (a word, not a file)

    def messages_to_stderr(self) -> None:
        """Print messages on stderr, for commands whose stdout programs read. Call it first."""
        self._messages_to_stderr = True

    def print_json(self) -> None:
        """Print results as JSON, and messages on stderr."""
        self.structured = True
        self.messages_to_stderr()

    def say(self, text: str) -> None:
        """Print a result."""
        echo(text)

    def show(self, text: str, value: Json) -> None:
        """Print a result: `text`, or `value` with ``--json``."""
        if self.structured:
            text = json_text(value, indent=2)
        if text:
            echo(text)

    def names(self, given: tuple[str, ...]) -> list[str]:
        """Return the machines to act on: those given, or else the one called ``default``."""
        if given:
            return list(dict.fromkeys(given))
        if not self.store.exists(DEFAULT_MACHINE):
            raise RunError(
                'Error: No machine name(s) specified and no "default" machine exists',
                hint=f"Name a machine, or create that one: {os.path.basename(self.program)} create {DEFAULT_MACHINE}",  # noqa: PTH119
            )
        return [DEFAULT_MACHINE]


def json_text(value: Json, *, indent: int | None = None) -> str:
    """Return `value` as JSON that stdout can encode, without control characters."""
    import json  # noqa: PLC0415

    text = printable.for_json(json.dumps(value, indent=indent, ensure_ascii=False))
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return printable.for_json(json.dumps(value, indent=indent))
    return text


def is_docker_machine(program: str) -> bool:
    """Return whether `program` is docker-machine's name. Scripts parse some texts only under that name."""
    return os.path.basename(program).removesuffix(".exe") == DOCKER_MACHINE  # noqa: PTH119 (a word, not a file)


def current(ctx: click.Context | None = None) -> App:
    """Return the `App` that a command belongs to."""
    app: Any = (ctx or click.get_current_context()).find_root().obj
    if not isinstance(app, App):
        raise TypeError("the group has not run")
    return app


pass_app = click.make_pass_decorator(App)


def _print_json(ctx: click.Context, param: click.Parameter, value: bool) -> None:  # noqa: ARG001, FBT001 (click's way)
    if value:
        current(ctx).print_json()


# `--json` for commands that click parses. `goflags.GoCommand` has its own.
json_option = click.option(
    "--json", is_flag=True, expose_value=False, is_eager=True, callback=_print_json, help="Print JSON"
)
