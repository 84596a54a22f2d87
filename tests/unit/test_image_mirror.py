"""The choice of the Debian mirror."""

from __future__ import annotations

from pathlib import Path

import pytest

from pymachine.image.debian.mirror import MAIN, SECURITY, Mirrors, choose
from pymachine.image.errors import RecipeError

DEB822 = """\
# comment
Types: deb deb-src
URIs: http://mirror.example/debian/
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://mirror.example/debian-security
Suites: bookworm-security
Components: main
"""


def apt_folder(tmp_path: Path, **files: str) -> Path:
    (tmp_path / "sources.list.d").mkdir()
    for name, text in files.items():
        (tmp_path / name.replace("__", ".").replace("DIR", "sources.list.d/")).write_text(text)
    return tmp_path


def test_the_argument_wins_over_the_variable_and_the_variable_over_apt(tmp_path: Path) -> None:
    folder = apt_folder(tmp_path, DIRdebian__sources=DEB822)
    env = {"PYMACHINE_MIRROR": "http://variable.example/debian"}
    assert choose("https://argument.example/debian/", env=env, apt=folder) == Mirrors(
        "https://argument.example/debian", "https://argument.example/debian-security", "--mirror"
    )
    assert choose(env=env, apt=folder).main == "http://variable.example/debian"
    assert choose(env={}, apt=folder).main == "http://mirror.example/debian"


def test_deb822_sources_are_read(tmp_path: Path) -> None:
    assert choose(env={}, apt=apt_folder(tmp_path, DIRdebian__sources=DEB822)) == Mirrors(
        "http://mirror.example/debian", "http://mirror.example/debian-security", "this host's apt sources"
    )


def test_disabled_deb822_stanzas_are_ignored(tmp_path: Path) -> None:
    folder = apt_folder(tmp_path, DIRdebian__sources=DEB822.replace("Types: deb\n", "Enabled: no\nTypes: deb\n"))
    assert choose(env={}, apt=folder).security == "http://mirror.example/debian-security"
    (folder / "sources.list.d/debian.sources").write_text("Enabled: no\n" + DEB822.partition("\n\n")[0])
    assert choose(env={}, apt=folder).main == MAIN


def test_one_line_sources_are_read(tmp_path: Path) -> None:
    text = """
    # deb http://commented.example/debian bookworm main
    deb-src http://source.example/debian bookworm main
    deb [arch=amd64 signed-by=/usr/share/keyrings/x.gpg] http://mirror.example/debian bookworm main contrib # why
    deb http://security.example/debian-security bookworm-security main
    """
    assert choose(env={}, apt=apt_folder(tmp_path, sources__list=text)) == Mirrors(
        "http://mirror.example/debian", "http://security.example/debian-security", "this host's apt sources"
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "deb http://archive.example/ubuntu noble main\n",
        "deb https://packages.example/apt stable main\n",
        "deb cdrom:[Debian]/ bookworm main\n",
        "\0\xff garbage",
    ],
)
def test_other_apt_sources_are_ignored(tmp_path: Path, text: str) -> None:
    assert choose(env={}, apt=apt_folder(tmp_path, sources__list=text)) == Mirrors(
        MAIN, SECURITY, "Debian's own mirror"
    )


def test_without_apt_debians_own_mirror_is_used(tmp_path: Path) -> None:
    assert choose(env={}, apt=tmp_path / "none").main == MAIN


def test_two_urls_name_both_archives() -> None:
    assert choose("http://a.example/x http://b.example/y", env={}).security == "http://b.example/y"
    assert choose("http://a.example/x", env={}).security == SECURITY


@pytest.mark.parametrize("text", ["mirror.example", "ftp://mirror.example/debian", "http://a http://b http://c"])
def test_a_mirror_that_is_not_a_url_is_refused(text: str) -> None:
    with pytest.raises(RecipeError, match="--mirror"):
        choose(text, env={})


def test_a_file_url_is_refused_as_mirror(tmp_path: Path) -> None:
    """Downloads do not support file URLs; among this host's apt sources they are skipped."""
    with pytest.raises(RecipeError, match="--mirror: not the URL of a mirror: file:///srv/debian") as caught:
        choose("file:///srv/debian")
    assert "http://" in caught.value.hint
    folder = apt_folder(tmp_path, DIRa__list="deb file:///srv/debian bookworm main\n")
    assert choose(env={}, apt=folder) == Mirrors(MAIN, SECURITY, "Debian's own mirror")
