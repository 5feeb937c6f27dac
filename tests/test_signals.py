"""Being asked to stop."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator

import pytest

from voxshard import signals


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Those there were, afterwards."""
    numbers = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM, signal.SIGINT)
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


class ToldAgainMeanwhile(threading.Event):
    """An event during whose setting another signal comes."""

    def set(self) -> None:
        with self._cond:  # type: ignore[attr-defined]
            signal.raise_signal(signal.SIGTERM)
        super().set()


@pytest.mark.timeout(120)
def test_a_second_signal_in_the_middle_of_the_first_does_not_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals.threading, "Event", ToldAgainMeanwhile)
    stop = signals.stop_on_signals()
    signal.raise_signal(signal.SIGUSR2)
    assert stop.is_set()


def test_the_second_interrupt_does_not_wait() -> None:
    stop = signals.stop_on_signals()
    signal.raise_signal(signal.SIGINT)
    assert stop.is_set()
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
