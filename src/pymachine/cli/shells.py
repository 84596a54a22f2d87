"""What `env` prints, for each shell: pure strings, docker-machine's to the letter for ordinary values.

A value that has characters special to the shell (a store under ``/home/me/my $tuff``) is quoted so that the shell
gives it back unchanged; docker-machine printed it raw. Nothing is imported here that costs time: `env` has to be quick.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

DETECTION_HELP = (
    "The default lines below are for a sh/bash shell, you can specify the shell you're using, with the --shell flag."
)
# Shells that speak another's language under a name that docker-machine does not know.
ALIASES = {"csh": "tcsh", "pwsh": "powershell"}
KNOWN = frozenset(
    ("ash", "bash", "csh", "dash", "fish", "ksh", "lksh", "mksh", "oksh", "pwsh", "rbash", "sh", "tcsh", "yash", "zsh")
)
# Programs that run another one for their caller, and stay beside it. (`env`, `nice` and `nohup` become the other one.)
WRAPPERS = frozenset(("doas", "runuser", "strace", "su", "sudo", "time", "timeout"))
MOST_WRAPPERS = 4


class Shell:
    """How one shell is told things. The templates have the name at ``{}``, and then the quoted value."""

    __slots__ = ("assign", "clear", "comment", "evaluate", "quote")

    def __init__(self, assign: str, clear: str, comment: str, evaluate: str, quote: Callable[[str], str]) -> None:
        self.assign = assign
        self.clear = clear
        self.comment = comment
        self.evaluate = evaluate
        self.quote = quote


def _escaper(characters: str, escape: str) -> Callable[[str], str]:
    """A function that puts `escape` in front of each of `characters`."""
    table = str.maketrans({character: escape + character for character in characters})
    return lambda value: value.translate(table)


# Inside double quotes tcsh knows no escape for `"`, `$` and backquotes: they are written between quoted parts. A `~`
# that stands alone is expanded before `eval` sees the quotes, and so are ``{a,b}`` and two blanks, without a remedy.
_TCSH = str.maketrans({character: f'"\\{character}"' for character in '"$`!\\~'})


def _tcsh(value: str) -> str:
    return value.translate(_TCSH)


# PowerShell takes typographic double quotes for plain ones. It is handed what a program prints line by line, so that a
# line break would end the statement.
_POWERSHELL = str.maketrans(
    {character: "`" + character for character in '`"$\u201c\u201d\u201e'} | {"\n": "`n", "\r": "`r", "\0": "`0"}
)


def _powershell(value: str) -> str:
    return value.translate(_POWERSHELL)


# cmd has no quoting for the value of SET, and needs none: in `FOR ... DO @%i` each line is taken as it is. But what
# stands behind a line break would be a command, and Ctrl-Z ends the input.
_CMD = str.maketrans(dict.fromkeys("\n\r\x1a\0", " "))


def _cmd(value: str) -> str:
    return value.translate(_CMD)


DEFAULT = Shell('export {}="{}"', "unset {}", "#", "eval $({})", _escaper('\\"$`', "\\"))
SHELLS: Mapping[str, Shell] = {
    "fish": Shell('set -gx {} "{}";', "set -e {};", "#", "eval ({})", _escaper('\\"$', "\\")),
    "powershell": Shell(
        '$Env:{} = "{}"',
        "Remove-Item Env:\\\\{}",
        "#",
        "& {} | Invoke-Expression",
        _powershell,
    ),
    "cmd": Shell("SET {}={}", "SET {}=", "REM", "\t@FOR /f \"tokens=*\" %i IN ('{}') DO @%i", _cmd),
    "tcsh": Shell('setenv {} "{}";', "unsetenv {};", ":", "eval `{}`", _tcsh),
    "emacs": Shell(
        '(setenv "{}" "{}")',
        '(setenv "{}" nil)',
        ";;",
        '(with-temp-buffer (shell-command "{}" (current-buffer)) (eval-buffer))',
        _escaper('\\"', "\\"),
    ),
}


def find(name: str) -> Shell:
    """The shell called `name`; every name that is not known means one that takes sh's syntax."""
    return SHELLS.get(ALIASES.get(name, name), DEFAULT)


def detect(environ: Mapping[str, str], *, parent: str = "", windows: bool = False) -> str:
    """The name of the shell to write for; the empty string if it cannot be told.

    It is that of SHELL, which is the login shell. The shell that called us (`parent`) wins if it takes another
    language: it is the one that evaluates what is printed, in a script of bash's under fish for example.
    """
    path = environ.get("SHELL", "")
    if windows:
        if environ.get("__fish_bin_dir"):
            return "fish"
        return path.replace("\\", "/").rsplit("/", 1)[-1].removesuffix(".exe") or "cmd"
    login = path.rsplit("/", 1)[-1]
    if parent in KNOWN and (not login or find(parent) is not find(login)):
        return parent
    return login


