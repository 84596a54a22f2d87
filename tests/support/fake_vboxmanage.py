"""A fake VBoxManage that replays recorded answers in a given order, for what cannot run in tests.

Each transcript names the version of VirtualBox that it was recorded from. A call out of order fails.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pymachine_driver_virtualbox.vboxmanage import VBoxManage

TRANSCRIPTS = Path(__file__).parent / "transcripts"
PROGRAM = """\
#!{python} -S
import json, sys
state = {state!r}
left = json.load(open(state))
if not left or left[0]["argv"] != sys.argv[1:]:
    sys.exit("VBoxManage: error: not in the transcript: %r; next is %r" % (sys.argv[1:], left[:1]))
json.dump(left[1:], open(state, "w"))
sys.stdout.write(left[0]["stdout"])
sys.stderr.write(left[0]["stderr"])
sys.exit(left[0]["code"])
"""


def transcript(name: str) -> dict[str, Any]:
    """Return the calls of a transcript, by the names in it."""
    calls: dict[str, Any] = json.loads((TRANSCRIPTS / f"{name}.json").read_text())["calls"]
    return calls


@contextmanager
def playing(folder: Path, calls: Sequence[dict[str, Any]]) -> Iterator[VBoxManage]:
    """A VBoxManage that expects exactly `calls`, in this order."""
    state, program = folder / "left.json", folder / "VBoxManage"
    state.write_text(json.dumps(list(calls)))
    program.write_text(PROGRAM.format(python=sys.executable, state=str(state)))
    program.chmod(0o755)
    yield VBoxManage(program)
    left = json.loads(state.read_text())
    assert not left, f"not called: {[call['argv'] for call in left]}"
