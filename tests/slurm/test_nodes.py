"""A task is kept away from nodes whose GPU failed, as long as others are at work."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from voxshard.slurm import nodes
from voxshard.slurm.nodes import nodes_to_avoid
from voxshard.slurm.record import TaskRecord


def record(node: str, exit_code: int | None, state: str = "failed") -> TaskRecord:
    return TaskRecord(0, 1, "7_0", "host", "gpu", state, 0.0, 1.0, exit_code=exit_code, node=node)


@pytest.mark.parametrize(
    ("records", "at_work", "expected"),
    [
        ([record("n1", 4), record("n2", None, "done"), None], "n1\nn2\nn3\n", "n1"),
        ([record("n3", 4), record("n1", 4)], "n1\nn2\nn3\n", "n1,n3"),
        ([record("n1", 4)], "n1\n", None),  # the only one: better than to wait for ever
        ([record("n1", 4)], "", None),
        ([record("n1", 3)], None, None),  # wrong data are wrong everywhere
        ([record("n1", 75, "stopped"), record("", 4)], None, None),
    ],
)
def test_nodes_with_a_fault_of_the_machine_are_avoided_unless_no_other_works(
    monkeypatch: pytest.MonkeyPatch, records: Sequence[TaskRecord | None], at_work: str | None, expected: str | None
) -> None:
    asked: list[list[str]] = []

    def call(words: list[str]) -> str:
        asked.append(words)
        assert at_work is not None, "SLURM is asked only where a node is to be avoided"
        return at_work

    queue: Any = nodes.queue
    monkeypatch.setattr(queue, "call", call)
    assert nodes_to_avoid(records, "gpu") == expected
    assert all(words[-2:] == ["-p", "gpu"] for words in asked)
