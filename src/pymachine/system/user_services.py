"""Services of the user that run a program when this host boots: systemd's user manager, and launchd on macOS.

A service is one file in the user's home. It is enabled as long as that file exists.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from pymachine.errors import CommandError, PymachineError
from pymachine.system import files, os_errors, run

_PREFIX = "pymachine-"
_SECONDS = 30.0
# A guest without hardware acceleration takes minutes to boot.
_START_SECONDS = 1800
# systemd gives a user's services 120 s when the host shuts down.
_STOP_SECONDS = 100
# The network and other services, such as libvirtd, may come up later. A user's services cannot wait for the system's.
_RETRY_SECONDS = 15
_RETRIES = 20
# logind has a file here for each user whose services run without a login.
_LINGERING = Path("/var/lib/systemd/linger")
_ORDINARY = re.compile(rb"[A-Za-z0-9._-]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class UserServiceError(PymachineError):
    """A service of the user cannot be installed or removed."""

    code = "user-service"


@dataclass(frozen=True, kw_only=True)
class UserService:
    """A program that is run when this host boots.

    `name` is any text that is not empty. `start` and `stop` are command lines with absolute paths, for the start and
    the shutdown of the host. launchd runs only `start`.
    """

    name: str
    description: str
    start: Sequence[str]
    stop: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)


def is_enabled(name: str) -> bool:
    """Return whether the service `name` is enabled. Always False on systems without such services."""
    return sys.platform != "win32" and os.path.lexists(file_of(name))


def file_of(name: str) -> Path:
    """Return the path of the file of the service `name`."""
    home = Path(os.path.expanduser("~"))  # noqa: PTH111 (never raises)
    if sys.platform == "darwin":
        return home / "Library" / "LaunchAgents" / f"{_label(name)}.plist"
    return Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config") / "systemd" / "user" / unit_name(name)


def unit_name(name: str) -> str:
    """Return systemd's name of the service `name`, which may have any characters."""
    return f"{_PREFIX}{_escaped(name)}.service"


def enable(service: UserService) -> str:
    """Run `service` at each boot from now on. It is not started now.

    Return why it will run only when the user logs in, or "". Raises `UserServiceError`; then a service that was enabled
    before stays as it was, and no other is installed.
    """
    if sys.platform == "win32":
        raise UserServiceError("this system has no user services that pymachine supports")
    if sys.platform == "darwin":
        _write(file_of(service.name), plist(service))
        return "launchd runs a user's services at login"
    _require_systemd()
    file = file_of(service.name)
    with _restored_on_error(file):
        _write(file, unit(service).encode(errors="surrogateescape"))
        _systemctl("daemon-reload")
        _systemctl("enable", file.name)
    return _enable_lingering()


def disable(name: str) -> bool:
    """Do not run the service `name` any more. Return False if it was not enabled. Its processes keep running.

    Raises `UserServiceError`.
    """
    if not is_enabled(name):
        return False
    file = file_of(name)
    if sys.platform != "darwin":
        # Without systemd the files are removed all the same, since they are all that enables the service.
        with suppress(UserServiceError):
            _systemctl("disable", file.name)
    try:
        for path in (file.parent / "default.target.wants" / file.name, file):
            path.unlink(missing_ok=True)
    except OSError as error:
        raise os_errors.wrapped(UserServiceError, f"cannot remove {file}", error) from error
    if sys.platform == "darwin":
        with suppress(CommandError):  # it fails unless launchd has loaded it, at a login
            run.run(["launchctl", "bootout", f"gui/{os.getuid()}/{_label(name)}"], timeout=_SECONDS, check=False)
    else:
        with suppress(UserServiceError):
            _systemctl("daemon-reload")
    return True


def unit(service: UserService) -> str:
    """Return the service as a unit of systemd's user manager. Raises `UserServiceError`."""
    lines = [
        "# pymachine writes this file.",
        "[Unit]",
        f"Description={_one_line(service.description).replace('%', '%%')}",
        f"StartLimitIntervalSec={(_RETRIES + 1) * (_RETRY_SECONDS + _START_SECONDS)}",
        f"StartLimitBurst={_RETRIES}",
        "",
        "[Service]",
        "Type=oneshot",
        # Without this, systemd would end the processes that the command leaves behind.
        "RemainAfterExit=yes",
        *(f"Environment={_quoted(f'{name}={value}')}" for name, value in sorted(service.environment.items())),
        f"ExecStart={_command(service.start)}",
        f"ExecStop=-{_command(service.stop)}",
        f"TimeoutStartSec={_START_SECONDS}",
        f"TimeoutStopSec={_STOP_SECONDS}",
        "Restart=on-failure",
        f"RestartSec={_RETRY_SECONDS}",
        "",
        "[Install]",
        "WantedBy=default.target",
    ]
    return "\n".join(lines) + "\n"


