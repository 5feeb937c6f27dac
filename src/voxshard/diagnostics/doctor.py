"""Checks before a GPU hour is spent: each reports PASS, WARN or FAIL, and the remedy."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from voxshard import __version__
from voxshard.encoders import registry
from voxshard.errors import BackendUnavailableError, VoxshardError
from voxshard.experiment.experiment import Experiment
from voxshard.experiment.schema import PRETRAINED, ExperimentConfig
from voxshard.extraction.encode import BATCH_SECONDS
from voxshard.files import existing_part, quoted
from voxshard.learning.network_config import NetworkConfig
from voxshard.learning.tracking import EXTRAS, check_wandb_mode
from voxshard.locations import check_output
from voxshard.progress import counted
from voxshard.runtime import apptainer, gpus, runtime
from voxshard.runtime.binds import RequiredPath
from voxshard.slurm import queue, sbatch
from voxshard.slurm.site import Site
from voxshard.slurm.submit import Cluster
from voxshard.store.layout import FeatureDir, Identity
from voxshard.weights import check as weights_check

MIN_FREE_BYTES = 10 << 30
MIN_FREE_FILES = 10_000
Verdict = Literal["PASS", "WARN", "FAIL"]
_IMAGES = "see docs/images.md"
_PROBE = """\
import importlib.util, os, sys, voxshard
end = sys.argv.index("--")
print(voxshard.__version__)
for path in sys.argv[1:end]:
    if not os.access(path, os.R_OK):
        print("unreadable", path)
