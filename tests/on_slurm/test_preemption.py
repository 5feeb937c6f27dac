"""What happens to many jobs at once: preemption, a lost node, a lost controller; afterwards the set is complete.

Every test prints how much was computed twice: a disturbed task may lose the shard it was at.
"""

from __future__ import annotations

import time
from typing import Any

import pytest

from support.slurm_faults import SLOW, MakeExperiment, at_work, config, finish

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(3000)]


@pytest.mark.parametrize("grace", ["GraceTime=0", "GraceTime=10"])
def test_preempted_twice_tasks_go_on_where_they_were(
    experiment: MakeExperiment, undisturbed: dict[str, Any], grace: str
) -> None:
    run = experiment(SLOW)
    run.cluster.set_partition(grace)
    run.submit(config())
    at_work(run)
    run.cluster.preempt()
    run.wait_for_shards(len(run.shards()) + 3)
    run.cluster.preempt()
    finish(run, undisturbed, disturbed=4, name=f"preempted twice, {grace}")
    assert run.attempts("extract-mfcc") == 1, "requeued, not submitted again"


def test_preempted_tasks_that_slurm_cancels_are_submitted_again(
    experiment: MakeExperiment, undisturbed: dict[str, Any]
) -> None:
    run = experiment(SLOW)
    run.cluster.set_partition("GraceTime=0", "PreemptMode=CANCEL")
    run.submit(config())
    at_work(run)
    run.cluster.preempt()
    finish(run, undisturbed, disturbed=2, name="PreemptMode=CANCEL")
    assert run.attempts("extract-mfcc") == 2
    assert "submitted again as job" in run.logs("merge-mfcc")


def test_a_node_that_dies_and_comes_back_costs_one_shard(
    experiment: MakeExperiment, undisturbed: dict[str, Any]
) -> None:
    run = experiment(SLOW)
    run.cluster.configure("SlurmdTimeout=5")
    run.submit(config())
    at_work(run)
    node = run.elements("extract-mfcc")[0][4]
    run.cluster.control("kill-node", node)
    run.cluster.wait_until(lambda: "down" in run.cluster.call("sinfo", "-h", "-n", node, "-o", "%T"), "a dead node")
    run.cluster.control("start-node", node)
    run.cluster.configure("SlurmdTimeout=20")
    finish(run, undisturbed, disturbed=2, name="node down and back")


def test_a_restart_of_the_controller_is_not_noticed(experiment: MakeExperiment, undisturbed: dict[str, Any]) -> None:
    run = experiment(SLOW)
    run.submit(config())
    at_work(run)
    time.sleep(6)  # a controller killed within seconds of a start has not saved it yet, and takes it for a second copy
    run.cluster.control("kill-ctld", "TERM")
    run.cluster.control("start-ctld")
    finish(run, undisturbed, disturbed=0, name="slurmctld restarted")
