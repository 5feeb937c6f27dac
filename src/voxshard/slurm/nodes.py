"""Nodes that a task must not use again."""

from __future__ import annotations

from collections.abc import Iterable

from voxshard.slurm import queue
from voxshard.slurm.record import TaskRecord


def nodes_to_avoid(records: Iterable[TaskRecord | None], partition: str | None) -> str | None:
    """Return the nodes on which these tasks ended with a fault of the machine, as sbatch's `--exclude` takes them.

    A node whose GPU fails is the first that is free again, and would be given the task once more.

    Parameters
    ----------
    records : of the tasks that are to be submitted; None for those that never began.
    partition : SLURM's name of it; None: the cluster's default.

    Returns
    -------
    None where there are no such nodes, or no other one of the partition is at work.
    """
    nodes = {record.node for record in records if record and record.is_fault_of_machine and record.node}
    if not nodes:
        return None
    where = [] if partition is None else ["-p", partition]
    at_work = queue.call(["sinfo", "-h", "-N", "-t", "idle,mix,alloc", "-o", "%N", *where]).split()
    return ",".join(sorted(nodes)) if set(at_work) - nodes else None
