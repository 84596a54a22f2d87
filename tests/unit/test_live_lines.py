"""Progress on terminals, as an emulated terminal shows it."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest
from hypothesis import given, strategies as st
from rich.text import Text

from pymachine.system import live_lines, streams
from pymachine.system.line_rendering import Renderer
from pymachine.system.steps import LiveRow, Step, duration
from support import screen

pytestmark = pytest.mark.usefixtures("interruptible")

# A step of these programs ends when the test makes a file of that name.
BEGINNING = """
import os, sys, time
from pathlib import Path
from pymachine.cli import errors, parallel
from pymachine.system import signals, streams
from pymachine.system.stream_reporter import StreamReporter

def step(name):
    while not Path(name).exists():
        time.sleep(0.02)

streams.prepare()
signals.exit_on_termination()
reporter = StreamReporter(streams.for_messages(sys.stdout))
"""
DOWNLOAD = """
reporter.info("Running pre-create checks...")
with reporter.task("Fetching 183 packages", total=52 << 20, unit="B") as task:
    for part in range(2):
        task.advance(13 << 20)
    task.note("libc6_2.41-12_amd64.deb")
    step("news")
    reporter.warn("WARNING: a warning")
    sys.stderr.write("an error\\n")
    step("end")
reporter.info("Docker is up and running!")
"""
PARALLEL = """
def act(name, reporter):
    reporter.info("Running pre-create checks...")
    with reporter.task("Waiting for the machine to start") as task:
        task.note("(network)")
        if name == "ci-runner-2":
            step("warn")
            reporter.warn("WARNING: folder is missing")
            reporter.info("The host key is pinned.")
        step(name)
    if name == "ci-runner-2":
        raise OSError(2, "No such file or directory", "disk.img")
    reporter.info("Docker is up and running!")

found, failures = parallel.run_in_processes(sys.argv[1:], act, reporter=reporter, success="Created")
for failure in failures:
    errors.report(failure)
