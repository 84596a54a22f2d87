"""When signals take effect."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from pymachine.system import signals
from pymachine.system.signals import Terminated, deferred


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Install the signal handlers for a test and restore the old ones afterwards."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, signal.SIG_DFL) for number in numbers}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signals.exit_on_termination()
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_the_first_signal_ends_a_run_and_later_ones_are_ignored(number: signal.Signals) -> None:
    with pytest.raises(Terminated):
        signal.raise_signal(number)
    signal.raise_signal(number)
    signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(number) not in (signal.SIG_IGN, signal.SIG_DFL), (
        "a program that is started would inherit it"
    )


@pytest.mark.parametrize(("number", "error"), [(signal.SIGTERM, Terminated), (signal.SIGINT, KeyboardInterrupt)])
def test_a_deferred_signal_takes_effect_at_release(number: signal.Signals, error: type[BaseException]) -> None:
    reached = []
    with deferred() as release:
        signal.raise_signal(number)
        signal.raise_signal(number)
        reached.append("started")
        with pytest.raises(error):
            release()
        reached.append("handled")
    assert reached == ["started", "handled"]


def test_a_deferred_signal_takes_effect_at_the_end_of_the_block() -> None:
    with pytest.raises(Terminated), deferred():
        signal.raise_signal(signal.SIGTERM)
    with deferred():
        pass


def test_an_ignored_signal_stays_ignored_while_deferred() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with deferred():
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_IGN
