"""`doctor`: check whether this host can create machines."""

from __future__ import annotations

import os
import platform
import shlex
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import click

from pymachine.cli import certificate_warnings, errors, goflags
from pymachine.cli.context import App, pass_app
from pymachine.cli.create_options import DRIVER_VARIABLE
from pymachine.cli.errors import RunError
from pymachine.cli.tables import cell
from pymachine.driver import registry, shares
from pymachine.driver.abilities import PortForwardable
from pymachine.driver.contract import State
from pymachine.driver.shares import Share
from pymachine.errors import PymachineError
from pymachine.hosts.shares import shown
from pymachine.store import paths
from pymachine.system import atomic_dirs, printable

OK, NOTE, PROBLEM = "ok", "note", "problem"
_PRUNE = "pymachine prune"
LEAST_FREE = 2 * 1024**3


@dataclass(frozen=True)
class Finding:
    """The result of one check."""

    subject: str
    verdict: str
    """``ok``, ``note`` (an optional feature does not work) or ``problem`` (machines cannot be created)."""
    text: str
    fix: str = ""


@click.command("doctor", cls=goflags.GoCommand)
@goflags.flag("--driver", "-d", default=registry.default_name, env=DRIVER_VARIABLE, help="Driver that must be usable")
@goflags.arguments("words", "")
@pass_app
def command(app: App, words: tuple[str, ...], *, driver: str) -> None:
    """Check whether this host can create machines, and suggest fixes.

    Checks the store, the drivers and the programs they need. Changes nothing and does not use the network.
    The exit code is 1 if there is a problem.
    """
    if words:
        raise RunError("Error: Too many arguments given")
    findings = list(run_checks(app, driver))
    rows = [{"Subject": item.subject, "Verdict": item.verdict, "Text": item.text, "Fix": item.fix} for item in findings]
    app.show(app.named("\n".join(_lines(findings))), rows)
    problems = [item for item in findings if item.verdict == PROBLEM]
    if problems:
        raise RunError(f"{len(problems)} problem{'s' if len(problems) > 1 else ''} found")


def _lines(findings: list[Finding]) -> Iterator[str]:
    subjects = [cell(item.subject) for item in findings]
    width = max(map(len, subjects))
    for subject, item in zip(subjects, findings, strict=True):
        yield f"{item.verdict:8} {subject:{width}}  {printable.line(item.text)}".rstrip()
        for line in item.fix.splitlines():
            yield f"{'':8} {'':{width}}  Fix: {printable.line(line)}"


