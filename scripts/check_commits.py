"""Check the messages of the commits that are not on the main branch yet.

On the main branch itself, check all commits since the one that added this script, since git cannot tell there which are
new. In a shallow clone, check as much of the history as there is.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = "scripts/check_commits.py"
MAIN_BRANCHES = ("refs/remotes/origin/main", "refs/heads/main")
LONGEST_SUBJECT = 72
AREA = re.compile(r"[\w./-]+(?:, [\w./-]+)*: ")
UNFINISHED = re.compile(r"(?:wip|fixup|squash|amend)\b", re.IGNORECASE)


def main(root: Path = ROOT) -> int:
    """Print the problems of each commit. Return 1 if there are any."""
    try:
        messages = messages_to_check(root)
    except GitError as error:
        print(f"No commits to check: {error}")  # noqa: T201 (a script)
        return 0
    problems = [f"{commit[:10]}: {problem}" for commit, text in messages for problem in problems_of(text)]
    print(*problems, sep="\n", file=sys.stderr, end="\n" if problems else "")  # noqa: T201
    print(f"{len(messages)} commit messages, {len(problems)} problems")  # noqa: T201
    return 1 if problems else 0


class GitError(Exception):
    """Git is not installed, or cannot read the repository."""


def messages_to_check(root: Path) -> list[tuple[str, str]]:
    """Return id and message of each commit to check, newest first."""
    if git(root, "rev-parse", "--show-prefix").strip():
        raise GitError(f"{root} is a folder in another git repository")
    since = commits_before_the_check(root)
    for base in MAIN_BRANCHES:
        if exists(root, base):
            unmerged = commits(root, "HEAD", f"^{base}", *since)
            return unmerged or commits(root, "HEAD", *since)
    return commits(root, "HEAD", *since)


def commits_before_the_check(root: Path) -> list[str]:
    """Return the revisions that exclude all commits before the one that added this script."""
    added = git(root, "log", "--diff-filter=A", "--format=%H", "HEAD", "--", SCRIPT).split()
    if not added:
        return []
    # The last is the oldest. In a shallow clone it is the first commit of the clone, which adds all files.
    parents = git(root, "log", "-1", "--format=%P", added[-1]).split()
    return [f"^{parent}" for parent in parents]


def commits(root: Path, *revisions: str) -> list[tuple[str, str]]:
    """Return id and message of the commits that `revisions` select. Git writes the messages of merges."""
    listed = git(root, "log", "--no-merges", "-z", "--format=%H%n%B", *revisions)
    return [(entry.partition("\n")[0], entry.partition("\n")[2]) for entry in listed.split("\0") if entry]


def problems_of(message: str) -> Iterator[str]:
    """Yield a sentence for each rule that `message` breaks."""
    lines = message.rstrip("\n").split("\n")
    subject = lines[0]
    summary = AREA.sub("", subject, count=1) if AREA.match(subject) else subject
    if len(subject) > LONGEST_SUBJECT:
        yield f"the subject has {len(subject)} characters, at most {LONGEST_SUBJECT} are allowed: {subject}"
    if UNFINISHED.match(subject) or UNFINISHED.match(summary):
        yield f"the commit is not finished: {subject}"
    elif not summary[:1].isupper():
        yield f'the subject does not start with an upper-case letter, after an optional "area: ": {subject}'
    if subject.endswith("."):
        yield f"the subject ends with a period: {subject}"
    if len(lines) > 1 and lines[1].strip():
        yield f"the line after the subject is not blank: {lines[1]}"


def exists(root: Path, reference: str) -> bool:
    """Return whether the repository has the branch `reference`."""
    return bool(git(root, "for-each-ref", "--format=%(refname)", reference).strip())


def git(root: Path, *arguments: str) -> str:
    """Return the output of ``git``. Raise `GitError` if it fails."""
    try:
        finished = subprocess.run(["git", "-C", root, *arguments], capture_output=True, check=True)
    except FileNotFoundError as error:
        raise GitError("git is not installed") from error
    except subprocess.CalledProcessError as error:
        raise GitError(error.stderr.decode(errors="replace").strip()) from error
    return finished.stdout.decode(errors="replace")


if __name__ == "__main__":
    sys.exit(main())
