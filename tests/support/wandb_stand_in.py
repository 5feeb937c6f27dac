"""A module in place of Weights & Biases' client that keeps what it is reported."""

from __future__ import annotations

import types
from pathlib import Path
from typing import Any


class FakeWandb(types.ModuleType):
    """Client and session in one."""

    def __init__(self, folder: Path) -> None:
        super().__init__("wandb")
        self.calls: list[dict[str, Any]] = []
        self.summary: dict[str, float] = {}
        self.dir = str(folder / "wandb" / "offline-run-1" / "files")
        self.finished = False

    def init(self, **options: Any) -> FakeWandb:
        self.calls.append(options)
        return self

    def finish(self) -> None:
        self.finished = True
