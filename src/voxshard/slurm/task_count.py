"""Number of tasks of an extraction: those of the site's file, or fewer, so that starting them costs little.

Every task starts once: interpreter, imports, an image, the model. What is chosen is kept with the submission, so that
every process of the experiment counts the same tasks; a number in the experiment's config is obeyed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from voxshard.experiment.steps import Step
from voxshard.progress import Progress, counted
from voxshard.slurm.estimate import Work, work_left
from voxshard.slurm.submit import Cluster, given_tasks

START_SHARE = 0.02
"""Maximum share of a task's time for starting."""


@dataclass(frozen=True)
class TaskCount:
    """Number of tasks of one extraction whose work is known."""

    step: str
    asked: int
    """Number of tasks that the config or the site's file asks for."""
    best: int
    """Most that start in `START_SHARE` of their time; at least one, and as many as end within their time limit."""
    num_tasks: int
    """Number of tasks that are submitted."""
    is_fewer: bool
    """Whether these are fewer than the site's file asks for."""
    work_s: float
    """Seconds of work of all tasks together, without their starts."""
    start_s: float
    """Seconds that one task takes to start."""

    def start_share(self, num_tasks: int) -> float:
        """Return the share of a task's time that starting takes, for a number of tasks."""
        return self.start_s / (self.start_s + self.work_s / num_tasks)

    @property
    def is_notable(self) -> bool:
        """Whether to inform the user."""
        return self.is_fewer or self.start_share(self.num_tasks) > START_SHARE

    def line(self) -> str:
        """Return one line: how many tasks, why, and how to change it."""
        num, option = self.num_tasks, f"--set jobs.{self.step}.tasks="
        minutes = (self.start_s + self.work_s / num) / 60
        head = f"{self.step}: {counted(num, 'task')} of about {minutes:,.1f} min"
        costs = f"starting one takes {self.start_s:,.0f} s, {self.start_share(num):.1%} of its time"
        if self.is_fewer:
            all_of_them = f"{self.start_share(self.asked):.1%} with {self.asked:,}"
            return f"{head}, not the site's {self.asked:,}: {costs} ({all_of_them}); for more {option}N"
        if num > self.best:
            return f"{head}: {costs}; {self.start_share(self.best):.1%} with {option}{self.best}"
        return f"{head}: {costs}; {'with fewer they would meet their time limit' if num > 1 else 'it is all the work'}"


def known_work(cluster: Cluster, progress: Progress | None = None) -> dict[str, Work]:
    """Return the remaining work of the extractions that miss something, by step; see `work_left`."""
    return {
        step.name: work_left(cluster, step, progress)
        for step in _with_tasks(cluster, {}).steps.values()
        if step.stage == "extract" and step.missing()
    }


def fitted(cluster: Cluster, works: Mapping[str, Work]) -> tuple[Cluster, list[TaskCount]]:
    """Return the experiment with numbers of tasks that suit its work, and the reasons.

    What is not known, or from a trial alone, stays as it was: a submit does not wait for one, and does as its dry run.
    """
    known = {name: (work.task_s, work.rate) for name, work in works.items() if work.task_s and work.rate}
    tasks = {name: count for name, count in cluster.submission.tasks.items() if f"extract-{name}" not in known}
    asked = _with_tasks(cluster, tasks)
    counts = []
    for name, (work_s, rate) in known.items():
        step = asked.steps[name]
        num = len(step.missing())
        best = _best(cluster, step, work_s, rate.start_s, num)
        is_fewer = best < num and not rate.is_probe and _given(cluster, step) is None
        if is_fewer:
            tasks[name.removeprefix("extract-")] = best
        counts.append(TaskCount(name, step.num_tasks, best, num, is_fewer, work_s, rate.start_s))
    found = _with_tasks(cluster, tasks)
    return found, [replace(count, num_tasks=len(found.steps[count.step].missing())) for count in counts]


def _best(cluster: Cluster, step: Step, work_s: float, start_s: float, most: int) -> int:
    """See `TaskCount.best`. By the share alone a task takes at most a hundred times its start, so no user waits long
    for what is saved; one that met its time limit would start again, and nothing were saved."""
    options = cluster.options(step)
    limit_s = 60 * min(cluster.minutes(options, cluster.site.partitions[name]) for name in options.partitions or ())
    within_s = limit_s - cluster.site.signal_delay_s - start_s
    if start_s <= 0 or within_s <= 0:
        return most
    by_share = math.floor(work_s / start_s * START_SHARE / (1 - START_SHARE))
    return min(most, max(1, by_share, math.ceil(work_s / within_s)))


def _given(cluster: Cluster, step: Step) -> int | None:
    return given_tasks(cluster.experiment, step.name.removeprefix("extract-"))


def _with_tasks(cluster: Cluster, tasks: Mapping[str, int]) -> Cluster:
    return Cluster(cluster.experiment, cluster.site, replace(cluster.submission, tasks=dict(tasks)))
