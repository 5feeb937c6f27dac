"""`voxshard run`: run every stage of a config on this machine."""

from __future__ import annotations

import click

from voxshard.cli.options import OUTPUT, NameType, echo_info, set_option, stage_task
from voxshard.config import parse_assignments
from voxshard.diagnostics import doctor
from voxshard.errors import EnvironmentProblemError
from voxshard.experiment.buckets import check_buckets
from voxshard.experiment.default_precision import with_precision
from voxshard.experiment.experiment import Experiment
from voxshard.experiment.run import run_experiment
from voxshard.experiment.schema import load
from voxshard.locations import AnyLocation
from voxshard.slurm import site as sites


@click.command()
@click.argument("config", type=OUTPUT)
@click.option("--site", type=NameType(sites.names), envvar="VOXSHARD_SITE", default="local", metavar="NAME",
              show_default=True, help="The site whose settings for images are used; also $VOXSHARD_SITE.")  # fmt: skip
@set_option
def command(config: AnyLocation, site: str, assignments: tuple[str, ...]) -> None:
    """Run every stage of CONFIG on this machine: prepare, extract, merge, train, evaluate, report.

    Finished work is skipped, so the same command continues after a kill. Keys of the config can be changed with --set,
    e.g. --set out=trial --set prepare.limit=100 --set extract.mfcc.encoder.pooling=mean.
    """
    overrides = parse_assignments(assignments)
    facts = sites.load(site, overrides.pop("site", {}))
    experiment = Experiment(with_precision(load(config, overrides), facts.options("extract")), facts.container)
    check_buckets(experiment.config)
    doctor.require(doctor.check_runtimes(experiment), EnvironmentProblemError)
    with stage_task() as task:
        report = run_experiment(experiment, task.stop, task.progress)
    echo_info(f"done; the report is {report}")