given = [os.path.abspath(entry) for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
for name in sys.argv[end + 1:]:
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        print("missing", name)
    elif any(os.path.abspath(spec.origin).startswith(entry + os.sep) for entry in given):
        print("shadowed", name, spec.origin)
"""
"""Arguments: paths that are read, `--`, packages that are imported."""


@dataclass(frozen=True)
class Finding:
    """Result of one check."""

    name: str
    verdict: Verdict
    what: str
    remedy: str = ""


def check_site(site: Site) -> Iterator[Finding]:
    """Check the cluster itself, without an experiment."""
    if site.scheduler == "none":
        yield Finding("scheduler", "PASS", f"site {site.name} has no SLURM: use `voxshard run`")
        return
    yield _submitit()
    yield from _slurm(site)
    yield _container(site)
    yield from _driver()
    yield from _gpu_memory()
    yield from _binds(site)
    yield from _quota(site)
    where = ", ".join(site.network) or "nowhere"
    verdict: Verdict = "PASS" if site.network else "WARN"
    yield Finding("network", verdict, f"the internet is reached from: {where}; jobs read weights from disk",
                  "" if site.network else "bring weights here by other ways, see docs/offline-workflow.md")  # fmt: skip


def check_experiment(cluster: Cluster) -> Iterator[Finding]:
    """Check an experiment on a site: whether SLURM would accept its jobs, and whether all their inputs exist."""
    yield from check_runtimes(cluster.experiment)
    yield from check_weights(cluster.experiment)
    yield from check_folders()
    yield from _storage(cluster.experiment.path, cluster.site)
    yield from check_publishing(cluster.experiment.config)
    if cluster.site.scheduler == "slurm" and queue.is_available() and find_spec("submitit"):
        yield from _jobs(cluster)


def check_runtimes(experiment: Experiment) -> Iterator[Finding]:
    """Whether each runtime starts, has this version, and the packages of the stages that run in it; and whether what a
    training is logged to can be used."""
    yield from _trackers(experiment.config)
    for name in experiment.runtimes():
        if runtime.image_of(name) is None:
            remedy = "make it, or name another under runtime"
            yield from _checked(experiment, name, [], remedy, "install the same version in both")
    yield from check_images(experiment)


def check_images(experiment: Experiment) -> Iterator[Finding]:
    """Check that each image starts, has this version and these packages, and is shown what its stages read."""
    for name in experiment.runtimes():
        if runtime.image_of(name) is not None:
            try:
                needs = _needs(experiment, name)
            except VoxshardError as exc:
                yield Finding(f"runtime {name}", "FAIL", str(exc), _IMAGES)
                continue
            yield from _checked(experiment, name, needs, _IMAGES, "build the image again, see docs/images.md")


def _checked(
    experiment: Experiment, name: str, needs: Sequence[RequiredPath], absent: str, other: str
) -> Iterator[Finding]:
    """Start one runtime and check it. `absent` and `other` are the remedies if it is missing or of another version."""
    where, packages = f"runtime {name}", _packages(experiment, name)
    try:
        found = runtime.command(name, [*(str(need.path) for need in needs), "--", *packages], program=("-c", _PROBE),
                                needs=needs, site=experiment.images)  # fmt: skip
        done = subprocess.run(found.words, env={**os.environ, **found.environment}, capture_output=True, text=True,
                              timeout=120, check=False)  # fmt: skip
    except (VoxshardError, OSError, subprocess.TimeoutExpired) as exc:
        yield Finding(where, "FAIL", str(exc), absent)
        return
    version, *problems = done.stdout.splitlines() or [""]
    answers = {kind: [line.partition(" ")[2] for line in problems if line.startswith(f"{kind} ")]
            for kind in ("unreadable", "missing", "shadowed")}  # fmt: skip
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        remedy = "install voxshard there" if runtime.image_of(name) is None else absent
        yield Finding(where, "FAIL", f"does not start voxshard: {last}", remedy)
    elif version != __version__:
        yield Finding(where, "FAIL", f"holds voxshard {version}, this is {__version__}", other)
    elif answers["unreadable"]:
        what = ", ".join(f"{need.path} ({need.what})" for need in needs if str(need.path) in answers["unreadable"])
        yield Finding(where, "FAIL", f"cannot read {what}", "fix its permissions, or the site's container.options")
    elif answers["missing"]:
        what = ", ".join(f"{package} ({packages[package]})" for package in answers["missing"])
        yield Finding(where, "FAIL", f"lacks {what}", "install it there, or leave out what needs it")
    else:
        yield Finding(where, "PASS", f"voxshard {version}")
    for item in answers["shadowed"]:
        package, _, origin = item.partition(" ")
        yield Finding(f"{where}: PYTHONPATH", "WARN", f"{package} is imported from {origin}, not from the runtime",
                      "unset PYTHONPATH, unless that is intended")  # fmt: skip


def _trackers(config: ExperimentConfig) -> Iterator[Finding]:
    """Check that Weights & Biases accepts `WANDB_MODE`."""
    if any("wandb" in item.trackers for item in (config.train, *config.networks.values()) if item):
        try:
            check_wandb_mode()
        except VoxshardError as exc:
            yield Finding("wandb", "FAIL", str(exc), "see https://docs.wandb.ai, environment variables")


def _packages(experiment: Experiment, name: str) -> dict[str, str]:
    """Return the packages that the stages in one runtime need, and for each what needs it."""
    config = experiment.config
    found: dict[str, str] = {}
    for feature, section in config.extract.items():
        if experiment.runtime(feature) == name:
            spec = registry.spec_of(section.encoder["name"])
            packages = spec.requires if spec.alternative is None else ()  # its weights decide which one it takes
            found |= dict.fromkeys(packages or (), f"encoder {section.encoder['name']}")
    for network in config.networks.values():
        if (network.runtime or config.runtime) == name:
            found |= dict.fromkeys(("torch", "lightning"), "networks")
            found |= {tracker: "networks.log" for tracker in network.trackers if tracker in EXTRAS}
    if name == config.runtime:
        if config.train:
            found |= dict.fromkeys(("sklearn", "skops"), "train")
            found |= {"wandb": "train.wandb"} if config.train.wandb else {}
        found |= dict.fromkeys(("jinja2", "matplotlib"), "report")
    return found


def check_folders() -> Iterator[Finding]:
    """Check that the folders for caches and temporary files that variables name exist."""
    for variable, path in apptainer.absent_folders():
        yield Finding(f"${variable}", "WARN", f"{path} does not exist on {os.uname().nodename}",
                      f"make it (mkdir -p {quoted(path)}), or unset {variable}")  # fmt: skip


def _needs(experiment: Experiment, name: str) -> list[RequiredPath]:
    """Return what extractions and trainings of networks in one runtime read."""
    sets = [feature for feature in experiment.config.extract if experiment.runtime(feature) == name]
    weights = [need for feature in sets for need in experiment.weights(feature)]
    trained = [experiment.named_paths(training) for training, where in experiment.trainings() if where == name]
    return [*experiment.audio(), *weights, *(need for needs in trained for need in needs)]


def check_weights(experiment: Experiment, *, read: bool = True) -> Iterator[Finding]:
    """Check that each encoder's weights exist; with `read`, compare every file with its known digest."""
    for name, encoder, given, identity in _encoders_with_weights(experiment):
        result = weights_check.check(encoder, given, identity, read=read)
        yield Finding(f"weights {name}", result.verdict, result.message, result.remedy)


def _encoders_with_weights(experiment: Experiment) -> Iterator[tuple[str, str, str | None, Identity | None]]:
    """Yield name, encoder, its setting `weights`, and the identity of the feature set that it makes: of extractions,
    and of networks that start from an encoder's weights."""
    for name, section in experiment.config.extract.items():
        if registry.has_weights(section.encoder["name"]):
            path = FeatureDir(experiment.features(name)).identity
            identity = Identity.read(path) if path.exists() else None
            yield name, section.encoder["name"], section.encoder.get("weights"), identity
    for training, _ in experiment.trainings():
        if isinstance(training, NetworkConfig) and training.network in PRETRAINED:
            yield training.out.name, PRETRAINED[training.network], training.settings.get("weights"), None


def _driver() -> Iterator[Finding]:
    """Compare this node's NVIDIA driver with what the locked wheels need; nothing if there is no driver."""
    found = gpus.driver_version()
    if found is None:
        return
    for framework, least in gpus.MIN_DRIVERS.items():
        if int(found.partition(".")[0]) >= least:
            yield Finding(f"driver for {framework}", "PASS", f"{found}, needs {least} or newer")
        else:
            yield Finding(
                f"driver for {framework}",
                "WARN",
                f"{found}; the locked {framework} needs {least} or newer and will not see this node's GPUs",
                "use a partition with a newer driver, ask the site, or install an older build (docs/gpu.md)",
            )


def _gpu_memory() -> Iterator[Finding]:
    """Compare the memory of this node's GPUs, or of their MIG slices, with what a batch of default size needs."""
    for size_gb in sorted({round(gpu.memory_gb, 1) for gpu in gpus.listed_gpus() if gpu.memory_gb}):
        what = f"a GPU or slice here has {size_gb:g} GB; batches of {BATCH_SECONDS['cuda']:g} s need {gpus.ROOMY_GB:g}"
        if size_gb >= gpus.ROOMY_GB:
            yield Finding("GPU memory", "PASS", what)
        else:
            yield Finding("GPU memory", "WARN", f"{what}: they do not fit and are split, again and again",
                          "give batch_seconds (--batch-seconds 80), see docs/gpu.md")  # fmt: skip


def _submitit() -> Finding:
    if find_spec("submitit") is None:
        return Finding("submitit", "FAIL", "not installed", "pip install 'voxshard[slurm]'")
    return Finding("submitit", "PASS", "installed")


def _slurm(site: Site) -> Iterator[Finding]:
    if not queue.is_available():
        yield Finding("slurm", "FAIL", "no sbatch on PATH", "log in to the cluster, or load its SLURM module")
        return
    try:
        cluster = queue.setting("ClusterName")
        limit = queue.setting("MaxArraySize")
    except VoxshardError as exc:
        yield Finding("slurm", "FAIL", str(exc), "is the controller up? `scontrol ping`")
        return
    yield Finding("slurm", "PASS", f"cluster {cluster}, MaxArraySize {limit}")
    known = {line.rstrip("*") for line in queue.call(["sinfo", "-h", "-o", "%R"]).split()}
    for name, share in site.partitions.items():
        real = share.options.get("partition", name)
        if real is not None and real not in known:
            yield Finding(f"partition {name}", "FAIL", f"SLURM has no {real}; it has {', '.join(sorted(known))}",
                          f"correct partitions in the file of site {site.name}")  # fmt: skip
        else:
            yield from _probe(site, name)


def _probe(site: Site, name: str) -> Iterator[Finding]:
    """Ask SLURM whether it would accept a job of this size, with this account and the longest time limit."""
    share = site.partitions[name]
    options = {"partition": name, "account": site.account, "time": share.max_minutes, "cpus-per-task": share.cpus,
               "gpus-per-node": share.gpus or None, "mem": f"{round(share.mem_gb * 1024)}M" if share.mem_gb else None,
               **site.sbatch, **share.options}  # fmt: skip
    words = [f"--{key}" if value is True else f"--{key}={value}" for key, value in options.items() if value is not None]
    with tempfile.NamedTemporaryFile("w", suffix=".sh") as script:
        script.write("#!/bin/sh\ntrue\n")
        script.flush()
        refused = sbatch.refusal([*words, script.name], str(options["partition"]) if options["partition"] else None)
    if refused is not None and refused[1]:
        yield Finding(f"partition {name}", "WARN", f"no node that fits is available now: {refused[0]}",
                      "jobs are accepted and wait until one is; see `sinfo`")  # fmt: skip
        return
    if refused is not None:
        yield Finding(f"partition {name}", "FAIL", refused[0],
                      "fix the share, limits or account of the site (--set site.account=...)")  # fmt: skip
        return
    yield Finding(f"partition {name}", "PASS", " ".join(words))


def _container(site: Site) -> Finding:
    try:
        program = apptainer.program_of(site.container)
    except VoxshardError as exc:
        return Finding("images", "WARN", str(exc), "needed by stages with runtime image:PATH only")
    flags = apptainer.gpu_flags(site.container)
    return Finding("images", "PASS", f"{shutil.which(program)}, {' '.join(flags) or 'no GPU here'}")


def _binds(site: Site) -> Iterator[Finding]:
    for place in site.container.binds:
        if not Path(place).exists():
            yield Finding(f"bind {place}", "FAIL", "does not exist: a container that binds it does not start",
                          f"fix container.binds in the file of site {site.name}")  # fmt: skip
    if site.container.binds and all(Path(place).exists() for place in site.container.binds):
        yield Finding("binds", "PASS", ", ".join(site.container.binds))


def _quota(site: Site) -> Iterator[Finding]:
    command = site.paths.quota_command
    if not command:
        return
    if shutil.which(command[0]) is None:
        yield Finding("quota", "FAIL", f"no {command[0]} here", "fix paths.quota_command of the site")
        return
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    verdict: Verdict = "PASS" if done.returncode == 0 else "WARN"
    yield Finding("quota", verdict, " ".join(done.stdout.split())[:200] or "printed nothing")


def _storage(path: Path, site: Site) -> Iterator[Finding]:
    place = existing_part(path)
    if not os.access(place, os.W_OK):
        yield Finding("storage", "FAIL", f"{place} cannot be written", "give another `out`")
        return
    free = os.statvfs(place)
    num_bytes, num_files = free.f_bavail * free.f_frsize, free.f_favail
    few_files = bool(free.f_files) and num_files < MIN_FREE_FILES
    text = f"{place}: {num_bytes / 1e9:,.1f} GB and {num_files:,} files free"
    if num_bytes < MIN_FREE_BYTES or few_files:
        yield Finding("storage", "FAIL", text, "free some, or give another `out`")
    else:
        yield Finding("storage", "PASS", text)
    scratch, days = site.paths.scratch, site.paths.scratch_purge_days
    if scratch and days and path.absolute().is_relative_to(scratch):
        yield Finding("purge", "WARN", f"{scratch} is purged of files older than {days} days",
                      "copy what is finished to other storage")  # fmt: skip


def check_publishing(config: ExperimentConfig) -> Iterator[Finding]:
    """Check that the bucket to which an experiment is published answers."""
    if config.publish is None:
        return
    try:
        check_output(config.publish)
    except VoxshardError as exc:
        is_elsewhere = isinstance(exc, BackendUnavailableError) and runtime.split(config.runtime)[0] != "here"
        yield Finding("publish", "WARN" if is_elsewhere else "FAIL", str(exc), "correct `publish`; see docs/buckets.md")
    else:
        yield Finding("publish", "PASS", f"{config.publish}: its bucket answers")


def _jobs(cluster: Cluster) -> Iterator[Finding]:
    try:
        arrays = [array for found in cluster.render_arrays(cluster.missing_tasks()).values() for array in found]
    except VoxshardError as exc:
        yield Finding("jobs", "FAIL", str(exc), "fix the config's `jobs` or the site")
        return
    total = sum(array.num_tasks for array in arrays)
    limit = cluster.site.max_submitted
    if limit is not None and total > limit:
        yield Finding("jobs", "FAIL", f"{total} tasks, the site lets a user queue {limit}",
                      "fewer: --set jobs.extract.tasks=N, or fewer trainings in the grid")  # fmt: skip
    else:
        yield Finding("jobs", "PASS", f"{counted(total, 'task')} in {counted(len(arrays), 'array')}")


def require(findings: Iterator[Finding], error: Callable[[str], VoxshardError]) -> None:
    """Raise for the first FAIL."""
    for finding in findings:
        if finding.verdict == "FAIL":
            raise error(f"{finding.name}: {finding.what}; {finding.remedy}")
