"""Check that every relative link in the Markdown files points to a file, and every anchor to a heading."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^#+ +(.+?)\s*$", re.MULTILINE)


def main() -> int:
    """Print the broken links. Return 1 if there are any."""
    documents = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
    problems = [problem for document in documents for problem in broken(document)]
    print(*problems, sep="\n", file=sys.stderr, end="\n" if problems else "")  # noqa: T201 (a script)
    print(f"{len(documents)} documents, {len(problems)} broken links")  # noqa: T201
    return 1 if problems else 0


def broken(document: Path) -> Iterator[str]:
    """Yield a line for each broken link of `document`."""
    for target in LINK.findall(prose(document)):
        if "://" in target or target.startswith("mailto:"):
            continue
        path, _, anchor = target.partition("#")
        file = document.parent / path if path else document
        if not file.exists():
            yield f"{document.relative_to(ROOT)}: no file {target}"
        elif anchor and anchor not in anchors(file):
            yield f"{document.relative_to(ROOT)}: no heading {target}"


def prose(document: Path) -> str:
    """Return the text without fenced blocks, whose brackets are not links."""
    return FENCED.sub("", document.read_text(encoding="utf-8"))


def anchors(document: Path) -> set[str]:
    """Return the anchors of the headings, as GitHub forms them."""
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in HEADING.findall(prose(document))}


if __name__ == "__main__":
    sys.exit(main())
