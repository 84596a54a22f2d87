"""scripts/check_commits.py on real git repositories."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "check_commits.py"

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


class Repository:
    """A git repository with the script in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.git("init", "-q", "-b", "main")
        self.commit("an old subject that broke the rules before there were any.")
        (folder / "scripts").mkdir()
        shutil.copy(SCRIPT, folder / "scripts")
        self.git("add", ".")
        self.commit("Check commit messages")

    def git(self, *arguments: str) -> None:
        subprocess.run(["git", "-C", self.folder, *arguments], check=True, capture_output=True)

    def commit(self, message: str) -> None:
        self.git("commit", "-q", "--allow-empty", "--cleanup=verbatim", "-m", message)

    def branch(self, name: str = "work") -> None:
        self.git("switch", "-q", "-c", name)

    def clone(self, folder: Path, depth: int) -> Path:
        self.git("clone", "-q", "--depth", str(depth), self.folder.as_uri(), str(folder))
        return folder


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    """A repository whose settings do not depend on the user's."""
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    for role in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{role}_NAME", "A Person")
        monkeypatch.setenv(f"GIT_{role}_EMAIL", "person@example.org")
    return Repository(tmp_path / "repository")


def check(folder: Path) -> subprocess.CompletedProcess[str]:
    script = folder / "scripts" / "check_commits.py"
    return subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "message",
    [
        "Add a thing",
        "qemu: Name the boot slots",
        "cli, docs: Explain --json",
        "src/pymachine/cli: Say why\n\nBecause.\nAnd more.",
        "A" * 72,
        'Revert "Add a thing"',
    ],
)
def test_good_messages_pass(repository: Repository, message: str) -> None:
    repository.branch()
    repository.commit(message)
    ended = check(repository.folder)
    assert (ended.returncode, ended.stdout) == (0, "1 commit messages, 0 problems\n")


@pytest.mark.parametrize(
    ("message", "problem"),
    [
        ("A" * 73, "the subject has 73 characters, at most 72 are allowed"),
        ("add a thing", "does not start with an upper-case letter"),
        ("qemu: name the boot slots", "does not start with an upper-case letter"),
        ("Add a thing.", "ends with a period"),
        ("wip", "is not finished"),
        ("qemu: WIP on slots", "is not finished"),
        ("fixup! Add a thing", "is not finished"),
        ("Add a thing\nand another", "the line after the subject is not blank: and another"),
    ],
)
def test_bad_messages_are_named(repository: Repository, message: str, problem: str) -> None:
    repository.branch()
    repository.commit(message)
    repository.commit("Add another thing")
    ended = check(repository.folder)
    assert ended.returncode == 1
    assert problem in ended.stderr
    assert ended.stdout == "2 commit messages, 1 problems\n"


def test_on_a_branch_commits_of_main_are_not_checked(repository: Repository) -> None:
    repository.commit("bad, but on main")
    repository.branch()
    repository.commit("Add a thing")
    assert check(repository.folder).stdout == "1 commit messages, 0 problems\n"


def test_on_main_commits_are_checked_from_the_one_that_added_the_script(repository: Repository) -> None:
    repository.commit("bad, and on main")
    ended = check(repository.folder)
    assert ended.returncode == 1
    assert ended.stdout == "2 commit messages, 1 problems\n"


def test_without_a_branch_named_main_commits_are_checked_as_on_main(repository: Repository) -> None:
    repository.git("branch", "-m", "main", "other")
    repository.commit("Add a thing")
    assert check(repository.folder).stdout == "2 commit messages, 0 problems\n"


def test_local_main_is_checked_against_that_of_origin(repository: Repository) -> None:
    repository.git("update-ref", "refs/remotes/origin/main", "HEAD")
    repository.commit("Add a thing")
    assert check(repository.folder).stdout == "1 commit messages, 0 problems\n"


def test_merges_are_not_checked(repository: Repository) -> None:
    repository.branch()
    repository.commit("Add a thing")
    repository.git("switch", "-q", "main")
    repository.git("merge", "-q", "--no-ff", "-m", "merge of work", "work")
    assert check(repository.folder).stdout == "2 commit messages, 0 problems\n"


@pytest.mark.parametrize(("depth", "checked"), [(1, 1), (2, 2), (3, 3), (4, 3)])
def test_a_shallow_clone_is_checked_as_far_as_it_reaches(
    repository: Repository, tmp_path: Path, depth: int, checked: int
) -> None:
    for number in range(2):
        repository.commit(f"Add thing {number}")
    ended = check(repository.clone(tmp_path / "clone", depth))
    assert (ended.returncode, ended.stdout) == (0, f"{checked} commit messages, 0 problems\n")


def test_without_a_repository_there_is_nothing_to_check(repository: Repository) -> None:
    shutil.rmtree(repository.folder / ".git")
    ended = check(repository.folder)
    assert ended.returncode == 0
    assert ended.stdout.startswith("No commits to check: ")


def test_the_repository_around_a_copy_of_the_source_is_not_checked(repository: Repository, tmp_path: Path) -> None:
    copy = repository.folder / "vendor" / "pymachine"
    shutil.copytree(repository.folder / "scripts", copy / "scripts")
    assert "another git repository" in check(copy).stdout


def test_without_git_there_is_nothing_to_check(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert check(repository.folder).stdout == "No commits to check: git is not installed\n"
