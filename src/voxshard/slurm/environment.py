"""Variables of the user that reach SLURM's commands and job scripts: decided here, once, for all of them.

sbatch, srun, squeue and the other commands read options from the environment. Variables of an earlier allocation (a
terminal that was opened inside a job), of a login script or of another project would change what a script states, or
hide jobs from a query. So the commands are given none of them. What defines who pays and where a job may run is read
from the environment once, at submission, and becomes part of the script and of the record (`fill_in`).

Source: section INPUT ENVIRONMENT VARIABLES of sbatch(1), srun(1), squeue(1), scancel(1), sinfo(1), scontrol(1).
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from voxshard.config import validated
from voxshard.slurm.site import Site

_PREFIXES = ("SLURM_", "SLURMD_", "SRUN_", "SBATCH_", "SALLOC_", "SQUEUE_", "SINFO_", "SCANCEL_", "SCONTROL_", "SACCT_")
_KEPT = ("SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_CLUSTERS", "SLURM_JWT")
"""Variables that determine which controller is reached, and how."""
_OF_ONE_JOB = ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL", "TMPDIR")
"""Set by SLURM and sites for the job they are in; the next one gets its own."""
_COPIED = {
    "SBATCH_ACCOUNT": "account",
    "SBATCH_QOS": "qos",
    "SBATCH_RESERVATION": "reservation",
    "SBATCH_CONSTRAINT": "constraint",
    "SBATCH_WCKEY": "wckey",
}
"""Variable -> option of sbatch that is taken from it where the site's file does not give it."""

SCRIPT_LINES = (
    "for name in ${!SLURM_*} ${!SRUN_*} ${!SBATCH_*}; do  # the options below are given here, not by the environment",
    "  case $name in SLURM_JOB_*|SLURM_JOBID|SLURM_ARRAY_*|SLURM_RESTART_COUNT|SLURM_TMPDIR|SLURM_CLUSTER*"
    '|SLURM_CONF*|SLURM_JWT) ;; *) unset "$name" ;; esac',
    "done",
)
"""Lines of a job script: srun finds what the job was given by its id, and nothing else steers it."""


def for_commands(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the environment in which SLURM's commands are run.

    Inside a job, also without what SLURM set for that job: sbatch would hand it on to the next one.
    """
    of_job = _OF_ONE_JOB if "SLURM_JOB_ID" in environment else ()
    return {
        name: value
        for name, value in environment.items()
        if name in _KEPT or not (name in of_job or name.startswith(_PREFIXES))
    }


def fill_in(site: Site, environment: Mapping[str, str] = os.environ) -> Site:
    """Return the site with the account, QOS, reservation, constraint and wckey that the environment names.

    The site's file and `--set site.KEY` take precedence.
    """
    found = {option: environment[name] for name, option in _COPIED.items() if environment.get(name)}
    account = site.account or found.pop("account", None) if "account" not in site.sbatch else site.account
    found.pop("account", None)
    content = {**site.model_dump(), "account": account, "sbatch": {**found, **site.sbatch}}
    return validated(Site, content, where="the environment's SBATCH_ variables")


def ignored(environment: Mapping[str, str] = os.environ) -> list[str]:
    """Return the names of the variables with which sbatch would have changed the jobs, and which it is not given."""
    return sorted(name for name in environment if name.startswith("SBATCH_") and name not in _COPIED)
