"""Facts of one cluster, from one small file: partitions and their shares, limits, containers, paths, prices."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from voxshard.config import Settings, check_one_line, expanded, load_yaml, merged, validated
from voxshard.errors import ConfigError
from voxshard.experiment.schema import JobOptions, check_precision
from voxshard.locations import AnyLocation, local_copy, parse
from voxshard.runtime.apptainer import Container

PACKAGED = Path(__file__).parent.parent / "sites"
VARIABLE = "VOXSHARD_SITES"


OptionName = Annotated[str, Field(pattern="^[a-zA-Z][a-zA-Z0-9_-]*$")]
OptionValue = str | int | float | bool | None
"""Value of an sbatch option. true: an option without a value; null: omit an option that voxshard gives."""


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class Partition(Settings):
    """Settings of one partition, and the resources that one task gets there."""

    gpus: int = Field(0, ge=0)
    """Number of GPUs of one task."""
    cpus: int = Field(1, ge=1)
    """Number of cores of one task."""
    mem_gb: float | None = Field(default=None, gt=0)
    """Memory of one task in GB; null: the cluster's default (on many sites asking for more bills more)."""
    max_minutes: int | None = Field(default=None, ge=1)
    """Maximum time limit, in minutes."""
    units_per_hour: float | None = Field(default=None, ge=0)
    """Price of one task per hour, in the site's `unit`."""
    options: dict[OptionName, OptionValue] = Field(default_factory=dict)
    """Further sbatch options, e.g. `{qos: preempt, gres: "gpu:a100:1"}`; `gres` takes the place of the GPU request."""

    def times(self, count: int) -> Partition:
        """Return several shares as one, for a task that needs as many."""
        if count == 1:
            return self
        options = dict(self.options)
        if "gres" in options:
            options["gres"] = ",".join(_times(item, count) for item in str(options["gres"]).split(","))
        return self.model_copy(
            update={
                "gpus": count * self.gpus,
                "cpus": count * self.cpus,
                "mem_gb": None if self.mem_gb is None else count * self.mem_gb,
                "units_per_hour": None if self.units_per_hour is None else count * self.units_per_hour,
                "options": options,
            }
        )


def _times(gres: str, count: int) -> str:
    """Return `gpu`, `gpu:2`, `gpu:a100` or `gpu:a100:2` with `count` times as many; other resources unchanged."""
    if gres.partition(":")[0] != "gpu":
        return gres
    kind, _, number = gres.rpartition(":")
    return f"{kind}:{count * int(number)}" if number.isdigit() else f"{gres}:{count}"


class Paths(Settings):
    """Folders of storage on a cluster."""

    scratch: str | None = None
    """Folder of fast shared storage; `$NAME` is left to the shell."""
    scratch_purge_days: int | None = Field(default=None, ge=1)
    """Age in days at which files there are removed."""
    local: str | None = None
    """Folder on the node itself."""
    quota_command: tuple[str, ...] = ()
    """Command that prints the user's quota."""


