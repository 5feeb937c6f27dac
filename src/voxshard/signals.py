"""A stop is a flag: USR1, USR2, TERM and Ctrl-C mean "publish finished work, then leave with exit code 75"."""

from __future__ import annotations

import signal
import threading
from types import FrameType

_STOPPING = ("SIGUSR1", "SIGUSR2", "SIGTERM")


def stop_on_signals() -> threading.Event:
    """Install the signal handlers, which do nothing but set the event.

    A signal that comes twice does no harm: SLURM without cgroups signals every process of a task, and a container
    program hands on what it received. The second may come while the first is being handled, in the middle of
    `Event.set`, whose lock its own holder would then wait for.
    """
    stop = threading.Event()
    is_told = False

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal is_told
        if number == signal.SIGINT and stop.is_set():
            raise KeyboardInterrupt  # the second Ctrl-C does not wait
        if not is_told:
            is_told = True
            stop.set()

    for name in (*_STOPPING, "SIGINT"):
        signal.signal(getattr(signal, name), handle)
    return stop