"""


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    own = {"TERM": "xterm-256color", "LC_ALL": "C.UTF-8", "PYTHONUTF8": "1"}
    return {**{k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "COLORTERM")}, **own, **(extra or {})}


def argv(program: str, *words: str) -> list[str]:
    return [sys.executable, "-c", BEGINNING + textwrap.dedent(program), *words]


@contextmanager
def started(
    program: str, *words: str, folder: Path, columns: int = 80, rows: int = 24, env: Mapping[str, str] | None = None
) -> Iterator[screen.Screen]:
    with screen.started(
        argv(program, *words), env=environment(env), columns=columns, rows=rows, cwd=folder
    ) as terminal:
        yield terminal


def shows(*texts: str) -> Callable[[list[str]], bool]:
    return lambda lines: all(any(text in line for line in lines) for text in texts)


@pytest.mark.parametrize("columns", [20, 60, 80, 200])
def test_a_download_is_one_line_that_fits_any_terminal(tmp_path: Path, columns: int) -> None:
    figures = {20: ["50%"], 60: ["left"], 80: ["left", "━"], 200: ["left", "━", "26.0 MiB of 52.0 MiB", "libc6"]}
    with started(DOWNLOAD, folder=tmp_path, columns=columns) as terminal:
        *_, line = terminal.until(lambda lines: shows(*figures[columns], "50%")(lines[-1:]))
        assert re.match(r"[⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏] Fetching", line)
        assert len(line) < min(columns, 112)
        if columns >= 60:
            assert re.search(r"Fetching 183 packages .*50% .*iB/s \d+:\d\d left", line)
        (tmp_path / "news").touch()
        terminal.until(lambda lines: "50%" in lines[-1] and any("an error" in each for each in lines))
        (tmp_path / "end").touch()
        code, lines = terminal.ended()
    text = ["Running pre-create checks...", "WARNING: a warning", "an error", "Docker is up and running!"]
    wrapped = [each[at : at + columns].rstrip() for each in text for at in range(0, len(each), columns)]
    assert (code, [line.strip() for line in lines]) == (0, [line.strip() for line in wrapped])
    assert terminal.is_left_usable


@pytest.mark.parametrize("columns", [20, 60, 80, 200])
def test_machines_in_parallel_are_a_table(tmp_path: Path, columns: int) -> None:
    names = ["one", "two", "ci-runner-2"]
    with started(PARALLEL, *names, folder=tmp_path, columns=columns) as terminal:
        lines = terminal.until(lambda lines: len(lines) == 3 and all("Wait" in line for line in lines))
        assert len({line.index("Wait") for line in lines}) == 1
        assert all(len(line) < columns for line in lines)
        if columns > 20:
            assert all("Waiting for the machine to" in line for line in lines)
            assert [line.split()[1] for line in lines] == names
        (tmp_path / "warn").touch()
        terminal.until(lambda lines: any("pinned" in line for line in lines[:-3]) and "Wait" in lines[-1])
        (tmp_path / "one").touch()
        terminal.until(lambda lines: any(line.startswith("✓ one") for line in lines))
        (tmp_path / "ci-runner-2").touch()
        terminal.until(lambda lines: lines[-1].startswith("✗ ci"))
        (tmp_path / "two").touch()
        code, lines = terminal.ended()
    assert code == 0
    assert terminal.is_left_usable
    text = "".join(line.ljust(columns) if len(line) < columns else line for line in lines)
    assert "(ci-runner-2) WARNING: folder is missing" in text
    assert text.count(" Created") == 2
    assert "disk.img" in text
    if columns > 20:
        assert lines[:2] == ["(ci-runner-2) WARNING: folder is missing", "(ci-runner-2) The host key is pinned."]
        expected = [
            r"✓ one +\d+ s Created",
            r"✓ two +\d+ s Created",
            r"✗ ci-runner-2 +\d+ s Failed: Waiting for the machine to start",
        ]
        assert [bool(re.fullmatch(*each)) for each in zip(expected, lines[2:5], strict=True)] == [True] * 3, lines
        assert not any("pre-create" in line for line in lines)


def test_of_too_many_machines_as_many_are_shown_as_fit(tmp_path: Path) -> None:
    names = [f"m{number}" for number in range(8)]
    with started(PARALLEL, *names, folder=tmp_path, rows=6) as terminal:
        lines = terminal.until(lambda lines: "  and 4 more" in lines)
        assert [line.split()[1] for line in lines] == ["m0", "m1", "m2", "m3", "4"]
        (tmp_path / "m0").touch()
        terminal.until(lambda lines: len(lines) == 5 and lines[0].split()[1] == "m1")  # what still runs is shown
        for name in names:
            (tmp_path / name).touch()
        code, lines = terminal.ended()
    assert (code, [line.split()[1] for line in lines[-5:]]) == (0, names[-5:])
    assert terminal.is_left_usable


def test_machines_that_need_no_time_have_the_same_lines_without_rich(tmp_path: Path) -> None:
    for name in ("warn", "one", "ci-runner-2"):
        (tmp_path / name).touch()
    with started(PARALLEL, "one", "ci-runner-2", folder=tmp_path) as terminal:
        code, lines = terminal.ended()
    assert code == 0
    assert lines[:2] == ["(ci-runner-2) WARNING: folder is missing", "(ci-runner-2) The host key is pinned."]
    assert re.fullmatch(r"✓ one +\d+ s Created", lines[2])
    assert re.fullmatch(r"✗ ci-runner-2 +\d+ s Failed: Waiting for the machine to start", lines[3])


@pytest.mark.parametrize("program", [DOWNLOAD, PARALLEL], ids=["download", "parallel"])
def test_an_interrupt_leaves_no_half_of_a_line(tmp_path: Path, program: str) -> None:
    indented = textwrap.indent(program, "    ")
    caught = f"try:\n{indented}\nexcept KeyboardInterrupt as interrupt:\n    sys.exit(errors.report(interrupt))\n"
    with started(caught, "one", "two", folder=tmp_path) as terminal:
        terminal.until(lambda lines: re.match("[⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏] ", lines[-1]) if lines else False)
        terminal.interrupt()
        code, lines = terminal.ended()
    assert (code, lines[-1]) == (130, "Interrupted.")
    assert not any(re.match("[⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏]", line) for line in lines)
    assert terminal.is_left_usable


def test_a_killed_program_leaves_the_cursor_visible(tmp_path: Path) -> None:
    program = DOWNLOAD.replace('step("end")', "os.kill(os.getpid(), 9)")
    with started(program, folder=tmp_path) as terminal:
        terminal.until(shows("50%"))
        (tmp_path / "news").touch()
        terminal.ended()
    assert b"\x1b[?25l" not in terminal.received
    assert terminal.received.rindex(b"\x1b[?7h") > terminal.received.rindex(b"\x1b[?7l")


def test_lines_follow_the_width_of_the_window(tmp_path: Path) -> None:
    with started(DOWNLOAD, folder=tmp_path) as terminal:
        terminal.until(lambda lines: len(lines) == 2 and len(lines[-1]) > 70)
        terminal.resize(30)
        terminal.until(lambda lines: lines[-1].endswith("50%") and len(lines[-1]) < 30)
        assert terminal.lines[0] == "Running pre-create checks..."
        terminal.resize(100)
        terminal.until(lambda lines: len(lines) == 2 and len(lines[-1]) > 70)
        for name in ("news", "end"):
            (tmp_path / name).touch()
        code, lines = terminal.ended()
    assert (code, lines[0], lines[-1]) == (0, "Running pre-create checks...", "Docker is up and running!")


def test_other_output_appears_above_in_whole_lines(tmp_path: Path) -> None:
    program = """
    import logging
    logging.basicConfig(stream=sys.stderr)
    with reporter.task("Waiting"):
        step("begin")
        try:
            {}["x"]
        except KeyError:
            import traceback
            traceback.print_exc()
        logging.warning("logged")
        print("printed")
        sys.stdout.write("in two ")
        sys.stdout.flush()
        time.sleep(0.3)  # a few times as long as a redraw
        sys.stdout.write("parts\\n")
        step("end")
    """
    with started(program, folder=tmp_path) as terminal:
        terminal.until(shows("Waiting"))
        (tmp_path / "begin").touch()
        lines = terminal.until(lambda lines: "in two parts" in lines and "Waiting" in lines[-1])
        assert lines[0] == "Traceback (most recent call last):"
        assert lines[-5:-1] == ["KeyError: 'x'", "WARNING:root:logged", "printed", "in two parts"]
        (tmp_path / "end").touch()
        assert terminal.ended() == (0, lines[:-1])


HOSTILE = "[bold]x[/] :smile: 漢字 e\u0301 \x1b[31m\x1b]0;owned\x07\u202eexe\r\nfake"


def test_text_from_elsewhere_is_no_markup_and_moves_nothing(tmp_path: Path) -> None:
    program = """
    with reporter.task(sys.argv[1]) as task, reporter.task(sys.argv[1], total=2) as other:
        task.note(sys.argv[1])
        other.note(sys.argv[1])
        step("end")
    """
    with started(program, HOSTILE, folder=tmp_path, columns=200) as terminal:
        lines = terminal.until(lambda lines: len(lines) == 2)
        assert "[bold]x[/] :smile: 漢" in lines[0].replace("漢 ", "漢")
        assert r"\x1b[31m\x1b]0;owned\x07\u202eexe\r\nfake" in lines[0]
        (tmp_path / "end").touch()
        assert terminal.ended() == (0, [])
    assert b"\x1b]0" not in terminal.received
    assert "\u202e".encode() not in terminal.received
    assert terminal.is_left_usable


def test_colours_obey_no_color(tmp_path: Path) -> None:
    (tmp_path / "one").touch()
    for env, colours in (({}, {"cyan", "default"}), ({"NO_COLOR": "1"}, {"default"})):
        with started(DOWNLOAD, folder=tmp_path, env=env) as terminal:
            terminal.until(shows("50%", "left"))
            assert colours <= terminal.colours("50%")
            assert bool(env) == (terminal.colours("50%") == {"default"})


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_terminal_without_unicode_gets_ascii(tmp_path: Path, encoding: str) -> None:
    env = {"PYTHONIOENCODING": encoding, "NO_COLOR": "1"}
    with started(DOWNLOAD, folder=tmp_path, env=env) as terminal:
        *_, line = terminal.until(shows("50%", "---"))
        assert line.isascii()
        assert "\\u" not in line
    (tmp_path / "one").touch()
    with started(PARALLEL, "one", folder=tmp_path, env=env) as terminal:
        assert terminal.ended()[1][-1].startswith("+ one")


PLAIN = """\
Running pre-create checks...
Fetching 183 packages 0% (0 B of 52.0 MiB)
WARNING: a warning
Docker is up and running!
"""
PLAIN_PARALLEL = """\
(one) Running pre-create checks...
(one) Waiting for the machine to start
(one) Docker is up and running!
"""


def test_without_a_terminal_there_are_plain_lines(tmp_path: Path) -> None:
    for name in ("news", "end", "one"):
        (tmp_path / name).touch()
    for program, words, expected in ((DOWNLOAD, [], PLAIN), (PARALLEL, ["one"], PLAIN_PARALLEL)):
        ended = subprocess.run(
            argv(program, *words), env=environment(), cwd=tmp_path, capture_output=True, text=True, check=True
        )
        assert ended.stdout == expected
        with started(program, *words, folder=tmp_path, env={"TERM": "dumb"}) as dumb:
            _, lines = dumb.ended()
        assert [line for line in lines if line != "an error"] == expected.splitlines()
        assert b"\x1b" not in dumb.received


def test_each_stream_may_be_a_terminal_or_not(tmp_path: Path) -> None:
    """A reporter on a pipe writes plain lines while errors go to a terminal, and the reverse."""
    python = [sys.executable, "-c", BEGINNING + DOWNLOAD]
    for redirection, in_file in ((">out", PLAIN), ("2>out", "an error\n")):
        for name in ("news", "end"):
            (tmp_path / name).unlink(missing_ok=True)
        shell = ["sh", "-c", f'exec "$@" {redirection}', "sh", *python]
        with screen.started(shell, env=environment(), cwd=tmp_path) as terminal:
            if redirection == "2>out":
                terminal.until(shows("50%"))
            (tmp_path / "news").touch()
            (tmp_path / "end").touch()
            code, lines = terminal.ended()
        assert code == 0
        assert (tmp_path / "out").read_text() == in_file
        messages = [line for line in PLAIN.splitlines() if "%" not in line]
        assert lines == (["an error"] if redirection == ">out" else messages)


def test_rich_is_imported_only_by_long_steps_on_a_terminal(tmp_path: Path) -> None:
    program = """
    from pymachine.system import live_lines
    live_lines.DELAY_SECONDS = float(sys.argv[1])
    with reporter.task("Waiting"):
        step("end")
    print("rich" in sys.modules)
    """
    with started(program, "0", folder=tmp_path) as terminal:
        terminal.until(shows("Waiting"))
        (tmp_path / "end").touch()
        assert terminal.ended() == (0, ["True"])
    with started(program, "600", folder=tmp_path) as terminal:
        assert terminal.ended() == (0, ["False"])
    assert terminal.received == b"False\r\n"  # and no control sequence
    command = argv(program, "0")
    plain = subprocess.run(command, env=environment(), cwd=tmp_path, stdout=subprocess.PIPE, text=True, check=True)
    assert plain.stdout == "Waiting\nFalse\n"


def test_a_process_is_forked_only_between_two_drawings() -> None:
    """So it may draw and fork itself, and its own output is no concern of the lines that its parent has drawn."""

    def check() -> None:
        sys.exit(live_lines._at_work.locked() or streams._display is not None)

    streams.set_display(lambda text: nullcontext())
    try:
        child = multiprocessing.get_context("fork").Process(target=check)
        child.start()
    finally:
        streams.set_display(None)
    child.join()
    assert child.exitcode == 0
    assert not live_lines._at_work.locked()


def plain_text(line: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", line)


@given(
    title=st.text(max_size=60),
    note=st.text(max_size=40),
    total=st.one_of(st.none(), st.integers(0, 1 << 40)),
    done=st.integers(0, 1 << 41),
    seconds=st.floats(0, 1e6),
    width=st.integers(-5, 200),
    height=st.integers(-5, 5),
    encoding=st.sampled_from(["utf-8", "ascii"]),
)
def test_no_line_is_wider_than_the_terminal(
    title: str, note: str, total: int | None, done: int, seconds: float, width: int, height: int, encoding: str
) -> None:
    def step() -> Step:
        made = Step(title, total, "B")
        made.began -= seconds
        made.advance(done)
        made.note(note)
        return made

    row, ended = (LiveRow(title, print, changed=lambda _: None) for _ in range(2))
    row.steps.append(step())
    ended.text, ended.outcome = note, "failed"
    lines = Renderer(encoding).lines([step(), row, ended], width=width, height=height)
    assert 1 <= len(lines) <= max(1, height)
    assert all(Text(plain_text(line)).cell_len <= max(1, width) for line in lines)
    assert not any(re.search(r"[\x00-\x1f\x7f-\x9f\u202e]", plain_text(line)) for line in lines)


def test_durations() -> None:
    assert [duration(each) for each in (0, 12.4, 59.6, 125, 3725)] == [
        "0 s",
        "12 s",
        "1:00",
        "2:05",
        "1:02:05",
    ]


def test_sigterm_ends_the_display(tmp_path: Path) -> None:
    program = f"Path('pid').write_text(str(os.getpid()))\n{DOWNLOAD}"
    with started(program, folder=tmp_path) as terminal:
        terminal.until(shows("50%"))
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGTERM)
        code, lines = terminal.ended()
    assert (code, lines) == (143, ["Running pre-create checks..."])
    assert terminal.is_left_usable
