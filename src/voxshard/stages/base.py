"""What every stage gets in addition to its configuration."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from voxshard.errors import StoppedError
from voxshard.progress import Progress, Silent


@dataclass(frozen=True)
class Task:
    """The part of a stage that this process does, and the signal on which it stops."""

    index: int = 0
    count: int = 1
    stop: threading.Event = field(default_factory=threading.Event)
    """Set by a signal handler; the stage publishes finished work and raises StoppedError."""
    progress: Progress = field(default_factory=Silent)

    def check(self) -> None:
        """Raise StoppedError if a stop was requested."""
        if self.stop.is_set():
            raise StoppedError("stopped by a signal; what is finished is kept, run the same command again to continue")
