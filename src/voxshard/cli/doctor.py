"""`voxshard doctor`: find problems before a job is submitted."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import click

from voxshard.cli.options import OUTPUT, NameType, echo, set_option
from voxshard.config import parse_assignments
from voxshard.diagnostics import doctor
from voxshard.errors import ConfigError, EnvironmentProblemError
from voxshard.experiment.default_precision import with_precision
from voxshard.experiment.experiment import Experiment
from voxshard.experiment.schema import load
from voxshard.locations import AnyLocation
from voxshard.slurm import environment
from voxshard.slurm import site as sites
from voxshard.slurm.record import Submission
from voxshard.slurm.submit import Cluster


@click.command()
@click.argument("config", type=OUTPUT, required=False)
@click.option(
    "--site",
    type=NameType(sites.names),
    envvar="VOXSHARD_SITE",
    metavar="NAME",
    help="The cluster, as for submit.  [default: local]",
)
@set_option
def command(config: AnyLocation | None, site: str | None, assignments: tuple[str, ...]) -> None:
    """Check the cluster, and with CONFIG an experiment on it; print PASS, WARN or FAIL, and the remedy.

    SLURM, partitions, account and limits, runtimes and their version, weights, binds, free space and files, quota,
    purges, network. Exit code 4 if anything fails.
    """
    overrides = parse_assignments(assignments)
    facts = environment.fill_in(sites.load(site or "local", overrides.pop("site", {})))
    if config is None and overrides:
        raise ConfigError("--set: without a CONFIG only site.KEY=VALUE can be set")
    findings = list(doctor.check_site(facts))
    if config is not None:
        experiment = Experiment(with_precision(load(config, overrides), facts.options("extract")))
        draft = Submission("", "", os.fspath(Path.cwd()), sys.executable, time.time())
        findings += doctor.check_experiment(Cluster(experiment, facts, draft))
    for finding in findings:
        echo(f"{finding.verdict}  {finding.name}: {finding.what}")
        if finding.verdict != "PASS" and finding.remedy:
            echo(f"      {finding.remedy}")
    failed = sum(finding.verdict == "FAIL" for finding in findings)
    if failed:
        raise EnvironmentProblemError(f"doctor: {failed} of {len(findings)} checks failed")