def plist(service: UserService) -> bytes:
    """Return the service as an agent of launchd. Raises `UserServiceError`."""
    import plistlib  # noqa: PLC0415 (only for macOS)

    for text in (*service.start, *service.environment.values()):
        _one_line(text)
    agent = {
        "Label": _label(service.name),
        "ProgramArguments": list(service.start),
        "EnvironmentVariables": dict(service.environment),
        "RunAtLoad": True,
        # Otherwise launchd ends the processes that the command leaves behind.
        "AbandonProcessGroup": True,
        "KeepAlive": {"SuccessfulExit": False},
        "ThrottleInterval": _RETRY_SECONDS,
    }
    try:
        return plistlib.dumps(agent)
    except (ValueError, UnicodeError) as error:
        raise UserServiceError(f"launchd cannot run this command: {error}") from error


def _label(name: str) -> str:
    return f"{_PREFIX}{_escaped(name)}"


def _escaped(name: str) -> str:
    """Escape `name` as systemd-escape(1) does, except that dashes stay."""
    parts = (bytes([byte]) for byte in name.encode(errors="surrogateescape"))
    return "".join(part.decode() if _ORDINARY.fullmatch(part) else f"\\x{part[0]:02x}" for part in parts)


def _one_line(text: str) -> str:
    if _CONTROL.search(text):
        raise UserServiceError(f"a service cannot have control characters in its settings: {text!r}")
    return text


def _quoted(text: str) -> str:
    """Quote a word for a unit file (systemd.syntax(7)), where ``%`` begins a specifier."""
    escaped = _one_line(text).replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"'


def _command(words: Sequence[str]) -> str:
    """Quote a command line for a unit file, where ``$`` also begins a variable, except in the program's path."""
    program, *others = words
    return " ".join([_quoted(program), *(_quoted(word).replace("$", "$$") for word in others)])


@contextmanager
def _restored_on_error(file: Path) -> Iterator[None]:
    """If the block fails, restore the earlier content of `file`, or remove a file that did not exist."""
    try:
        with files.kept([file]) as restore:
            try:
                yield
            except BaseException:
                restore()
                raise
    except OSError as error:
        raise os_errors.wrapped(UserServiceError, f"cannot keep {file}", error) from error


def _write(file: Path, content: bytes) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        files.atomic_write(file, content, mode=0o600)
    except OSError as error:
        raise os_errors.wrapped(UserServiceError, f"cannot write {file}", error) from error


def _require_systemd() -> None:
    try:
        _systemctl("show", "--property=Version")
    except UserServiceError as error:
        raise UserServiceError(
            "there is no systemd user session here, which would run the service at boot",
            details=error.details or error.brief,
            hint="Log in as the user that owns the machines, at the console or with ssh: a shell of su or sudo has no "
            "session. On systems without systemd, call `pymachine start NAME` where your system starts programs.",
        ) from error


def _systemctl(*words: str) -> None:
    """Call the user manager. Raises `UserServiceError`."""
    environment = dict(os.environ)
    if not environment.get("XDG_RUNTIME_DIR") and sys.platform != "win32":
        environment["XDG_RUNTIME_DIR"] = f"/run/user/{os.getuid()}"  # cron and su do not set it
    try:
        run.run(["systemctl", "--user", "--no-ask-password", *words], env=environment, timeout=_SECONDS)
    except CommandError as error:
        raise UserServiceError(f"systemd refuses: {error.brief}", details=error.details, hint=error.hint) from error


def _enable_lingering() -> str:
    """Have systemd start the user's services at boot, and not only at login. Return why that is impossible, or ""."""
    # An administrator may have done it, and may be the only one who can.
    if sys.platform != "win32" and os.path.lexists(_LINGERING / _user()):
        return ""
    try:
        run.run(["loginctl", "--no-ask-password", "enable-linger"], timeout=_SECONDS)
    except CommandError as error:
        return error.details or error.brief
    return ""


def _user() -> str:
    """Return the name of the user, or the number if it has none."""
    if sys.platform == "win32":
        return ""
    import pwd  # noqa: PLC0415 (not on Windows)

    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())
