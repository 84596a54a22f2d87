"""The Host entries of all machines in a file of the store, which the user's ``~/.ssh/config`` includes.

The file exists from `install` to `uninstall`. Meanwhile `refresh` and `drop` keep it up to date. It has a section for
each machine, which begins with a comment.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from pymachine.driver.contract import Trait
from pymachine.errors import HostNotRunningError, PymachineError, UnsupportedError
from pymachine.hosts.host import Host, Hosts
from pymachine.store import paths
from pymachine.store.locks import lock_file
from pymachine.store.store import Store, natural_key
from pymachine.system import files, os_errors, printable

if TYPE_CHECKING:
    from pymachine.ssh.target import Target

_HEAD = "# pymachine writes this file, and replaces what you change in it.\n"
_SECTION = re.compile(r'^# machine (".*")$', re.MULTILINE)
_LOCK_NAME = ".ssh_config"
_LOCK_SECONDS = 60.0
_LONGEST = 16 << 20


class SshConfigError(PymachineError):
    """The file with the machines' entries for OpenSSH cannot be read or written."""

    code = "ssh-config"


def find_target(host: Host) -> Target:
    """Return where to log in to the machine, also while it is stopped.

    Raises `UnsupportedError` if it has no SSH, and `HostNotRunningError` if it has an address only while it runs.
    """
    if host.has(Trait.NO_SSH):
        raise host.driver.unsupported("SSH")
    return host.target(host.driver.endpoint())


def is_installed(store: Store) -> bool:
    """Return whether the user's configuration may include the file of the store."""
    return os.path.lexists(_file(store))


def install(hosts: Hosts) -> bool:
    """Write the entries of all machines, and include them in the user's configuration.

    Return whether they were not included before. Machines without SSH, and those whose address is not known, are left
    out. Raises `SshConfigError` or `SshError`.
    """
    from pymachine.ssh import user_config  # noqa: PLC0415 (only this command needs it)

    is_new = not is_installed(hosts.store)
    try:
        with _changing(hosts.store) as sections:
            for name in hosts.store.names():
                _replace(hosts, sections, name)
        return user_config.add(_file(hosts.store))
    except BaseException:
        if is_new:
            _file(hosts.store).unlink(missing_ok=True)
        raise


def uninstall(hosts: Hosts) -> bool:
    """Undo `install`, and return whether there was anything to undo. Raises `SshConfigError` or `SshError`."""
    from pymachine.ssh import user_config  # noqa: PLC0415 (only this command needs it)

    was_included = user_config.remove(_file(hosts.store))
    if not is_installed(hosts.store):
        return was_included
    with _locked(hosts.store):
        _file(hosts.store).unlink(missing_ok=True)
    return True


def refresh(host: Host) -> None:
    """Write the machine's entry again, if the file is installed. A failure is only a warning."""
    if not is_installed(host.store):
        return
    try:
        with _changing(host.store) as sections:
            _replace(host.hosts, sections, host.name)
    except PymachineError as error:
        host.reporter.warn(f'The SSH configuration of "{host.name}" could not be updated: {error.brief}')


def drop(hosts: Hosts, name: str) -> None:
    """Remove the entry of machine `name`, if the file is installed. A failure is only a warning."""
    if not is_installed(hosts.store):
        return
    try:
        with _changing(hosts.store) as sections:
            sections.pop(name, None)
    except PymachineError as error:
        hosts.reporter.warn(f'The SSH configuration of "{name}" could not be removed: {error.brief}')


def _file(store: Store) -> Path:
    return store.root / paths.SSH_CONFIG


def _replace(hosts: Hosts, sections: dict[str, str], name: str) -> None:
    """Replace the section of machine `name`, or remove it if the machine has no entry."""
    from pymachine.ssh import host_entries, user_config  # noqa: PLC0415 (only an installed file needs them)

    before = sections.pop(name, None)
    try:
        target = find_target(hosts.open(name))
        sections[name] = host_entries.entry(target)
        is_taken = target.host_alias in user_config.hosts(without=_file(hosts.store))
    except (HostNotRunningError, UnsupportedError):
        return
    except PymachineError as error:
        hosts.reporter.warn(f'"{printable.line(name)}" has no entry in the SSH configuration: {error.brief}')
        return
    if is_taken:
        sections[name] = f"# Left out, since {printable.line(str(user_config.path()))} has this host.\n"
        if sections[name] != before:
            hosts.reporter.warn(
                f"`ssh {target.host_alias}` leads to the host of that name in {user_config.path()}, and not to the "
                "machine, which is left out. `pymachine ssh` reaches the machine."
            )


@contextmanager
def _changing(store: Store) -> Iterator[dict[str, str]]:
    """Lock the file, yield its sections by the names of the machines, and write them after the block.

    Sections of machines that are gone are removed. Raises `SshConfigError`.
    """
    with _locked(store):
        sections = _sections(_file(store))
        yield sections
        kept = {name: sections[name] for name in sorted(sections, key=natural_key) if store.exists(name)}
        _write(_file(store), kept)


@contextmanager
def _locked(store: Store) -> Iterator[None]:
    try:
        with files.acquire_lock(lock_file(store.root, _LOCK_NAME), timeout=_LOCK_SECONDS):
            yield
    except OSError as error:  # a TimeoutError, too
        raise os_errors.wrapped(SshConfigError, f"cannot change {_file(store)}", error) from error


def _sections(file: Path) -> dict[str, str]:
    try:
        text = files.read_regular(file, longest=_LONGEST).decode(errors="surrogateescape")
    except FileNotFoundError:
        return {}
    _, *parts = _SECTION.split(text)
    found = {}
    for name, section in zip(parts[::2], parts[1::2], strict=True):
        with suppress(ValueError):  # not a line of ours
            found[json.loads(name)] = section.strip("\n") + "\n"
    return found


def _write(file: Path, sections: Mapping[str, str]) -> None:
    texts = [f"\n# machine {json.dumps(name)}\n{section}" for name, section in sections.items()]
    content = "".join([_HEAD, *texts]).encode(errors="surrogateescape")
    files.atomic_write(file, content, mode=0o600)
    # OpenSSH fails for all hosts if it cannot read the file.
    files.hand_over(file)
