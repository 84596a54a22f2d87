"""The manual pages and completion files of the wheel agree with the command line."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import click
import pytest

from pymachine import __version__
from pymachine.cli import app, create_options
from pymachine.cli.commands import COMMANDS
from pymachine.driver import registry

ROOT = Path(__file__).resolve().parents[2]
# Variables that the output must not depend on.
OTHER_HOST = {
    "HOME": "/home/other",
    "COLUMNS": "40",
    "TZ": "Pacific/Auckland",
    "LC_ALL": "C",
    "MACHINE_DRIVER": "none",
    "MACHINE_STORAGE_PATH": "/elsewhere",
    "QEMU_MEMORY_SIZE": "4096",
    "SOURCE_DATE_EPOCH": "1",
}


def generate(folder: Path, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the generated files: path below ``share`` and text."""
    subprocess.run([sys.executable, ROOT / "scripts" / "shared_data.py", folder], env=environ, check=True)
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def share(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return generate(tmp_path_factory.mktemp("share"))


def commands(command: click.Command, words: tuple[str, ...] = ("pymachine",)) -> Iterator[tuple[str, click.Command]]:
    """Yield the name of the page of each listed command, and the command."""
    yield "-".join(words), command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found is not None
            if not found.hidden:
                yield from commands(found, (*words, name))


@cache
def shown(page: str, device: str = "ascii") -> str:
    """Return a manual page as a reader sees it. Fail if roff warns."""
    ended = subprocess.run(
        ["groff", "-man", f"-T{device}", "-ww", "-P-cbou"], input=page, capture_output=True, text=True, check=True
    )
    assert ended.stderr == ""
    return ended.stdout


def words(text: str) -> str:
    return " ".join(text.split())


def options_of(command: click.Command) -> list[tuple[list[str], str]]:
    """Return the names and the help of each option, with those of all drivers."""
    found = [(param.opts, param.help or "") for param in command.params if isinstance(param, click.Option)]
    if isinstance(command, create_options.DriverOptionsCommand):
        for driver in registry.names():
            found += [([f"--{option.name}"], option.help) for option in registry.load(driver).options()]
    return found


PAGES = dict(commands(app.group))


def test_every_command_has_a_page(share: dict[str, str]) -> None:
    files = {f"man/man1/{name}.1" for name in PAGES}
    assert {path for path in share if path.startswith("man/")} == files
    assert len(files) > 50


@pytest.mark.parametrize("name", PAGES)
def test_a_page_has_all_that_the_help_has(share: dict[str, str], name: str) -> None:
    command = PAGES[name]
    page = shown(share[f"man/man1/{name}.1"])
    _, _, options = page.partition("\nOPTIONS\n")
    listed = {word for line in re.findall(r"^       (-.*)", options, re.MULTILINE) for word in re.split(r"[ ,]+", line)}
    for names, help_text in options_of(command):
        assert listed.issuperset(names)
        assert words(help_text) in words(options)
    paragraphs = (command.help or "").split("\n\n")
    assert all(words(paragraph) in words(page) for paragraph in paragraphs)
    assert f"{name} - " in page
    assert f"pymachine {__version__}" in page


@pytest.mark.parametrize("name", [name for name, command in PAGES.items() if isinstance(command, click.Group)])
def test_a_page_of_a_group_has_the_summaries_of_its_commands(share: dict[str, str], name: str) -> None:
    page = words(shown(share[f"man/man1/{name}.1"]))
    command = PAGES[name]
    assert isinstance(command, click.Group)
    context = click.Context(command)
    for sub in command.list_commands(context):
        each = command.get_command(context, sub)
        if each is None or each.hidden:
            continue
        found = re.search(rf" {name}-{sub} - (.*) SYNOPSIS ", words(shown(share[f"man/man1/{name}-{sub}.1"])))
        assert found
        assert f"{name}-{sub}(1) {found[1]}" in page
        text = COMMANDS[sub] if name == "pymachine" else PAGES[f"{name}-{sub}"].get_short_help_str(limit=200)
        assert found[1] == text.rstrip(".")


def test_options_of_drivers_are_in_sections_of_their_own(share: dict[str, str]) -> None:
    pages = [name for name, command in PAGES.items() if isinstance(command, create_options.DriverOptionsCommand)]
    assert {"pymachine-create", "pymachine-run", "pymachine-template-build"} <= set(pages)
    for name in pages:
        page = shown(share[f"man/man1/{name}.1"])
        own, *parts = re.split(r"^   Options of the driver (\S+)$", page, flags=re.MULTILINE)
        sections = dict(zip(parts[::2], parts[1::2], strict=True))
        assert list(sections) == registry.names()
        for driver, section in sections.items():
            for option in registry.load(driver).options():
                assert f"       --{option.name}" in section
                assert f"       --{option.name}" not in own


def test_options_can_be_copied_from_a_page(share: dict[str, str]) -> None:
    """In UTF-8, roff shows an unescaped minus as a hyphen, and straight quotes as typographic ones."""
    page = share["man/man1/pymachine-completion.1"]
    text = shown(page, device="utf8")
    assert 'eval "$(pymachine completion bash)"' in words(text)
    assert "~/.bashrc" in text
    assert text.isascii()


def test_words_of_roff_are_shown_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "scripts")
    monkeypatch.setattr(os, "environ", os.environ.copy())
    import shared_data

    for line in (".SH is no heading", "'br", r"'a' \fBbold\fR `x` ^ ~ \n", '"quoted" --flag', "-", "\\", "."):
        assert words(line) in words(shown(f".TH A 1\n.SH NAME\n{shared_data.text(line)}\n"))


def test_the_files_do_not_depend_on_the_host(share: dict[str, str], tmp_path: Path) -> None:
    assert generate(tmp_path, {**os.environ, **OTHER_HOST}) == share


def test_the_completion_files_are_what_completion_prints(share: dict[str, str]) -> None:
    for shell, path in {
        "bash": "bash-completion/completions/pymachine",
        "zsh": "zsh/site-functions/_pymachine",
        "fish": "fish/vendor_completions.d/pymachine.fish",
    }.items():
        program = Path(sys.executable).parent / "pymachine"
        printed = subprocess.run([program, "completion", shell], stdout=subprocess.PIPE, text=True, check=True).stdout
        assert share[path] == printed
