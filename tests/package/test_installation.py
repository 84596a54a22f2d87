"""The wheel as users get it: built, checked, and installed by pip, pipx and uv in the home of an ordinary user.

The programs that build it download what they need. Installations use only the files that the tests have prepared.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from email import message_from_bytes
from email.message import Message
from pathlib import Path

import pexpect
import pytest

from support import unprivileged

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = Path(sys.executable).parent
SOURCE = ROOT / "src" / "pymachine"
DRIVERS = ["generic", "libvirt", "none", "qemu", "virtualbox"]
COMPLETION_FILES = {
    "bash": "bash-completion/completions/pymachine",
    "zsh": "zsh/site-functions/_pymachine",
    "fish": "fish/vendor_completions.d/pymachine.fish",
}
USER = unprivileged.USERS[-1]


def build(folder: Path, *options: str, **variables: str) -> Path:
    """Build in `folder` and return it."""
    command = [sys.executable, "-m", "build", "--outdir", str(folder), *options, str(ROOT)]
    subprocess.run(command, env={**os.environ, **variables}, check=True)
    return folder


@pytest.fixture(scope="session")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the source distribution and the wheel that is built from it."""
    return build(tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="session")
def wheel(dist: Path) -> Path:
    (found,) = dist.glob("*.whl")
    return found