def run_checks(app: App, needed: str) -> Iterator[Finding]:
    """Yield the result of every check, in the order in which `create` needs what is checked."""
    yield Finding("python", OK, f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    yield _check_store(app.store_root)
    yield from _check_machines(app)
    yield from _check_drivers(needed)
    yield _check_program("ssh", OK, "", "pymachine's own SSH client is used, without OpenSSH's options")
    yield _check_program(
        "docker",
        NOTE,
        "apt-get install docker-cli, or see Docker's own packages",
        "machines cannot be used without it",
    )
    yield _check_program("rsync", NOTE, "apt-get install rsync", "`scp --delta` needs it")
    yield _check_program("sshfs", NOTE, "apt-get install sshfs", "`mount` needs it")


def _check_store(root: Path) -> Finding:
    there = next(folder for folder in (root, *root.parents) if os.path.exists(folder))  # noqa: PTH110 (never raises)
    if not os.path.isdir(there):  # noqa: PTH112
        return Finding("store", PROBLEM, f"{there} is not a folder", "Choose another with --storage-path.")
    if not os.access(there, os.W_OK | os.X_OK):
        return Finding(
            "store",
            PROBLEM,
            f"{there} cannot be written to",
            "Make it writable, or use --storage-path.",
        )
    free = shutil.disk_usage(there).free
    if free < LEAST_FREE:
        return Finding(
            "store",
            PROBLEM,
            f"{there} has {free // 1024**2} MB free; an image and a machine need {LEAST_FREE // 1024**2} MB",
            "Free some space, or choose another with --storage-path.",
        )
    return Finding("store", OK, f"{root}, {free // 1024**3} GB free")


def _check_machines(app: App) -> Iterator[Finding]:
    """Yield machines that cannot be read, certificates that expire soon, and files that are not machines."""
    try:
        names, strays = app.store.names(), app.store.strays()
    except PymachineError as error:
        yield Finding("machines", PROBLEM, error.brief, error.hint)
        return
    folder = paths.machines(app.store_root)
    if any(atomic_dirs.is_abandoned(left) for left in atomic_dirs.leftovers(folder)):
        yield Finding("machines", NOTE, f"killed commands left files in {folder}", f"Run: {_PRUNE}")
    for name in strays:
        yield Finding("machines", NOTE, f"{folder / name} is a file, not a machine", f"Move it out of {folder}.")
    for name in names:
        try:
            warning = certificate_warnings.warning(app, app.store.load(name), read_files=True)
        except (PymachineError, OSError) as error:
            known = errors.known(error)
            yield Finding(f"machine {name}", NOTE, known.brief, known.hint)
            continue
        yield from _check_unfinished_changes(app, name)
        if warning:
            text, _, fix = warning.partition(": ")
            yield Finding(f"machine {name}", NOTE, text, f"Run: {fix}")
        yield from _check_ports(app, name)
        yield from _check_shares(app, name)
        yield from _check_local_socket(app, name)


def _check_shares(app: App, name: str) -> Iterator[Finding]:
    """Yield the shared folders of a machine, and those that cannot be shared now."""
    from pymachine.hosts import ssh_shares  # noqa: PLC0415 (only needed here)

    late: Sequence[Share] = ()
    with suppress(PymachineError, OSError):  # a driver that cannot be used is another finding
        late = ssh_shares.only_until_restart(app.hosts.open(name))
    for share in app.store.load(name).shares:
        if why := shares.problem(share):
            unshare = f"pymachine modify --unshare {shlex.quote(str(share.path))} {name}"
            restart = "" if share in late else " and restart the machine"
            yield Finding(
                f"machine {name}",
                NOTE,
                f"{shown(share)} is not shared: {why}",
                f"Make it available{restart}, or run: {unshare}",
            )
        elif why := ssh_shares.problem(app.store.machine_dir(name), share, needs_keeper=share in late):
            yield Finding(
                f"machine {name}",
                NOTE,
                f"{shown(share)} is not mounted: {why}",
                f"Run: pymachine start {shlex.quote(name)}",
            )
        else:
            over_ssh = ", over SSH until the machine is started again" if share in late else ""
            yield Finding(f"machine {name}", OK, f"shares {shown(share)}{over_ssh}")


def _check_local_socket(app: App, name: str) -> Iterator[Finding]:
    """Yield a local socket that is not connected although the machine runs."""
    from pymachine.hosts import local_socket  # noqa: PLC0415 (only needed here)

    why = ""
    with suppress(PymachineError, OSError):  # a driver that cannot be used is another finding
        why = local_socket.problem(app.hosts.open(name))
    if why:
        fix = f"Run: pymachine socket {shlex.quote(name)}"
        yield Finding(f"machine {name}", NOTE, f"its local socket is not connected: {why}", fix)


def _check_unfinished_changes(app: App, name: str) -> Iterator[Finding]:
    """Yield changes of a machine that are in progress, or that were interrupted."""
    from pymachine.driver.kit import transactions  # noqa: PLC0415 (only needed here)

    for change in transactions.changes(app.store.machine_dir(name)):
        text = f"{change.name} is not complete; if no command is at work on the machine, it was interrupted"
        yield Finding(
            f"machine {name}", NOTE, text, f"The next command that changes it, or {_PRUNE}, finishes or undoes it."
        )


def _check_ports(app: App, name: str) -> Iterator[Finding]:
    """Yield the ports of a running machine that cannot be forwarded."""
    try:
        driver = app.hosts.open(name).driver
        ports = driver.forwarded_ports() if isinstance(driver, PortForwardable) else ()
        refused = [port for port in ports if port.problem]
        if not refused or driver.state() is not State.RUNNING:
            return
    except (PymachineError, OSError) as error:
        known = errors.known(error)
        yield Finding(f"machine {name}", NOTE, known.brief, known.hint)
        return
    for port in refused:
        text = f"port {port.port}/{port.protocol} is not forwarded to {port.address}: {port.problem}"
        yield Finding(f"machine {name}", NOTE, text, "Free the port. It is then forwarded within seconds.")


def _check_drivers(needed: str) -> Iterator[Finding]:
    for name in sorted({*registry.names(), *registry.found_names(), needed}):
        subject = f"driver {name}"
        try:
            health = registry.load(name).health()
        except PymachineError as error:
            yield Finding(subject, PROBLEM if name == needed else NOTE, error.brief, error.hint)
            continue
        if health.usable:
            yield Finding(subject, OK, health.version or "usable")
            for note in health.notes:
                yield Finding(subject, NOTE, note.text, note.fix)
        else:
            yield Finding(subject, PROBLEM if name == needed else NOTE, health.problem, health.fix)


def _check_program(name: str, verdict: str, fix: str, without: str) -> Finding:
    path = shutil.which(name)
    return Finding(name, OK, path) if path else Finding(name, verdict, f"not found: {without}", fix)
