"""The output of `env` for each shell. For ordinary values it is byte for byte docker-machine's.

A value with characters special to the shell (a store under ``/home/me/my $tuff``) is quoted so that the shell reads it
unchanged; docker-machine printed it raw. This module imports nothing slow, since `env` has to be quick.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

DETECTION_HELP = (
    "The default lines below are for a sh/bash shell, you can specify the shell you're using, with the --shell flag."
)
# Names that docker-machine does not know, of shells with the syntax of one that it knows.
ALIASES = {"csh": "tcsh", "pwsh": "powershell"}
KNOWN = frozenset(
    ("ash", "bash", "csh", "dash", "fish", "ksh", "lksh", "mksh", "oksh", "pwsh", "rbash", "sh", "tcsh", "yash", "zsh")
)
# Programs that start another one and wait for it. (`env`, `nice` and `nohup` replace themselves with it.)
WRAPPERS = frozenset(("doas", "runuser", "strace", "su", "sudo", "time", "timeout"))
MOST_WRAPPERS = 4


class Shell:
    """The syntax of one shell. In the templates, the first ``{}`` is the name and the second the quoted value."""

    __slots__ = ("assign", "clear", "comment", "evaluate", "quote")

    def __init__(self, assign: str, clear: str, comment: str, evaluate: str, quote: Callable[[str], str]) -> None:
        self.assign = assign
        self.clear = clear
        self.comment = comment
        self.evaluate = evaluate
        self.quote = quote


def _escaper(characters: str, escape: str) -> Callable[[str], str]:
    """Return a function that puts `escape` before each of `characters`."""
    table = str.maketrans({character: escape + character for character in characters})
    return lambda value: value.translate(table)


# Inside double quotes tcsh has no escape for `"`, `$` and backquotes, so they are written between quoted parts. A `~`
# on its own is expanded before `eval` sees the quotes. So are ``{a,b}`` and two blanks, which cannot be prevented.
_TCSH = str.maketrans({character: f'"\\{character}"' for character in '"$`!\\~'})


def _tcsh(value: str) -> str:
    return value.translate(_TCSH)


# PowerShell treats typographic double quotes as plain ones. It reads a program's output line by line, so a line break
# would end the statement.
_POWERSHELL = str.maketrans(
    {character: "`" + character for character in '`"$\u201c\u201d\u201e'} | {"\n": "`n", "\r": "`r", "\0": "`0"}
)


def _powershell(value: str) -> str:
    return value.translate(_POWERSHELL)


# cmd has no quoting for the value of SET, and needs none: `FOR ... DO @%i` uses each line unchanged. But the text after
# a line break would be run as a command, and Ctrl-Z ends the input.
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
    """Return the shell called `name`. Unknown names get the syntax of sh."""
    return SHELLS.get(ALIASES.get(name, name), DEFAULT)


def detect(environ: Mapping[str, str], *, parent: str = "", windows: bool = False) -> str:
    """Return the name of the shell to write for, or an empty text if it is unknown.

    By default it is the login shell, which SHELL names. The calling shell (`parent`) is used if its syntax differs,
    since it evaluates the output, for example in a bash script under fish.
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
    """Return the name of the calling shell, or an empty text if it is unknown. Works on Linux only.

    Wrappers such as `sudo` are skipped.
    """
    try:
        pid = os.getppid()
        for _ in range(MOST_WRAPPERS):
            name = _name(pid)
            if name not in WRAPPERS:
                return name if name in KNOWN else ""
            pid = _parent(pid)
    except (OSError, ValueError, IndexError):
        pass  # no /proc, or the process has just ended
    return ""


def _name(pid: int) -> str:
    """Return the name of the program that process `pid` runs: of its file, or else its command line.

    The file comes first, since the command line of a script has the script's name.
    """
    try:
        path = os.readlink(f"/proc/{pid}/exe")  # noqa: PTH115 (pathlib costs 8 ms)
        name = _word_of(path.removesuffix(" (deleted)"))
    except PermissionError:  # another user's process, such as sudo
        name = ""
    if name in KNOWN or name in WRAPPERS:
        return name
    # One file may be many programs, such as busybox. The command line says which one.
    words = _read(pid, "cmdline").split("\0")
    called = _word_of(words[0])
    return _word_of(words[1]) if called == "busybox" and len(words) > 1 else called


def _word_of(path: str) -> str:
    """Return a program's name without folder, version (``zsh-5.9``) and the dash of a login shell."""
    return path.rsplit("/", 1)[-1].lstrip("-").rstrip("-.0123456789")


def _parent(pid: int) -> int:
    # After the name, which is in parentheses and may have any characters, come the state and the parent.
    return int(_read(pid, "stat").rpartition(")")[2].split()[1])


def _read(pid: int, file: str) -> str:
    with open(f"/proc/{pid}/{file}", encoding="utf-8", errors="replace") as stream:  # noqa: PTH123 (pathlib costs 8 ms)
        return stream.read()


def assignments(shell: Shell, variables: Iterable[tuple[str, str]], argv: Sequence[str]) -> str:
    """Return the text that sets `variables`. `argv` is the command line to show in the hint."""
    lines = [shell.assign.format(name, shell.quote(value)) for name, value in variables]
    return "\n".join([*lines, _hint(shell, argv)])


def removals(shell: Shell, names: Iterable[str], argv: Sequence[str]) -> str:
    """Return the text that unsets the variables called `names`."""
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
    """Remove line breaks from a word of the hint: they would end the comment, and the rest would be run."""
    return word.replace("\n", " ").replace("\r", " ")


def no_proxy_names(environ: Mapping[str, str]) -> list[str]:
    """Return the spellings of the variable that are set, or the one in capitals if none is.

    Programs differ in which of the two they read first, so if both are set, both must be extended.
    """
    return [name for name in ("no_proxy", "NO_PROXY") if environ.get(name)] or ["NO_PROXY"]


def no_proxy(environ: Mapping[str, str], address: str) -> list[tuple[str, str]]:
    """Return the no_proxy variables with `address` added."""
    return [(name, _with_address(environ.get(name, ""), address)) for name in no_proxy_names(environ)]


def _with_address(value: str, address: str) -> str:
    """Return `value` with `address` added unless an entry covers it. (``10.0.0.100`` does not cover ``10.0.0.10``.)"""
    entries = value.replace(",", " ").split()
    if {address, f"[{address}]", "*"}.intersection(entries):
        return value
    return f"{value.rstrip(', ')},{address}" if entries else address