@pytest.fixture(scope="session")
def dependencies(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheels of all that pymachine depends on."""
    folder = tmp_path_factory.mktemp("dependencies")
    subprocess.run([sys.executable, "-m", "pip", "wheel", "--quiet", "--wheel-dir", folder, wheel], check=True)
    return folder


@dataclass
class Account:
    """An ordinary user with an empty home, whose installers use only the prepared wheels."""

    home: Path
    dependencies: Path

    def environment(self) -> dict[str, str]:
        return {
            "HOME": str(self.home),
            "PATH": f"{self.home}/.local/bin:/usr/local/bin:/usr/bin:/bin",
            "LC_ALL": "C.UTF-8",
            "TERM": "dumb",
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": str(self.dependencies),
            "UV_NO_CONFIG": "1",
            "UV_OFFLINE": "1",
            "UV_NO_INDEX": "1",
            "UV_FIND_LINKS": str(self.dependencies),
        }

    def run(self, *command: str | Path, status: int = 0, **variables: str) -> str:
        """Run a command and return its output. Fail unless its exit code is `status`."""
        ended = subprocess.run(
            [*unprivileged.as_user(USER, may_write=False), *command],
            env={**self.environment(), **variables},
            cwd=self.home,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert ended.returncode == status, ended.stdout
        return ended.stdout


@dataclass
class Installation:
    """Where an installer has put the program, and the folder of the files that all programs share."""

    account: Account
    program: Path
    share: Path
    python: Path

    @property
    def path(self) -> str:
        """PATH with this program before others."""
        return f"{self.program.parent}:/usr/bin:/bin"

    def run(self, *words: str, status: int = 0) -> str:
        return self.account.run(self.program, *words, status=status)


def with_pip(account: Account, wheel: Path) -> Installation:
    venv = account.home / "venv"
    account.run(sys.executable, "-m", "venv", venv)
    account.run(venv / "bin" / "pip", "install", wheel)
    return Installation(account, venv / "bin" / "pymachine", venv / "share", venv / "bin" / "python")


def with_pipx(account: Account, wheel: Path) -> Installation:
    account.run(PROGRAMS / "pipx", "install", "--python", sys.executable, wheel)
    local = account.home / ".local"
    python = local / "share" / "pipx" / "venvs" / "pymachine" / "bin" / "python"
    return Installation(account, local / "bin" / "pymachine", local / "share", python)


def with_uv(account: Account, wheel: Path) -> Installation:
    account.run(PROGRAMS / "uv", "tool", "install", "--python", sys.executable, wheel)
    venv = account.home / ".local" / "share" / "uv" / "tools" / "pymachine"
    return Installation(account, account.home / ".local" / "bin" / "pymachine", venv / "share", venv / "bin" / "python")


INSTALLERS = {"pip": with_pip, "pipx": with_pipx, "uv": with_uv}


@pytest.fixture(scope="module", params=INSTALLERS)
def installed(
    request: pytest.FixtureRequest, wheel: Path, dependencies: Path, tmp_path_factory: pytest.TempPathFactory
) -> Installation:
    home = tmp_path_factory.mktemp("home")
    os.chown(home, USER, -1)
    return INSTALLERS[request.param](Account(home, dependencies), wheel)


def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return message_from_bytes(archive.read(name))


def test_twine_accepts_what_was_built(dist: Path) -> None:
    files = sorted(dist.iterdir())
    assert [file.name.partition("-")[0] for file in files] == ["pymachine", "pymachine"]
    subprocess.run([sys.executable, "-m", "twine", "check", "--strict", *files], check=True)


def test_the_wheel_is_the_same_wherever_it_is_built(wheel: Path, tmp_path: Path) -> None:
    """The first one was built from the source distribution, this one from the checkout."""
    built = build(tmp_path / "again", "--wheel", COLUMNS="40", TZ="Pacific/Auckland", MACHINE_DRIVER="none", LC_ALL="C")
    first, second = (hashlib.sha256(file.read_bytes()).hexdigest() for file in (wheel, built / wheel.name))
    assert first == second


def test_the_wheel_has_only_pymachine_and_its_drivers(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        folders = {name.partition("/")[0] for name in archive.namelist()}
    version = metadata(wheel)["Version"]
    # The last one finds drivers in programs.
    packages = {"pymachine", *(f"pymachine_driver_{name}" for name in DRIVERS), "pymachine_driver_plugin"}
    assert folders == packages | {f"pymachine-{version}.dist-info", f"pymachine-{version}.data"}


def test_the_source_distribution_has_what_builds_and_tests_it(dist: Path) -> None:
    (path,) = dist.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert names >= {"pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "scripts/shared_data.py"}
    assert names >= {"docs/how-to/install.md", "tests/package/test_installation.py"}
    assert not [name for name in names if name.endswith(".pyc")]


def test_the_description_is_complete_without_the_repository(wheel: Path) -> None:
    described = metadata(wheel)
    assert described["Description-Content-Type"] == "text/markdown"
    assert described.get_all("Provides-Extra") == ["libvirt", "qemu"]
    text = described.get_payload()
    assert isinstance(text, str)
    assert re.findall(r"\]\((?!https?://)", text) == []
    assert "pipx install ./pymachine-*.whl" in text
    assert "make " not in text
    # Each title in italics is that of a document.
    prose = re.sub(r"^```.*?^```", "", text.partition("## Documentation")[0], flags=re.MULTILINE | re.DOTALL)
    titles = {file.read_text().splitlines()[0].removeprefix("# ") for file in (ROOT / "docs").rglob("*.md")}
    named = {" ".join(title.split()) for title in re.findall(r"(?<![*])[*](?![* ])([^*`]+)[*](?![*])", prose)}
    assert named
    assert named <= titles


def test_the_program_runs(installed: Installation, wheel: Path) -> None:
    python = ".".join(map(str, sys.version_info[:3]))
    assert installed.run("version") == f"pymachine version {metadata(wheel)['Version']}, build python-{python}\n"


def test_a_machine_of_the_driver_none_is_created_and_removed(installed: Installation) -> None:
    assert "pymachine env existing" in installed.run(
        "create", "--driver", "none", "--url", "tcp://127.0.0.1:1", "existing"
    )
    store = installed.account.home / ".docker" / "machine" / "machines"
    assert (store / "existing" / "config.json").stat().st_uid == USER
    assert installed.run("url", "existing") == "tcp://127.0.0.1:1\n"
    installed.run("rm", "-y", "existing")
    assert list(store.iterdir()) == []


def test_all_drivers_are_found(installed: Installation) -> None:
    assert f"Drivers installed here: {', '.join(DRIVERS)}." in installed.run("create", "-d", "other", "x", status=1)
    for driver in DRIVERS:
        option = "--url" if driver == "none" else f"--{driver}-"
        assert option in installed.run("create", "--driver", driver, "--help")


def test_all_files_of_the_guest_are_installed(installed: Installation) -> None:
    where = installed.account.run(installed.python, "-c", "import pymachine; print(pymachine.__path__[0])").strip()
    folder = Path(where)
    assert installed.account.home in folder.parents
    files = [path for path in SOURCE.rglob("*") if path.is_file() and path.suffix not in {".py", ".pyc"}]
    assert SOURCE / "image" / "rootfs" / "initrd" / "init" in files
    for path in files:
        assert (folder / path.relative_to(SOURCE)).read_bytes() == path.read_bytes()


def test_manual_pages_are_installed(installed: Installation) -> None:
    """`man` finds them next to the program. uv links only the program, so its folder has to be named."""
    in_place = installed.share == installed.program.parent.parent / "share"
    folder = () if in_place else ("-M", installed.share / "man")
    text = installed.account.run("man", *folder, "pymachine-create", PATH=installed.path, MANPAGER="cat")
    assert "--qemu-memory" in text
    assert "Options of the driver libvirt" in text
    assert "pymachine-create(1)" in installed.account.run(
        "man", *folder, "pymachine", PATH=installed.path, MANPAGER="cat"
    )


def test_completion_files_are_installed(installed: Installation) -> None:
    for shell, path in COMPLETION_FILES.items():
        assert (installed.share / path).read_text() == installed.run("completion", shell)


def test_bash_and_fish_complete_with_the_installed_files(installed: Installation) -> None:
    bash = (
        f"source '{installed.share}/{COMPLETION_FILES['bash']}'; COMP_WORDS=(pymachine regen); COMP_CWORD=1; "
        "_pymachine_completion pymachine; echo ${COMPREPLY[@]}"
    )
    assert installed.account.run("bash", "-c", bash, PATH=installed.path).strip() == "regenerate-certs"
    completed = installed.account.run(
        "fish", "-c", "complete -C 'pymachine regen'", PATH=installed.path, XDG_DATA_DIRS=str(installed.share)
    )
    assert completed.split("\t")[0].strip() == "regenerate-certs"


def test_zsh_completes_with_the_installed_file(installed: Installation) -> None:
    zsh, *words = [*unprivileged.as_user(USER, may_write=False), "zsh", "-f", "-i"]
    child = pexpect.spawn(
        zsh,
        words,
        env={**installed.account.environment(), "PATH": installed.path, "PS1": "ready> "},
        cwd=str(installed.account.home),
        encoding="utf-8",
        timeout=60,
        dimensions=(24, 120),
    )
    try:
        child.expect_exact("ready> ")
        folder = installed.share / "zsh" / "site-functions"
        child.sendline(f"fpath=('{folder}' $fpath); autoload -U compinit && compinit -u -D; echo lo''aded")
        child.expect_exact("loaded")
        child.expect_exact("ready> ")
        child.send("pymachine regen\t")
        child.expect_exact("erate-certs")
    finally:
        child.close(force=True)


@pytest.mark.parametrize("installer", ["pipx", "uv"])
def test_an_uninstalled_program_leaves_only_the_store(
    installer: str, wheel: Path, dependencies: Path, tmp_path: Path
) -> None:
    os.chown(tmp_path, USER, -1)
    account = Account(tmp_path, dependencies)
    installation = INSTALLERS[installer](account, wheel)
    installation.run("create", "--driver", "none", "--url", "tcp://127.0.0.1:1", "existing")
    tool = ["tool"] if installer == "uv" else []
    account.run(PROGRAMS / installer, *tool, "uninstall", "pymachine")
    left = [*(tmp_path / ".local").rglob("pymachine*"), *(tmp_path / ".local").rglob("_pymachine")]
    assert left == []
    assert (tmp_path / ".docker" / "machine" / "machines" / "existing" / "config.json").is_file()
