"""Text of a job script: submitit checks the options and writes it, for our own command."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from voxshard.errors import BackendUnavailableError, SchedulerError
from voxshard.slurm.site import Partition


@dataclass(frozen=True)
class Array:
    """One sbatch call: tasks of one step on one partition."""

    step: str
    partition: str
    first: int
    """Index of the task of array element 0."""
    elements: Sequence[int]
    minutes: int
    mem_gb: float | None
    share: Partition
    script: Path
    text: str
    """Script in which `{dependency}` is still a placeholder: see `with_dependency`."""

    @property
    def num_tasks(self) -> int:
        return len(self.elements)

    def with_dependency(self, jobs: Sequence[int]) -> str:
        """Return the script, to start after these jobs have ended."""
        line = f"#SBATCH --dependency=afterany:{':'.join(map(str, jobs))}\n" if jobs else ""
        return self.text.replace(DEPENDENCY_LINE, line)

    def for_reading(self) -> str:
        """Return the script with its dependency in words."""
        return self.text.replace(DEPENDENCY_LINE, "#SBATCH --dependency=afterany:<the jobs it comes after>\n")


DEPENDENCY_LINE = "#SBATCH --dependency=DEPENDENCY\n"


def sbatch_text(folder: Path, parameters: Mapping[str, Any], command: str) -> str:
    """Return the script that submitit would submit with these options, for our command."""
    try:
        import submitit
    except ModuleNotFoundError as exc:
        raise BackendUnavailableError("submitting needs submitit: pip install 'voxshard[slurm]'") from exc
    try:
        executor = submitit.SlurmExecutor(folder=folder)
    except RuntimeError as exc:
        raise SchedulerError(
            "no srun here; submit from a login node of the cluster, or use `voxshard run` for this machine"
        ) from exc
    executor.update_parameters(**{key: value for key, value in parameters.items() if value is not None})
    write = getattr(executor, "_make_submission_file_text", None)  # submitit has no public way to write a script
    if write is None:
        raise BackendUnavailableError(
            f"submitit {submitit.__version__} writes no script text that voxshard knows; "
            "pip install 'voxshard[slurm]' installs a version that does"
        )
    text: str = write(command, uid="")
    kept = [line for line in text.split("\n") if not line.startswith(("#SBATCH --wckey", "export SUBMITIT_EXECUTOR"))]
    return "\n".join(kept).rstrip() + "\n"
