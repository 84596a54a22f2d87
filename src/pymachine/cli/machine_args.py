"""What commands on one or several machines share: their names, completion, and acting on all at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

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

AT_ONCE = 16
# What names have that shells give no meaning.
_PUNCTUATION = str.maketrans("", "", "-_.")


def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:  # noqa: ARG001
    """Machine names that begin with `incomplete`, for a shell's completion."""
    # The group has been parsed, but has not run: there is no `App` yet.
    store = Store(paths.storage_root(ctx.find_root().params.get("storage_path")))
    try:
        return [name for name in store.names() if name.startswith(incomplete) and _is_word(name)]
    except PymachineError:  # a store that cannot be listed: an error would only disturb the line being typed
        return []


def _is_word(name: str) -> bool:
    """Whether shells take `name` for itself: bash puts a completion on the command line as it is, without quotes."""
    return not name.startswith("-") and name.translate(_PUNCTUATION).isalnum()


def complete_place(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Files here, or ``machine:``, for commands that copy or mount."""
    names = [CompletionItem(f"{name}:") for name in complete(ctx, param, incomplete)]
    return [*names, *complete_file(ctx, param, incomplete)]


def complete_file(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:  # noqa: ARG001
    """Files: the shell knows them."""
    return [CompletionItem(incomplete, type="file")]


def arguments(metavar: str = "[arg...]") -> Callable[[Any], Any]:
    """Decorate a command's function with any number of machine names."""
    return goflags.arguments("names", metavar, complete=complete)


def one(
    ctx: click.Context, names: tuple[str, ...], *, text: str = "Error: Expected one machine name as an argument"
) -> str:
    """The one machine that a command is about. Raises `UsageError` with `text` for several, or as `Store.load`."""
    if len(names) > 1:
        raise goflags.bad_arguments(ctx, text)
    app = current(ctx)
    name = app.names(names)[0]
    app.store.load(name)
    return name


def load_for_files(app: App, name: str) -> None:
    """Load machine `name` for a command that copies or mounts. Its errors begin as docker-machine's do there."""
    try:
        app.store.load(name)
    except PymachineError as error:
        raise error.prefixed("Error loading host: Error loading host: ") from error


def exit_status(code: int) -> int:
    """Print the exit code of another program if it failed, as docker-machine does; and return it."""
    if code:
        echo(f"exit status {code}", err=True)
    return code


def each(app: App, names: tuple[str, ...], act: Callable[[str], None], *, last: str = "") -> None:
    """Load all machines, then `act` on all at once; errors are collected and raised as one.

    A machine that cannot be loaded stops everything before anything is done. `last` is the news at the end of it all.
    With ``--json`` the result is what the machines are then, those that failed among them.
    """
    chosen = app.names(names)
    for name in chosen:
        app.store.load(name)
    errors = gather(chosen, act)
    if app.structured:
        app.show("", [summary(app, name) for name in chosen])
    raise_all(errors)
    if last:
        app.reporter.info(last)


def summary(app: App, name: str) -> dict[str, Json]:
    """A machine as ``--json`` has it after something was done to it."""
    machine = app.store.load(name)
    driver = app.manager.driver(machine)
    try:
        state = driver.state()
        url = driver.endpoint().url if state is State.RUNNING else ""
    except PymachineError:
        state, url = State.ERROR, ""
    return {"Name": name, "DriverName": machine.driver_name, "State": state.word, "URL": url}


def gather(names: Sequence[str], act: Callable[[str], object]) -> list[PymachineError]:
    """Call `act` with each name, side by side, and return what went wrong, in the order of `names`."""
    return [error for _, error in outcomes(names, act) if error]


def outcomes(names: Sequence[str], act: Callable[[str], object]) -> Iterator[tuple[str, PymachineError | None]]:
    """Call `act` with each name, side by side; yield each name with its error or None, in the order of `names`."""

    def attempt(name: str) -> PymachineError | None:
        try:
            act(name)
        except Exception as error:  # noqa: BLE001 (one machine's error must not hide the results of others)
            return known(error)
        return None

    if len(names) == 1:  # in this thread, which is the one that an interrupt reaches
        yield names[0], attempt(names[0])
        return
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415 (10 ms that one machine does without)

    with ThreadPoolExecutor(max(1, min(AT_ONCE, len(names)))) as pool:
        yield from zip(names, pool.map(attempt, names), strict=True)


def raise_all(errors: Sequence[PymachineError]) -> None:
    """Raise `errors` as one, if there are any."""
    if errors:
        raise joined(errors)
