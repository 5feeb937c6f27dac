"""`voxshard demo`: run a complete experiment on a synthetic corpus."""

from __future__ import annotations

from importlib.resources import files as package_files
from pathlib import Path

import click

from voxshard import demo, files
from voxshard.cli.options import PATH, echo_info, stage_task
from voxshard.demo.corpus import write_corpus
from voxshard.errors import VoxshardError
from voxshard.experiment.experiment import Experiment
from voxshard.experiment.run import run_experiment
from voxshard.experiment.schema import load
from voxshard.progress import Progress
from voxshard.slurm import site as sites
from voxshard.weights import catalogue, fetch


@click.command()
@click.argument("folder", type=PATH, default="demo")
def command(folder: Path) -> None:
    """Make a small corpus of synthetic speech in FOLDER, extract features, train classifiers and write a report.

    It takes about two minutes on two cores, and neither a GPU nor a framework. FOLDER is ./demo by default;
    FOLDER/demo.yaml is the config to change and to run again. The pretrained speaker encoder ge2e takes part if pip can
    download it from the package index.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "demo.yaml"
    with stage_task() as task:
        write_corpus(folder / "corpus", task.progress)
        if not config.exists():
            files.publish_bytes(config, _config(folder, task.progress).encode())
        experiment = Experiment(load(config, {}), sites.load("local").container)
        report = run_experiment(experiment, task.stop, task.progress)
    echo_info(f"done; open {report} in a browser. Next, change {config} and type: voxshard run {files.quoted(config)}")


def _config(folder: Path, progress: Progress) -> str:
    """Return the experiment's YAML, with ge2e if its weights exist here or can be downloaded."""
    text = (package_files(demo) / "demo.yaml").read_text().replace("FOLDER", folder.as_posix())
    try:
        weights = fetch.fetch(catalogue.weight_set("ge2e"), folder / "weights", progress=progress)
    except VoxshardError as exc:
        progress.note(f"{exc}; the demo continues without the pretrained encoder ge2e")
        return text
    encoder = f"  ge2e:\n    encoder: {{name: ge2e, weights: {weights.as_posix()}}}\n"
    return text.replace("\ntrain:\n", f"{encoder}\ntrain:\n").replace("[mfcc, lfcc]", "[mfcc, lfcc, ge2e]")