def caller() -> str:
    """The name of the shell that called us, if it was one and the system tells (Linux).

    A wrapper such as `sudo` is passed over.
    """
    try:
        pid = os.getppid()
        for _ in range(MOST_WRAPPERS):
            name = _name(pid)
            if name not in WRAPPERS:
                return name if name in KNOWN else ""
            pid = _parent(pid)
    except (OSError, ValueError, IndexError):
        pass  # no /proc, or a process that has just ended
    return ""


def _name(pid: int) -> str:
    """What process `pid` runs. Its file tells, since a script has the script's name; for others, how it was called."""
    try:
        path = os.readlink(f"/proc/{pid}/exe")  # noqa: PTH115 (pathlib costs 8 ms)
        name = _word_of(path.removesuffix(" (deleted)"))
    except PermissionError:  # another user's process, as sudo's
        name = ""
    if name in KNOWN or name in WRAPPERS:
        return name
    # One file may be many programs, as busybox is, and is called as one of them.
    words = _read(pid, "cmdline").split("\0")
    called = _word_of(words[0])
    return _word_of(words[1]) if called == "busybox" and len(words) > 1 else called


def _word_of(path: str) -> str:
    """A program's name, without its folder, its version (``zsh-5.9``) and the dash of a login shell."""
    return path.rsplit("/", 1)[-1].lstrip("-").rstrip("-.0123456789")


def _parent(pid: int) -> int:
    # Behind the name, which is in parentheses and may have any characters: the state, then the parent.
    return int(_read(pid, "stat").rpartition(")")[2].split()[1])


def _read(pid: int, file: str) -> str:
    with open(f"/proc/{pid}/{file}", encoding="utf-8", errors="replace") as stream:  # noqa: PTH123 (pathlib costs 8 ms)
        return stream.read()


def assignments(shell: Shell, variables: Iterable[tuple[str, str]], argv: Sequence[str]) -> str:
    """The text that sets `variables`; `argv` is the command line that is to be evaluated."""
    lines = [shell.assign.format(name, shell.quote(value)) for name, value in variables]
    return "\n".join([*lines, _hint(shell, argv)])


def removals(shell: Shell, names: Iterable[str], argv: Sequence[str]) -> str:
    """The text that unsets the variables called `names`."""
    return "\n".join([*(shell.clear.format(name) for name in names), _hint(shell, argv)])


def _hint(shell: Shell, argv: Sequence[str]) -> str:
    program, *rest = argv
    if " " in program or "\\" in program:
        program = f'"{program}"'
    command = " ".join([program, *(_word(word) for word in rest)])
    if shell is SHELLS["emacs"]:
        command = shell.quote(command)
    comment = shell.comment
    return f"{comment} Run this command to configure your shell: \n{comment} {shell.evaluate.format(command)}\n"


def _word(word: str) -> str:
    """A word of the hint: a line break in it would end the comment, and run what follows."""
    return word.replace("\n", " ").replace("\r", " ")


def connection(url: str, directory: str, name: str, *, windows: bool = False) -> list[tuple[str, str]]:
    """The variables that lead a docker client to a machine, in docker-machine's order.

    `url` is the engine's, and `directory` the folder of the client's certificate and key.
    """
    variables = [
        ("DOCKER_TLS_VERIFY", "1"),
        ("DOCKER_HOST", url),
        ("DOCKER_CERT_PATH", directory),
        ("DOCKER_MACHINE_NAME", name),
    ]
    if windows:
        variables.append(("COMPOSE_CONVERT_WINDOWS_PATHS", "true"))
    return variables


CONNECTION_NAMES = ("DOCKER_TLS_VERIFY", "DOCKER_HOST", "DOCKER_CERT_PATH", "DOCKER_MACHINE_NAME")


def no_proxy_names(environ: Mapping[str, str]) -> list[str]:
    """The spellings of the variable that are set; the one in capitals if none is.

    Programs differ in which of the two they read first, so both have to grow where both are set.
    """
    return [name for name in ("no_proxy", "NO_PROXY") if environ.get(name)] or ["NO_PROXY"]


def no_proxy(environ: Mapping[str, str], address: str) -> list[tuple[str, str]]:
    """The no_proxy variables with `address` in them."""
    return [(name, _with_address(environ.get(name, ""), address)) for name in no_proxy_names(environ)]


def _with_address(value: str, address: str) -> str:
    """`value` with `address` added, unless an entry says as much: ``10.0.0.10`` is not in ``10.0.0.100``."""
    entries = value.replace(",", " ").split()
    if {address, f"[{address}]", "*"}.intersection(entries):
        return value
    return f"{value.rstrip(', ')},{address}" if entries else address
