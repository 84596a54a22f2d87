"""Run a project's provision scripts as root in its machine, each once."""

from __future__ import annotations

import hashlib
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pymachine.driver.kit.sftp.confined_folder import ConfinedFolder
from pymachine.driver.shares import Share
from pymachine.errors import PymachineError
from pymachine.hosts.host import Host, Hosts
from pymachine.hosts.locking import locked
from pymachine.provision.remote import BEGIN, NO_SUDO, ROOT_SHELL
from pymachine.ssh.connection import Connection
from pymachine.system import files, os_errors

# Of one script. It is sent over SSH each time that it is run.
LONGEST_BYTES = 1 << 20
_PATH = "PATH=$PATH:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class ProvisionScriptError(PymachineError):
    """A provision script of a project cannot be read, or failed in the machine. The next `up` runs it again."""

    code = "provision-script"


@dataclass(frozen=True)
class Script:
    """A provision script as it was read."""

    path: Path
    text: str

    @property
    def digest(self) -> str:
        """The SHA-256 of its content."""
        return hashlib.sha256(self.text.encode()).hexdigest()


def read(path: Path, *, within: Path | None = None) -> Script:
    """Read a script. Raises `ProvisionScriptError` unless it is a file of UTF-8 text of at most `LONGEST_BYTES`.

    It must be in the folder `within`, behind all symbolic links, if that is given: also if a machine that shares the
    folder changes the links meanwhile.
    """
    try:
        data = files.read_regular(path, longest=LONGEST_BYTES) if within is None else _read_within(path, within)
    except OSError as error:
        raise os_errors.wrapped(
            ProvisionScriptError, f"cannot read the provision script {path}", error, elsewhere="machine.provision"
        ) from error
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise ProvisionScriptError(f"the provision script {path} is not UTF-8 text") from error
    if "\0" in text:
        raise ProvisionScriptError(f"the provision script {path} is not text: it contains a zero byte")
    return Script(path, text)


def _read_within(path: Path, folder: Path) -> bytes:
    """Read a file in `folder`. Raises OSError."""
    place = os.path.relpath(os.path.realpath(path), os.path.realpath(folder))
    if sys.platform == "win32":
        return files.read_regular(path, longest=LONGEST_BYTES)
    # A path that leads out of the folder leads to a name in it here, which does not exist.
    with ConfinedFolder(folder) as confined:
        handle = confined.open_file(os.fsencode(place), os.O_RDONLY, 0)
        return files.read_open(handle, path, longest=LONGEST_BYTES)


def run(hosts: Hosts, name: str, scripts: Sequence[Script], *, show: Callable[[str], object], again: bool) -> None:
    """Run those of `scripts` in machine `name` that have not run in it, or all with `again`.

    `show` is called with each line of their output, which is the machine's and may contain anything. Raises
    `ProvisionScriptError` for the first script that fails, and `SshError`. Scripts that ended well are noted in the
    record.
    """
    with locked(hosts, name) as host:
        project = host.record.project
        done = set() if project is None or again else set(project.provisioned)
        waiting = [script for script in scripts if script.digest not in done]
        if not waiting:
            return
        from pymachine.ssh.client import connected  # noqa: PLC0415 (only needed for scripts that have not run)

        with connected(host.login(), native=hosts.native_ssh) as connection:
            for script in waiting:
                hosts.reporter.info(f'Running {script.path} in "{name}"...')
                _run(connection, host, script, show)
                _note(host, script, scripts)


def _note(host: Host, script: Script, scripts: Sequence[Script]) -> None:
    """Note that `script` has run, and forget those that are not among the project's `scripts` any more."""
    project = host.record.project
    if project is not None:
        known = {each.digest for each in scripts}
        kept = [digest for digest in project.provisioned if digest in known and digest != script.digest]
        project.provisioned = [*kept, script.digest]
        host.save()


def _run(connection: Connection, host: Host, script: Script, show: Callable[[str], object]) -> None:
    begun = False

    def line(text: str) -> None:
        nonlocal begun
        if begun:
            show(text)
        begun = begun or text == BEGIN  # what a login shell prints before is not the script's

    result = connection.run(ROOT_SHELL, stdin=_wrapped(script, host.record.shares), line=line)
    if result.returncode == NO_SUDO and not begun:
        raise ProvisionScriptError(
            f'the SSH user of "{host.name}" cannot become root without a password', details=result.stderr.strip()
        )
    if result.returncode != 0:
        raise ProvisionScriptError(
            f'{script.path} failed in "{host.name}" with exit code {result.returncode}',
            details=result.stderr.strip(),
            hint="The machine stays. Correct the script; the next `up` runs it again, and those after it.",
        )


def _wrapped(script: Script, shares: Sequence[Share]) -> str:
    """Return the shell script that runs `script` with its own ``#!``, in its folder if that is shared."""
    end = f"PYMACHINE_{script.digest}"  # a text cannot contain its own digest
    newline = "" if script.text.endswith("\n") else "\n"
    return (
        f"{_PATH}\n"
        "folder=$(mktemp -d) || exit 1\n"
        "trap 'rm -rf \"$folder\"' EXIT\n"
        f"cat > \"$folder/script\" << '{end}'\n{script.text}{newline}{end}\n"
        f"cd {shlex.quote(_guest_folder(script.path.parent, shares))} 2> /dev/null || cd /\n"
        f"echo {BEGIN}\n"
        f'{_interpreter(script)} "$folder/script" < /dev/null 2>&1\n'
    )


def _interpreter(script: Script) -> str:
    """Return the command in the script's ``#!``, where the kernel too allows one argument, or ``sh``.

    The script itself is not executed, since /tmp may be mounted with noexec.
    """
    first = script.text.split("\n", 1)[0]
    words = first[2:].split(maxsplit=1) if first.startswith("#!") else []
    return shlex.join(word.strip() for word in words) or "sh"


def _guest_folder(folder: Path, shares: Sequence[Share]) -> str:
    """Return where `folder` is in the guest, or / if it is not shared."""
    for share in sorted(shares, key=lambda share: len(share.path.parts), reverse=True):
        if folder.is_relative_to(share.path):
            return os.path.normpath(share.guest_path / folder.relative_to(share.path).as_posix())
    return "/"
