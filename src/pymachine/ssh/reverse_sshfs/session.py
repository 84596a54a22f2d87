"""The process for one mounted folder: it runs OpenSSH's client, and is the SFTP server on its connection.

``python -m pymachine.ssh.reverse_sshfs.session`` reads an order from the first line of its input, and prints reports:
see `order`. It ends with the connection, or when its input ends, so it never outlives the keeper.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from contextlib import suppress

from pymachine.driver.kit import sftp_server
from pymachine.errors import PymachineError
from pymachine.ssh import remote_script
from pymachine.ssh.reverse_sshfs.order import Event, Order, Report
from pymachine.system import open_files, os_errors

_MOUNTED = b"pymachine-mounted\n"
_CHUNK = 65536
_OPEN_FILES = 1 << 20


def main() -> int:
    """Run the program."""
    # The machine's programs need one for each file that they open.
    open_files.raise_limit(_OPEN_FILES)
    order = Order.from_line(sys.stdin.buffer.readline())
    try:
        with remote_script.command(order.target) as argv:
            _report(_mount(order, argv))
    except PymachineError as error:
        _report(Report(event=Event.LOST, problem=error.brief))
    except OSError as error:
        _report(Report(event=Event.LOST, problem=os_errors.reason(error)))
    return 0


def _mount(order: Order, argv: list[str]) -> Report:
    """Mount the folder, serve it until the connection ends, and return why it did. Raises OSError."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        number = theirs.fileno()
        process = subprocess.Popen(argv, stdin=number, stdout=number, stderr=subprocess.PIPE)
        theirs.close()
        assert process.stderr is not None  # noqa: S101 (for the type checker)
        messages = remote_script.Messages(
            process.stderr, mark=_MOUNTED, marked=lambda: _report(Report(event=Event.MOUNTED))
        )
        threading.Thread(target=_end_with_input, args=(ours, process), daemon=True).start()
        try:
            problem = _serve(order, ours)
        finally:
            ours.close()
            code = remote_script.end(process)
    text = messages.text()
    if not messages.is_marked:
        if lost := remote_script.login_problem(order.target, code, text):
            return Report(event=Event.LOST, problem=lost)
        text = remote_script.refusal(order.target, code, text)
    event = Event.LOST if messages.is_marked or problem else Event.REFUSED
    return Report(event=event, problem=problem or text or f"sshfs has ended with exit code {code}")


def _serve(order: Order, connection: socket.socket) -> str:
    """Send the script, and answer sshfs until the connection ends. Return a problem of the machine's, or ""."""
    problem = remote_script.begin(connection, order.script(), purpose="mount the folder")
    if problem is None:
        number = connection.fileno()
        sftp_server.serve(order.share.path, read_only=order.share.read_only, incoming=number, outgoing=number)
    return problem or ""


def _end_with_input(connection: socket.socket, process: subprocess.Popen[bytes]) -> None:
    """End the connection when the keeper closes our input. sshfs unmounts the folder and ends then, and so does ssh."""
    while sys.stdin.buffer.read(_CHUNK):
        pass
    with suppress(OSError):  # it has ended already
        connection.shutdown(socket.SHUT_WR)
    remote_script.end(process)


def _report(report: Report) -> None:
    with suppress(BrokenPipeError):  # the keeper has ended, and so do we
        os.write(1, report.line().encode())


if __name__ == "__main__":
    sys.exit(main())