class Site(Settings):
    """Settings of a cluster."""

    name: str
    scheduler: Literal["slurm", "none"] = "slurm"
    """Scheduler of the cluster; none: no SLURM, use `voxshard run`."""
    account: str | None = None
    """Account to bill; null: the user's default."""
    unit: str = "units"
    """Name of what is billed."""
    partitions: dict[str, Partition] = Field(default_factory=dict)
    """Partitions by name."""
    stages: dict[str, JobOptions] = Field(default_factory=dict)
    """Stage -> partitions, time and number of tasks, unless the experiment's `jobs` states otherwise. `extract_cpu` is
    for encoders without a framework; `networks` (as `extract`, if it has no entry) for training networks; `publish`
    needs a partition with a network; `default` for whatever has no entry."""
    max_array_size: int | Literal["ask"] = "ask"
    """SLURM's MaxArraySize; ask: read it from the controller."""
    max_submitted: int | None = Field(default=None, ge=1)
    """Maximum number of array elements that a user may have in the queue."""
    throttle: int | None = Field(default=None, ge=1)
    """Maximum number of tasks of one array that run at the same time."""
    signal: str = "USR2"
    """Signal that is sent before the time limit."""
    signal_delay_s: int = Field(180, ge=1)
    """Seconds before the time limit at which the signal is sent; longer than a batch takes. SLURM may be a minute
    early."""
    requeue: bool = True
    """Whether tasks that were asked to stop requeue themselves."""
    max_requeues: int = Field(20, ge=0)
    """Maximum number of requeues of one task in one attempt."""
    max_attempts: int = Field(3, ge=1)
    """Maximum number of times that missing tasks of a step are submitted before a user must act."""
    srun_cpus: bool = True
    """Pass --cpus-per-task to srun too (SLURM 22.05 to 23.02 do not hand it on)."""
    setup: tuple[str, ...] = ()
    """Shell lines at the start of every job, e.g. `module load ...`."""
    sbatch: dict[OptionName, OptionValue] = Field(default_factory=dict)
    """Further sbatch options of every job."""
    container: Container = Container()
    paths: Paths = Paths()
    network: Annotated[tuple[str, ...], BeforeValidator(_as_list)] = ()
    """Where the internet can be reached: login, compute."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_one_line(self.model_dump())
        if self.scheduler == "none":
            return self
        if not self.partitions:
            raise ValueError("partitions: name at least one, or scheduler: none")
        stages = (
            "prepare",
            "extract",
            "extract_cpu",
            "merge",
            "train",
            "networks",
            "evaluate",
            "report",
            "publish",
            "default",
        )
        unknown = sorted(set(self.stages) - set(stages))
        if unknown:
            raise ValueError(f"stages: unknown {', '.join(unknown)}; available: {', '.join(stages)}")
        check_precision(self.stages, "stages")
        for stage in stages[:-1]:
            self.check_partitions(self.options(stage).partitions or (), f"stages.{stage}")
        return self

    def options(self, stage: str) -> JobOptions:
        """Return what jobs of a stage request; a stage without partitions gets the site's first."""
        base = self.stages.get("default", JobOptions()).model_dump(exclude_none=True)
        alike = "extract" if stage in ("extract_cpu", "networks") else stage
        own = self.stages.get(stage) or self.stages.get(alike)
        found = JobOptions(**{**base, **(own or JobOptions()).model_dump(exclude_none=True)})
        if found.partitions or not self.partitions:
            return found
        return found.model_copy(update={"partitions": (next(iter(self.partitions)),)})

    def check_partitions(self, names: tuple[str, ...], where: str) -> None:
        """Raise ValueError unless the site has these partitions."""
        unknown = sorted(set(names) - set(self.partitions))
        if unknown:
            raise ValueError(
                f"{where}: site {self.name} has no partition {', '.join(unknown)}; "
                f"available: {', '.join(self.partitions)}"
            )


def _folders() -> list[Path]:
    """Return the folders of site files, in the order in which they are searched."""
    return [*map(Path, filter(None, os.environ.get(VARIABLE, "").split(os.pathsep))), Path("configs/sites"), PACKAGED]


def names() -> list[str]:
    """Return the names of the available sites."""
    return sorted({path.stem for folder in _folders() for path in folder.glob("*.yaml")} - {"template"})


def find(name: str) -> AnyLocation:
    """Return the file of a site: a path, else `NAME.yaml` in $VOXSHARD_SITES, ./configs/sites, or the package.

    Raises
    ------
    ConfigError : there is none; names those there are.
    """
    if "/" in name or name.endswith((".yaml", ".yml")):
        return parse(name)
    for folder in (folders := _folders()):
        if (path := folder / f"{name}.yaml").is_file():
            return path
    raise ConfigError(
        f"--site {name}: no {name}.yaml in {', '.join(map(str, folders))}; available: {', '.join(names())}. "
        "For a new cluster copy template.yaml, or give a path"
    )


def expanded_overrides(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Replace variables in `--set site.KEY` options by their values, except in the shell lines of `setup`."""
    shell = {key: value for key, value in overrides.items() if key == "setup"}
    others = {key: value for key, value in overrides.items() if key not in shell}
    return {**expanded(others, where="--set site"), **shell}


def load(name: str, overrides: dict[str, Any] | None = None) -> Site:
    """Read and check a site.

    Parameters
    ----------
    name : see `find`.
    overrides : keys to replace (`--set site.KEY=...`).
    """
    path = find(name)
    given = expanded_overrides(overrides or {})
    content = {"name": PurePath(str(path)).stem, **load_yaml(local_copy(path), where=str(path))}
    return validated(Site, merged(content, given), where=str(path))
