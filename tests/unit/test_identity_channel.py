"""The host's end of the identity channel, with a thread as the guest."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import re
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from pymachine.driver.kit.identity_channel import (
    GuestError,
    GuestReportedError,
    GuestTimeoutError,
    Progress,
    activation_script,
)
from pymachine.hosts import identity as core_identity
from pymachine.system.progress import Silent
from pymachine.system.wait import Deadline
from pymachine_driver_qemu import identity, runtime

TAR = b"\x00\xff a tar\n" * 60000
# A file of text without the one character that no argument can have.
NO_NUL = st.characters(exclude_characters="\0", exclude_categories=["Cs"])
STAGES = b"STAGE init 2.10\nSTAGE disk 2.60\nSTAGE engine 11.00\nSTAGE identity 7.25\nSTAGE ready 11.50\n"
OK = f"OK {hashlib.sha256(TAR).hexdigest()}\n".encode()


@contextlib.contextmanager
def guest(path: Path, behave: Callable[[socket.socket], None]) -> Iterator[None]:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()

        def run() -> None:
            connection, _ = server.accept()
            with connection, contextlib.suppress(ConnectionError):  # a client that gave up
                behave(connection)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        yield
        thread.join(10)


def deliver(path: Path, *, seconds: float = 10.0) -> dict[str, float]:
    timings: dict[str, float] = {}
    channel = identity.Channel(path)
    try:
        with Silent().task("x") as task:
            channel.deliver(TAR, deadline=Deadline(seconds), task=task, timings=timings)
    finally:
        channel.close()
    return timings


def test_the_guest_gets_the_whole_tar_and_its_stages_are_recorded(tmp_path: Path) -> None:
    received: list[tuple[list[bytes], bytes]] = []

    def behave(connection: socket.socket) -> None:
        with connection.makefile("rb") as stream:
            header = stream.readline().split()
            received.append((header, stream.read(int(header[2]))))
        connection.sendall(STAGES + OK)
        connection.recv(1)

    with guest(tmp_path / "s", behave):
        timings = deliver(tmp_path / "s")
    [((word, version, _, digest, now), tar)] = received
    assert (word, version, digest.decode()) == (b"IDENTITY", b"1", hashlib.sha256(TAR).hexdigest())
    assert int(now) > 1_700_000_000
    assert tar == TAR
    assert timings == {"init": 2.1, "disk": 0.5, "identity": 4.65, "engine": 3.75, "ready": 0.5}


def test_a_guest_that_restarts_gets_the_identity_again(tmp_path: Path) -> None:
    received: list[bytes] = []

    def behave(connection: socket.socket) -> None:
        with connection.makefile("rb") as stream:
            for answer in (b"STAGE init 3.26\nSTAGE engine 5.59\nSTAGE init 2.10\n", STAGES[16:] + OK):
                header = stream.readline().split()
                received.append(stream.read(int(header[2])))
                connection.sendall(answer)
        connection.recv(1)

    with guest(tmp_path / "s", behave):
        timings = deliver(tmp_path / "s")
    assert received == [TAR, TAR]
    assert timings == {"init": 2.1, "disk": 0.5, "identity": 4.65, "engine": 3.75, "ready": 0.5}


def test_errors_of_a_guest_that_does_not_read_yet_are_reported(tmp_path: Path) -> None:
    def behave(connection: socket.socket) -> None:
        connection.sendall(b"ERROR no disk\n")
        read_to_the_end(connection)

    with (
        guest(tmp_path / "s", behave),
        pytest.raises(GuestReportedError, match="the guest reports: no disk"),
    ):
        deliver(tmp_path / "s")


def test_the_end_of_qemu_is_noticed_and_the_last_stage_named(tmp_path: Path) -> None:
    with (
        guest(tmp_path / "s", lambda connection: connection.sendall(b"STAGE init 2.0\n")),
        pytest.raises(GuestError, match=r"switched itself off|last stage"),
    ):
        deliver(tmp_path / "s")


def read_to_the_end(connection: socket.socket) -> None:
    while connection.recv(65536):
        pass


def test_a_silent_guest_is_a_timeout(tmp_path: Path) -> None:
    with (
        guest(tmp_path / "s", read_to_the_end),
        pytest.raises(GuestTimeoutError, match=r"within 0.3 seconds: it reported no stage at all"),
    ):
        deliver(tmp_path / "s", seconds=0.3)


@pytest.mark.parametrize("said", [OK, STAGES, b"OK 1234\n" + STAGES])
def test_a_machine_is_up_only_with_our_identity_and_an_engine(said: bytes) -> None:
    progress = Progress(hashlib.sha256(TAR).hexdigest())
    progress.feed(said)
    assert not progress.is_up
    progress.feed(STAGES + OK)
    assert progress.is_up


@given(st.lists(st.integers(0, len(STAGES + OK)), max_size=20))
def test_reports_may_arrive_in_pieces(cuts: list[int]) -> None:
    said = STAGES + OK
    edges = [0, *sorted(cuts), len(said)]
    progress = Progress(hashlib.sha256(TAR).hexdigest())
    for start, end in itertools.pairwise(edges):
        progress.feed(said[start:end])
    assert progress.is_up
    assert progress.last_stage == "ready"


@given(st.binary(max_size=300).filter(lambda data: b"ERROR" not in data))
def test_other_text_is_ignored(noise: bytes) -> None:
    progress = Progress("0" * 64)
    progress.feed(noise + b"\n")
    assert not progress.is_up


def make_activation_script(tar: dict[str, bytes], seed: dict[str, bytes]) -> str:
    def archive(members: dict[str, bytes]) -> bytes:
        return core_identity._tar({name: (0o600, content) for name, content in members.items()})

    return activation_script(archive(tar), seed=archive(seed), now=1795500000.9).decode()


ENGINE = {"daemon.json": b"{}", "engine.env": b"", "engine.args": b"", "engine.restart": b"1\n"}
SELF = {"hostname": b"intro\n", "tls/server-key.pem": b"-----BEGIN\nit's 'quoted' $(touch /x) \\ `y`\n"}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, "same"),
        ({"daemon.json": b'{"labels": ["a=b"]}'}, "reload"),
        ({"engine.restart": b"2\n"}, "restart"),
        ({"engine.args": b"--x\n", "engine.restart": b"2\n"}, "restart"),
    ],
)
def test_the_activation_script_says_whether_the_engine_reloads_or_restarts(
    changed: dict[str, bytes], said: str
) -> None:
    last = make_activation_script({**SELF, **ENGINE, **changed}, ENGINE).splitlines()[-1]
    assert re.fullmatch(rf"become intro 1795500000 [0-9a-f]{{64}} {said}", last)


@given(st.dictionaries(st.from_regex(r"[a-z]{1,8}(/[a-z]{1,8})?", fullmatch=True), st.text(NO_NUL, max_size=60)))
def test_a_shell_writes_every_file_unchanged(files: dict[str, str]) -> None:
    """dash runs the script with a stand-in for `put`. Files that only the template has become empty."""
    members = {**SELF, **{f"x/{name}": text.encode() for name, text in files.items()}}
    gone = dict.fromkeys(ENGINE, b"")
    script = 'put() { printf \'%s\\0%s\\0\' "$1" "$2"; }\nbecome() { :; }\n' + make_activation_script(members, ENGINE)
    said = subprocess.run(["dash"], input=script.encode(), capture_output=True, check=True).stdout
    parts = said.split(b"\0")[:-1]
    assert dict(zip([part.decode() for part in parts[::2]], parts[1::2], strict=True)) == members | gone


def test_a_clone_gets_only_files_that_its_template_lacks() -> None:
    words = make_activation_script({**SELF, **ENGINE, "engine.args": b"--x\n"}, ENGINE).splitlines()
    assert sorted(line.split()[1] for line in words if line.startswith("put ")) == [
        "engine.args",
        "hostname",
        "tls/server-key.pem",
    ]


def test_an_identity_that_is_not_text_is_refused() -> None:
    with pytest.raises(GuestReportedError, match="not text"):
        make_activation_script({**SELF, "hostname": b"\xff"}, ENGINE)
    with pytest.raises(GuestReportedError, match="no hostname"):
        make_activation_script({"x": b"y"}, ENGINE)


def test_endless_reports_of_a_guest_use_little_memory() -> None:
    progress = Progress("digest")
    names = ["".join(chr(97 + int(digit)) for digit in str(number)) for number in range(5000)]
    progress.feed("".join(f"STAGE {name} 1.0\n" for name in names).encode())
    assert len(progress.stages) == 100
    with pytest.raises(GuestReportedError) as caught:
        progress.feed(b"ERROR " + b"x" * 1_000_000 + b"\n")
    assert len(caught.value.brief) < 5000


@pytest.mark.parametrize(
    ("status", "words"), [("nospace", "No space left on device"), ("failed", "Input/output error")]
)
def test_a_guest_that_is_paused_by_a_disk_error_is_reported(tmp_path: Path, status: str, words: str) -> None:
    """QEMU pauses a guest whose disk cannot be written; the guest sends nothing until there is space."""

    def silent(connection: socket.socket) -> None:
        while connection.recv(1 << 20):
            pass

    def monitor(connection: socket.socket) -> None:
        answers = {
            "query-status": {"status": "io-error", "running": False},
            "query-block": [{"device": "iso"}, {"device": "disk", "io-status": status}],
        }
        connection.sendall(b'{"QMP": {"version": {}, "capabilities": []}}\n')
        with connection.makefile("rb") as lines:
            for line in lines:
                answer = answers.get(json.loads(line)["execute"], {})
                connection.sendall(json.dumps({"return": answer}).encode() + b"\n")

    with (
        guest(tmp_path / "s", silent),
        guest(tmp_path / runtime.CONTROL, monitor),
        pytest.raises(identity.PausedByDiskError, match=words) as caught,
    ):
        deliver(tmp_path / "s", seconds=30)
    assert "Free some space" in caught.value.hint
