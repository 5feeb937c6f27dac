"""`voxshard submit`: submit every stage of a config as SLURM jobs."""

from __future__ import annotations

import click

from voxshard.cli.options import OUTPUT, NameType, echo, echo_info, set_option
from voxshard.config import parse_assignments
from voxshard.diagnostics import doctor
from voxshard.errors import EnvironmentProblemError, MissingWeightsError
from voxshard.experiment.buckets import check_buckets
from voxshard.experiment.default_precision import with_precision
from voxshard.experiment.experiment import Experiment
from voxshard.experiment.schema import load
from voxshard.files import quoted
from voxshard.locations import AnyLocation
from voxshard.progress_display import progress_display
from voxshard.slurm import environment, submit, task_count
from voxshard.slurm import site as sites
from voxshard.slurm.estimate import estimate, lines_of


@click.command()
@click.argument("config", type=OUTPUT)
@click.option("--site", type=NameType(sites.names), envvar="VOXSHARD_SITE", required=True, metavar="NAME",
              help="The cluster: a name (configs/sites/NAME.yaml) or a path; also $VOXSHARD_SITE.")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Print every script and what it would cost; submit nothing.")
@set_option
def command(config: AnyLocation, site: str, dry_run: bool, assignments: tuple[str, ...]) -> None:
    """Submit every stage of CONFIG as array jobs that start one after the other, and return.

    Nothing has to stay open: the jobs themselves submit again what a lost node or a time limit left undone. Finished
    steps are skipped. Keys of the config can be changed with --set, keys of the site with --set site.KEY=VALUE.

    An extraction gets as many tasks as the site's file allows, or fewer, so that starting stays under 2 % of their
    time, where that is known; jobs.extract.tasks, or jobs.extract-NAME.tasks for one of several, is used as given.

    \b
      voxshard submit configs/spoof.yaml --site snellius --dry-run
      voxshard submit configs/spoof.yaml --site snellius --set jobs.extract.tasks=16 --set site.account=NAME
    """
    overrides = parse_assignments(assignments)
    facts = environment.fill_in(sites.load(site, overrides.pop("site", {})))
    if names := environment.ignored():
        echo_info(f"ignored, the site's file and --set decide: {', '.join(names)}")
    experiment = Experiment(with_precision(load(config, overrides), facts.options("extract")))
    experiment, submission = submit.new_submission(experiment, facts)
    cluster = submit.Cluster(experiment, facts, submission)
    if dry_run:
        _show(cluster)
        return
    check_buckets(experiment.config)
    doctor.require(doctor.check_runtimes(cluster.experiment), EnvironmentProblemError)
    doctor.require(doctor.check_weights(experiment, read=False), MissingWeightsError)
    cluster, choices = task_count.fitted(cluster, task_count.known_work(cluster))
    for choice in choices:
        if choice.is_fewer:
            echo_info(choice.line())
    drafts = cluster.render_arrays(cluster.missing_tasks())
    with progress_display() as progress:
        cluster.check(drafts, progress)
        submit.write_submission(cluster)
        if not drafts:
            echo_info(f"everything is done; the report is {experiment.report}")
            return
        cluster.submit(drafts, "voxshard submit", progress)
    echo_info(f"submitted; next: voxshard status {quoted(experiment.path)}")


def _show(cluster: submit.Cluster) -> None:
    """Print the scripts to stdout and the costs to stderr."""
    with progress_display() as progress:
        works = task_count.known_work(cluster, progress)
    cluster, choices = task_count.fitted(cluster, works)
    drafts = cluster.render_arrays(cluster.missing_tasks())
    for arrays in drafts.values():
        for array in arrays:
            echo(f"# {array.script}\n{array.for_reading()}")
    for name, arrays in drafts.items():
        if cluster.steps[name].stage == "extract":
            found = estimate(cluster, cluster.steps[name], arrays, works[name])
            for line in lines_of(found, cluster.site.unit, cluster.site.paths.quota_command):
                echo_info(line)
    for choice in choices:
        if choice.is_notable:
            echo_info(choice.line())
    if not drafts:
        echo_info("everything is done")
