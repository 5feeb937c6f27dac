"""Arguments of every stage in addition to its config."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from voxshard.errors import StoppedError
from voxshard.progress import Progress, Silent


@dataclass(frozen=True)
class Task:
    """Part of a stage that this process does, with its progress display and its stop signal."""

    index: int = 0
    count: int = 1
    stop: threading.Event = field(default_factory=threading.Event)
    """Set by a signal handler; the stage publishes finished work and raises StoppedError."""
    progress: Progress = field(default_factory=Silent)

    def check(self) -> None:
        """Raise StoppedError if a stop was requested."""
        if self.stop.is_set():
            raise StoppedError("stopped by a signal; what is finished is kept, run the same command again to continue")
