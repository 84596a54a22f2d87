"""Machine names as arguments: the default machine, completion, and running an action on several machines in threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from pymachine.cli import goflags
from pymachine.cli.context import App, current
from pymachine.cli.errors import joined, known
from pymachine.cli.output import echo
from pymachine.driver.contract import Json, State
from pymachine.errors import PymachineError
from pymachine.store import paths
from pymachine.store.store import Store

if TYPE_CHECKING:
    from pymachine.hosts.templates import Template

MAX_THREADS = 16
# Characters in machine names that mean nothing to a shell.
_PUNCTUATION = str.maketrans("", "", "-_.")


def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:  # noqa: ARG001
    """Return the machine names that begin with `incomplete`, for a shell's completion."""
    # Completion parses the group but does not run it, so there is no `App`.
    store = Store(paths.storage_root(ctx.find_root().params.get("storage_path")))
    try:
        return [name for name in store.names() if name.startswith(incomplete) and _is_word(name)]
    except PymachineError:  # an error message would disturb the line being typed
        return []


def _is_word(name: str) -> bool:
    """Return whether `name` needs no quotes in a shell: bash inserts a completion without quoting it."""
    return not name.startswith("-") and name.translate(_PUNCTUATION).isalnum()


def complete_path(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete local files and ``machine:``, for commands that copy or mount."""
    names = [CompletionItem(f"{name}:") for name in complete(ctx, param, incomplete)]
    return [*names, *complete_file(ctx, param, incomplete)]


def complete_template(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:  # noqa: ARG001
    """Complete the names of templates."""
    return [template.name for template in _templates(ctx) if template.name.startswith(incomplete)]


def complete_named_template(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:  # noqa: ARG001
    """Complete the names that users have given to templates."""
    from pymachine.hosts.templates import NamedTemplate  # noqa: PLC0415 (only for completion)

    named = [template.name for template in _templates(ctx) if isinstance(template, NamedTemplate)]
    return [name for name in named if name.startswith(incomplete)]


def _templates(ctx: click.Context) -> list[Template]:
    from pymachine.hosts import templates  # noqa: PLC0415 (only for completion)

    return templates.find_all(paths.storage_root(ctx.find_root().params.get("storage_path")))


def complete_file(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:  # noqa: ARG001
    """Leave the completion of files to the shell."""
    return [CompletionItem(incomplete, type="file")]


def arguments(metavar: str = "[arg...]") -> Callable[[Any], Any]:
    """Decorate a command's function with any number of machine names."""
    return goflags.arguments("names", metavar, complete=complete)


def one(
    ctx: click.Context, names: tuple[str, ...], *, text: str = "Error: Expected one machine name as an argument"
) -> str:
    """Return the one machine that a command is about.

    Raises `UsageError` with `text` for more than one name, and the errors of `Store.load`.
    """
    if len(names) > 1:
        raise goflags.bad_arguments(ctx, text)
    app = current(ctx)
    name = app.names(names)[0]
    app.store.load(name)
    return name


def load_for_transfer(app: App, name: str) -> None:
    """Load machine `name` for a command that copies or mounts, with docker-machine's prefix before its errors."""
    try:
        app.store.load(name)
    except PymachineError as error:
        raise error.prefixed("Error loading host: Error loading host: ") from error


def exit_status(code: int) -> int:
    """Return the exit code of another program, and print it if the program failed, as docker-machine does."""
    if code:
        echo(f"exit status {code}", err=True)
    return code


def each(app: App, names: tuple[str, ...], act: Callable[[str], None], *, last: str = "") -> None:
    """Load all machines, then call `act` on each in parallel. Collect the errors and raise them as one.

    If a machine cannot be loaded, nothing is done. `last` is a message to print when all have succeeded.
    With ``--json``, print the machines' state afterwards, including those that failed.
    """
    chosen = app.names(names)
    for name in chosen:
        app.store.load(name)
    errors = collect_errors(chosen, act)
    if app.structured:
        app.show("", [summary(app, name) for name in chosen])
    raise_all(errors)
    if last:
        app.reporter.info(last)


def summary(app: App, name: str) -> dict[str, Json]:
    """Return the JSON object that commands print for a machine they have changed."""
    machine = app.store.load(name)
    driver = app.hosts.open(name).driver
    try:
        state = driver.state()
        url = driver.endpoint().url if state is State.RUNNING else ""
    except PymachineError:
        state, url = State.ERROR, ""
    return {"Name": name, "DriverName": machine.driver_name, "State": state.word, "URL": url}


def collect_errors(names: Sequence[str], act: Callable[[str], object]) -> list[PymachineError]:
    """Call `act` with each name in parallel. Return the errors in the order of `names`."""
    return [error for _, error in outcomes(names, act) if error]


def outcomes(names: Sequence[str], act: Callable[[str], object]) -> Iterator[tuple[str, PymachineError | None]]:
    """Call `act` with each name in parallel. Yield each name with its error or None, in the order of `names`."""

    def attempt(name: str) -> PymachineError | None:
        try:
            act(name)
        except Exception as error:  # noqa: BLE001 (one machine's error must not hide the results of others)
            return known(error)
        return None

    if len(names) == 1:  # in the main thread, since only it receives interrupts
        yield names[0], attempt(names[0])
        return
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415 (takes 10 ms, not needed for one machine)

    with ThreadPoolExecutor(max(1, min(MAX_THREADS, len(names)))) as pool:
        yield from zip(names, pool.map(attempt, names), strict=True)


def raise_all(errors: Sequence[PymachineError]) -> None:
    """Raise `errors` as one error, if there are any."""
    if errors:
        raise joined(errors)
