"""Scripts that run as root in a machine: one login with many commands, since each login costs seconds in emulation."""

from __future__ import annotations

import shlex

from support.runner import Pymachine

SECONDS = 120
_FUNCTIONS = f"""\
set -e
inside() {{
    process=$(curl -s --unix-socket /run/docker.sock "http://engine/containers/$1/json" | jq .State.Pid)
    shift
    nsenter -t "$process" -m -n "$@"
}}
wait_for() {{
    end=$(($(date +%s) + {SECONDS}))
    until "$@" > /dev/null; do
        [ "$(date +%s)" -lt $end ] || {{ echo "no success: $*" >&2; exit 1; }}
        sleep 0.5
    done
}}
"""


def in_guest(program: Pymachine, name: str, *commands: str) -> str:
    """Run a script as root in the machine `name`, and return its output. The first command that fails ends it.

    `inside CONTAINER COMMAND` is like `docker exec`, and costs much less in emulation. `wait_for COMMAND` tries a
    command until it succeeds, and ends the script if it does not in time. Its output is not shown.
    """
    script = "\n".join([_FUNCTIONS, *commands])
    return program("ssh", name, f"sudo sh -c {shlex.quote(script)}").stdout
