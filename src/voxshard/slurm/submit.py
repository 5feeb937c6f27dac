"""Submit steps as SLURM array jobs: missing tasks are submitted, each step after those it depends on.

submitit checks the options and writes the scripts. What a job runs is our own command line instead of submitit's
pickles, so that a kept script can be read and submitted again by hand (docs/decisions/slurm.md).
"""

from __future__ import annotations

import os
import shlex
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from voxshard import files
from voxshard.config import check_one_line
from voxshard.errors import ConfigError, SchedulerError
from voxshard.experiment.experiment import Experiment
from voxshard.experiment.schema import JobOptions
from voxshard.experiment.steps import Step, extract_kind, network_kind, repair_request, steps_of
from voxshard.files import quoted
from voxshard.progress import Progress, counted
from voxshard.runtime import runtime
from voxshard.slurm import environment, queue, sbatch
from voxshard.slurm.nodes import nodes_to_avoid
from voxshard.slurm.record import Attempt, Record, Submission
from voxshard.slurm.scripts import Array, sbatch_text
from voxshard.slurm.site import Partition, Site
from voxshard.store.layout import FeatureDir
from voxshard.store.merged import read_summary


class Cluster:
    """Experiment on a site."""

    def __init__(self, experiment: Experiment, site: Site, submission: Submission) -> None:
        self.experiment = Experiment(experiment.config, site.container)
        self.site, self.submission = site, submission
        self.record = Record(experiment.path)
        self.steps = steps_of(self.experiment, array_sizes(self.experiment, site, submission.tasks))

    @classmethod
    def of(cls, path: Path, config: Mapping[str, Any] | None = None, site: Mapping[str, Any] | None = None) -> Cluster:
        """Load a submitted experiment from its files; keys of its config and its site may be replaced."""
        record = Record(path.absolute())
        return cls(record.experiment(dict(config or {})), record.site(dict(site or {})), record.submission())

    def options(self, step: Step) -> JobOptions:
        """Return what a step's jobs request: the experiment's `jobs` over the site's `stages`."""
        stage, name = step.stage, step.name
        if stage == "repair":  # an extraction of a few recordings
            stage, name = "extract", f"extract-{name.removeprefix('repair-')}"
        kind = stage
        if stage == "extract":
            kind = extract_kind(self.experiment, name.removeprefix("extract-"))
        elif stage == "networks":
            kind = network_kind(self.experiment, name.removeprefix("networks-"))
        found = self.site.options(kind).model_dump(exclude_none=True)
        for key in (stage, name):
            found |= self.experiment.config.jobs.get(key, JobOptions()).model_dump(exclude_none=True)
        options = JobOptions(**found)
        try:
            self.site.check_partitions(options.partitions or (), f"jobs.{step.name}")
        except ValueError as exc:
            raise ConfigError(str(exc)) from exc
        return options

    def array_limit(self) -> int:
        """Return the limit of array indices, which are below it."""
        if self.site.max_array_size != "ask":
            return self.site.max_array_size
        found = queue.setting("MaxArraySize")
        if found is None or not found.isdigit():
            raise SchedulerError("scontrol show config: no MaxArraySize; write max_array_size into the site's file")
        return int(found)

    def arrays(self, step: Step, tasks: Sequence[int], attempt: int, automatic: int, limit: int) -> list[Array]:
        """Return the sbatch calls for some tasks of a step: over its partitions, below the cluster's largest index."""
        options = self.options(step)
        names = options.partitions or ()
        pieces = []
        for position, name in enumerate(names):
            own = list(tasks[position * len(tasks) // len(names) : (position + 1) * len(tasks) // len(names)])
            blocks: dict[int, list[int]] = {}
            for task in own:
                blocks.setdefault(task // limit * limit, []).append(task % limit)
            pieces += [(name, first, elements) for first, elements in blocks.items()]
        return [
            self._array(step, name, first, elements, options, attempt, automatic, number, len(pieces))
            for number, (name, first, elements) in enumerate(pieces)
        ]

    def minutes(self, options: JobOptions, share: Partition, growth: float = 1.0) -> int:
        """Return the time limit of one task on a partition, in minutes."""
        wanted = round((options.minutes or share.max_minutes or 60) * growth)
        return min(wanted, share.max_minutes or wanted)

    def _array(
        self,
        step: Step,
        partition: str,
        first: int,
        elements: Sequence[int],
        options: JobOptions,
        attempt: int,
        automatic: int,
        number: int,
        count: int,
    ) -> Array:
        share = self._share(step, partition)
        growth = (options.growth or 1.0) ** (automatic - 1)
        minutes = self.minutes(options, share, growth)
        mem_gb = options.mem_gb or share.mem_gb
        mem_gb = None if mem_gb is None else mem_gb * growth
        throttle = options.throttle or self.site.throttle
        at_once = f"%{max(1, throttle // count)}" if throttle else ""
        folder = self.record.folder(step.name)
        tasks = [first + element for element in elements] if share.gpus else []
        records = [self.record.task(step.name, task) for task in tasks]
        more: dict[str, Any] = {
            "array": f"{queue.spans(elements)}{at_once}",
            "chdir": self.submission.cwd,
            "comment": self.submission.token,
            "ntasks": 1,
            "output": f"{self.record.logs(step.name)}/%A_%a.out".replace(str(folder), str(folder).replace("%", "%%")),
            "dependency": "DEPENDENCY",
            "signal": f"{self.site.signal}@{self.site.signal_delay_s}",
            "exclude": nodes_to_avoid(records, self._real_partition(partition, share)),
            **({"requeue": True} if self.site.requeue else {"no-requeue": True}),
            **self.site.sbatch,
            **share.options,
        }
        parameters: dict[str, Any] = {
            "job_name": f"{self.experiment.path.name}:{step.name}",
            "partition": partition,
            "time": minutes,
            "cpus_per_task": share.cpus,
            "gpus_per_node": share.gpus if share.gpus and "gres" not in share.options else None,
            "mem": None if mem_gb is None else f"{round(mem_gb * 1024)}MB",
            "account": self.site.account,
            "setup": [
                "trap '' TERM USR1 USR2  # the program below hears them",
                *self.site.setup,
                *self._modules(),
                *environment.SCRIPT_LINES,
            ],
            "use_srun": False,
            "stderr_to_stdout": True,
        }
        if more.get("partition", "") is None:
            parameters["partition"] = None
        parameters["additional_parameters"] = {key: value for key, value in more.items() if value is not None}
        srun = ["srun", "--unbuffered", "--nodes=1", "--ntasks=1", "--export=ALL",
                *([f"--cpus-per-task={share.cpus}"] if self.site.srun_cpus else [])]  # fmt: skip
        words = [self.submission.python, "-P", "-m", "voxshard.slurm.array_task", str(self.experiment.path),
                 "--step", step.name, "--attempt", str(attempt), "--first", str(first)]  # fmt: skip
        text = sbatch_text(folder, parameters, shlex.join([*srun, *words]))
        script = folder / f"attempt-{attempt:03d}-{number}.sh"
        return Array(step.name, partition, first, list(elements), minutes, mem_gb, share, script, text)

    def _share(self, step: Step, partition: str) -> Partition:
        """Return what one task gets on a partition; a training on several GPUs gets as many shares as contain them."""
        share = self.site.partitions[partition]
        if step.stage != "networks" or not share.gpus:
            return share
        devices = self.experiment.config.networks[step.name.removeprefix("networks-")].devices
        return share.times(-(-devices // share.gpus))

    def _modules(self) -> list[str]:
        """Return the module that provides the container program, if a stage runs in an image."""
        module = self.site.container.module
        uses_images = any(map(runtime.image_of, self.experiment.runtimes()))
        return [f"module load {shlex.quote(module)}"] if module and uses_images else []

    def live(self, steps: Sequence[str] | None = None) -> list[queue.QueuedTask]:
        """Return this experiment's elements that run or will run, of some steps or all."""
        names = None if steps is None else {f"{self.experiment.path.name}:{step}" for step in steps}
        own = self.record.own(queue.tasks(), self.submission.token)
        return [item for item in own if item.is_live and (names is None or item.name in names)]

    def jobs(self) -> list[queue.QueuedTask]:
        """Return this experiment's elements in the queue, and those that ended a few minutes ago."""
        return self.record.own(queue.tasks(finished=True), self.submission.token)

    def missing_tasks(self) -> dict[str, list[int]]:
        """Return the tasks to submit by step: missing ones, and everything that depends on them."""
        found: dict[str, list[int]] = {}
        for step in self.steps.values():
            tasks = step.missing()
            if step.stage not in ("extract", "repair") and any(name in found for name in step.depends_on):
                tasks = list(range(step.num_tasks))
            if step.stage == "extract" and step.depends_on[0] in found and not tasks:
                continue
            if tasks:
                found[step.name] = tasks
        return found

    def render_arrays(self, todo: Mapping[str, Sequence[int]]) -> dict[str, list[Array]]:
        """Return the sbatch calls for these tasks, without submitting them."""
        limit = self.array_limit()
        return {
            name: self.arrays(self.steps[name], tasks, self.record.last_number(name) + 1, 1, limit)
            for name, tasks in todo.items()
        }

    def submit(self, drafts: Mapping[str, Sequence[Array]], why: str, progress: Progress) -> dict[str, list[int]]:
        """Submit steps, each after those it depends on; all of them, or none.

        Returns
        -------
        Step -> job ids.

        Raises
        ------
        SchedulerError : SLURM refuses one; those submitted before it are cancelled.
        """
        jobs: dict[str, list[int]] = {}
        try:
            for name, arrays in drafts.items():
                after = [job for step in self.steps[name].depends_on for job in jobs.get(step, [])]
                jobs[name] = self._submit_step(name, arrays, after, automatic=1, why=why)
                progress.note(f"{name}: {counted(sum(array.num_tasks for array in arrays), 'task')}, job "
                              f"{', '.join(map(str, jobs[name]))}")  # fmt: skip
        except BaseException:
            queue.cancel([str(job) for ids in jobs.values() for job in ids])
            for name in jobs:
                self.record.attempt_file(name, self.record.last_number(name)).unlink()
            raise
        if unseen := self.unseen(jobs):
            progress.note(
                f"warning: squeue does not show job {', '.join(map(str, unseen))}, which was just submitted; status, "
                "cancel and retry depend on it. Does the site hide jobs (PrivateData), or is squeue a wrapper?"
            )
        return jobs

    def resubmit_from_job(self, step: Step, tasks: Sequence[int], after: Sequence[int], *, attempt: int, why: str,
              counts: bool) -> list[int] | None:  # fmt: skip
        """Submit tasks of a step once more from inside a job; of several processes that try, one does it.

        Parameters
        ----------
        attempt : the last attempt the caller knows of; the next is claimed.
        counts : against `max_attempts`; waiting for something else does not.

        Returns
        -------
        Job ids; None if another process has claimed the attempt.
        """
        path = self.record.attempt_file(step.name, attempt + 1)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
        except FileExistsError:
            return None
        automatic = self.num_automatic(step.name) + (1 if counts else 0)
        arrays = self.arrays(step, tasks, attempt + 1, automatic, self.array_limit())
        try:
            return self._submit_step(step.name, arrays, after, automatic=automatic, why=why)
        except BaseException:
            path.unlink(missing_ok=True)
            raise

    def num_automatic(self, step: str) -> int:
        """Return how many times a step was submitted since a person asked for it."""
        attempts = self.record.attempts(step)
        return attempts[-1].automatic if attempts else 0

    def check(self, drafts: Mapping[str, Sequence[Array]], progress: Progress) -> None:
        """Ask SLURM whether it accepts these jobs: partition, account, limits. Nothing is written or submitted.

        Raises
        ------
        SchedulerError : it refuses one.
        """
        for arrays in drafts.values():
            for array in arrays:
                if warning := self._check(array):
                    progress.note(warning)

    def _check(self, array: Array) -> str | None:
        """Return a warning where SLURM takes this job and starts it once nodes are available again."""
        with tempfile.TemporaryDirectory() as folder:
            probe = Path(folder, array.script.name)
            probe.write_text(array.with_dependency([]))
            refused = sbatch.refusal([str(probe)], self._real_partition(array.partition, array.share))
        if refused is None:
            return None
        message, later = refused
        if later:
            return (
                f"{array.step}: no node of partition {array.partition} that fits is available now ({message}); "
                "its jobs wait until one is, see `sinfo`"
            )
        raise SchedulerError(
            f"{message} ({self._asked_for(array)}); nothing was submitted. {sbatch.advice(message, array.step)}"
        )

    def _real_partition(self, name: str, share: Partition) -> str | None:
        """Return SLURM's name of a partition of the site; None: the cluster's default."""
        found = {"partition": name, **self.site.sbatch, **share.options}["partition"]
        return None if found is None else str(found)

    def _asked_for(self, array: Array) -> str:
        return f"step {array.step}, partition {array.partition}, account {self.site.account or 'default'}"

    def _submit_step(
        self, name: str, arrays: Sequence[Array], after: Sequence[int], *, automatic: int, why: str
    ) -> list[int]:
        self.record.logs(name).mkdir(parents=True, exist_ok=True)
        number = int(arrays[0].script.stem.split("-")[1])
        jobs: list[dict[str, Any]] = []
        known = self.record.job_ids()
        for array in arrays:
            files.publish_bytes(array.script, array.with_dependency(after).encode())
            try:
                job = sbatch.submit(array.script, self._is_of(array, known))
            except SchedulerError as exc:
                queue.cancel([str(item["job"]) for item in jobs])
                raise SchedulerError(
                    f"{exc} ({self._asked_for(array)}). {sbatch.advice(str(exc), array.step)}"
                ) from exc
            known = known | {job}
            jobs.append({"job": job, **_asked(array)})
        attempt = Attempt(number, automatic, why, time.time(), jobs)
        files.publish_json(self.record.attempt_file(name, number), asdict(attempt))
        return [item["job"] for item in jobs]

    def _is_of(self, array: Array, known: Set[int]) -> Callable[[queue.QueuedTask], bool]:
        """Whether a job in the queue is of this array, which has no recorded job yet."""
        name, token, script = f"{self.experiment.path.name}:{array.step}", self.submission.token, str(array.script)

        def is_of(item: queue.QueuedTask) -> bool:
            if item.job in known or item.name != name or item.state == "CANCELLED":
                return False
            return item.script == script or (item.comment == token and not self.record.has_script(item))

        return is_of

    def unseen(self, jobs: Mapping[str, Sequence[int]]) -> list[int]:
        """Return the jobs just submitted that the queue does not show."""
        seen = {item.job for item in queue.tasks(finished=True)}
        return sorted({job for ids in jobs.values() for job in ids} - seen)


def given_tasks(experiment: Experiment, name: str) -> int | None:
    """Return the array elements of one extraction that the config requests; None: the site decides."""
    jobs = experiment.config.jobs
    for options in (jobs.get(f"extract-{name}"), jobs.get("extract")):
        if options is not None and options.tasks is not None:
            return options.tasks
    return None


def array_sizes(experiment: Experiment, site: Site, fitted: Mapping[str, int]) -> dict[str, int]:
    """Return the number of array elements of each extraction.

    Parameters
    ----------
    fitted : extraction -> number of tasks that suits its work, where that is below the site's (see `task_count`).
    """
    sizes = {}
    for name in experiment.config.extract:
        most = site.options(extract_kind(experiment, name)).tasks or 1
        sizes[name] = given_tasks(experiment, name) or min(most, fitted.get(name, most))
    return sizes


def _asked(array: Array) -> dict[str, Any]:
    share = array.share
    return {
        "partition": array.partition,
        "first": array.first,
        "elements": queue.spans(array.elements),
        "num_tasks": array.num_tasks,
        "script": array.script.name,
        "minutes": array.minutes,
        "mem_gb": array.mem_gb,
        "cpus": share.cpus,
        "gpus": share.gpus,
        "units_per_hour": share.units_per_hour,
    }


def new_submission(experiment: Experiment, site: Site) -> tuple[Experiment, Submission]:
    """Prepare an experiment for its first submission; paths become absolute.

    An experiment that was submitted before keeps its token, so that its jobs are still known, and its numbers of tasks.
    """
    if site.scheduler == "none":
        raise ConfigError(f"site {site.name} has no SLURM; use `voxshard run` for this machine")
    if not queue.is_available():
        raise SchedulerError(
            "sbatch: no such command here; submit from a login node of the cluster, or use `voxshard run`"
        )
    experiment = Experiment(experiment.config.model_copy(update={"out": experiment.path.absolute()}))
    try:
        check_one_line({"out": str(experiment.path), "working folder": str(Path.cwd()), "Python": sys.executable})
    except ValueError as exc:
        raise ConfigError(str(exc)) from exc
    record = Record(experiment.path)
    before = record.submission() if record.exists else None
    token = before.token if before else uuid.uuid4().hex[:12]
    cluster = queue.setting("ClusterName") or ""
    tasks = before.tasks if before else {}
    return experiment, Submission(token, cluster, str(Path.cwd()), sys.executable, time.time(), tasks)


def write_submission(cluster: Cluster) -> None:
    """Write everything that the jobs read: config, site, submission, configs of trainings.

    Raises
    ------
    SchedulerError : jobs of this experiment are in the queue already.
    """
    live = cluster.live()
    if live:
        path = cluster.experiment.path
        raise SchedulerError(
            f"{path}: {len(live)} tasks of it are in the queue already; see `voxshard status {quoted(path)}`, "
            f"or end them with `voxshard cancel {quoted(path)}`"
        )
    cluster.experiment.freeze()
    for training, _ in cluster.experiment.trainings():
        cluster.experiment.freeze_training(training)
    cluster.record.write(replace(cluster.submission, submitted=time.time()), cluster.site)
    cluster.record.cancelled.unlink(missing_ok=True)


def resubmit(
    path: Path, config: Mapping[str, Any], site: Mapping[str, Any], progress: Progress, *, why: str, failed: bool
) -> dict[str, list[int]]:
    """Submit what is missing of an experiment that was submitted before; empty if nothing is missing.

    Parameters
    ----------
    config, site : keys to change for good, e.g. more memory.
    failed : also try the recordings again that failed.
    """
    recorded = Cluster.of(path, config, site)
    before = recorded.submission
    submission = replace(before, python=sys.executable)
    cluster = Cluster(recorded.experiment, environment.fill_in(recorded.site), submission)
    write_submission(cluster)
    os.chdir(before.cwd)
    requests = _request_repairs(cluster) if failed else []
    try:
        drafts = cluster.render_arrays(cluster.missing_tasks())
        cluster.check(drafts, progress)
        return cluster.submit(drafts, why, progress) if drafts else {}
    except BaseException:
        for request in requests:
            request.unlink()
        raise


def _request_repairs(cluster: Cluster) -> list[Path]:
    """Request a retry of failures in every feature set that is begun and is not merged without a failure."""
    requests = []
    for name in cluster.experiment.config.extract:
        folder = FeatureDir(cluster.experiment.features(name))
        summary = read_summary(folder)
        if folder.identity.exists() and (summary is None or summary["utterances"]["failed"]):
            request = repair_request(cluster.experiment, name)
            request.parent.mkdir(parents=True, exist_ok=True)
            request.touch()
            requests.append(request)
    cluster.steps = steps_of(
        cluster.experiment, array_sizes(cluster.experiment, cluster.site, cluster.submission.tasks)
    )
    return requests


def cancel(path: Path) -> list[queue.QueuedTask]:
    """Cancel every job of an experiment, and keep those that end from submitting anything.

    Raises
    ------
    SchedulerError : this is not the cluster it was submitted to; ids mean something else here.
    """
    record = Record(path.absolute())
    submission = record.submission()
    here = queue.setting("ClusterName") or ""
    if here != submission.cluster:
        raise SchedulerError(
            f"{path} was submitted to the cluster {submission.cluster}, this is {here}; cancel it from there"
        )
    record.cancelled.touch()
    live = [item for item in record.own(queue.tasks(), submission.token) if item.is_live]
    queue.cancel(sorted({str(item.job) for item in live}))
    return live
