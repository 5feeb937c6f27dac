"""`voxshard train`: fit a classifier on features, or a network from audio or from a stored spectrogram."""

from __future__ import annotations

from typing import Any, get_args

import click

from voxshard.cli.evaluate import results_table
from voxshard.cli.options import (
    INPUT,
    OUTPUT,
    NameType,
    config_option,
    echo,
    echo_info,
    names_on_command_line,
    next_step,
    set_option,
    stage_task,
)
from voxshard.config import load_yaml, merged, parse_assignments, validated
from voxshard.errors import ConfigError
from voxshard.files import quoted
from voxshard.learning.network_config import SET_KEYS, NetworkConfig
from voxshard.learning.tracking import Tracker
from voxshard.learning.train_config import NAMES, TrainConfig
from voxshard.locations import AnyLocation, local_copy, origin
from voxshard.networks.settings import NAMES as NETWORKS
from voxshard.stages.train import run
from voxshard.store.runs import Run


@click.command()
@click.argument("features", nargs=-1, type=INPUT, metavar="DIR...|MANIFEST")
@click.option("--label", multiple=True, help="Column to predict; several yes-or-no columns: give it again, or a,b.")
@click.option(
    "--classifier", type=NameType(lambda: NAMES), metavar="NAME", help=f"On features: one of {', '.join(NAMES)}."
)
@click.option(
    "--network", type=NameType(lambda: NETWORKS), metavar="NAME", help=f"Train a network: one of {', '.join(NETWORKS)}."
)
@click.option("--out", type=OUTPUT, help="Run directory to write.")
@click.option("--split", help="Split to train on; by default train.")
@click.option("--folds", metavar="COL", help="Cross-validate: test each value of this column (fold, speaker) in turn.")
@click.option("--n-shot", metavar="K[,K...]", help="Train on K examples per class; several numbers give a curve.")
@click.option("--runs", type=click.IntRange(1), help="Number of draws of examples for each K.  [default: 5]")
@click.option("--seed", type=click.IntRange(0), help="Seed of the classifier, of draws and of intervals.  [default: 0]")
@click.option(
    "--wandb", is_flag=True, default=None, help="Log to Weights & Biases too; offline if it cannot be reached."
)
@click.option(
    "--log",
    multiple=True,
    type=click.Choice(get_args(Tracker)),
    help="Of a network: log every epoch there; give it again for several.",
)
@set_option
@config_option
def command(
    features: tuple[AnyLocation, ...],
    label: tuple[str, ...],
    n_shot: str | None,
    log: tuple[str, ...],
    assignments: tuple[str, ...],
    config_file: AnyLocation | None,
    **options: Any,
) -> None:
    """Fit a classifier on the features in DIR, or a network on the recordings of MANIFEST, and test it.

    Networks on spectrograms also take a DIR of the encoder logmel.

    It is tested on every other split that has labels.

    Several DIR are joined by utterance_id. Frames and windows are classified one by one; decisions are combined per
    recording (`join`). Settings of preprocessing (standardize, pca, whiten, l2) and of the classifier go into --set; by
    default the features are not changed. For a network, keys such as training.epochs=20, augment.gain=6,
    clip.max_seconds=2 set a section; other keys are settings of the network. A training of a network that was stopped
    continues when the same command is run again.

    \b
      voxshard train features/mfcc --label digit --classifier logistic --out runs/digits --set standardize=true
      voxshard train features/vggish --label genre --classifier svm --set pca=128 --set whiten=true --out runs/genre
      voxshard train features/wavlm --label label --classifier mlp --n-shot 1,2,5,10,20 --out runs/few
      voxshard train manifest.parquet --label speaker --network ecapa --out runs/ecapa --set training.epochs=20
    """
    values: dict[str, Any] = {key: value for key, value in options.items() if value is not None}
    if label:
        values["label"] = label
    if n_shot is not None:
        values["n_shot"] = n_shot.split(",")
    content = load_yaml(local_copy(config_file), where=str(config_file)) if config_file else {}
    assigned = parse_assignments(assignments)
    model: type[TrainConfig] | type[NetworkConfig] = TrainConfig
    if "network" in content or "network" in values:
        model = NetworkConfig
        values |= {name: assigned.pop(name) for name in SET_KEYS if name in assigned}
        values |= {"log": log} if log else {}
        if len(features) > 1:
            raise ConfigError(f"{features[0]} and others: a network is trained on one manifest, or one logmel set")
        if features:
            values["features" if local_copy(features[0]).is_dir() else "manifest"] = features[0]
    elif features:
        for path in features:
            if not local_copy(path).is_dir():
                raise ConfigError(
                    f"{path}: a file; classifiers are trained on a folder of features, made with `voxshard extract`, "
                    "networks on a manifest: --network NAME"
                )
        values["features"] = features
    if log and model is TrainConfig:
        raise ConfigError(
            f"--log {log[0]}: of a network, which has epochs; the results of classifiers are in runs.csv, and --wandb "
            "logs them"
        )
    if assigned:
        values["settings"] = assigned
    if config_file:
        config = validated(model, merged(content, values), where=str(config_file))
    else:
        config = validated(model, values, where="train", names=names_on_command_line())
    with stage_task() as task:
        trained = run(config, task)
    if trained is not None:
        print_summary(trained)


def print_summary(trained: Run) -> None:
    """Print the results of a training."""
    found = trained.metrics
    for line in results_table(found["metrics"], found["kind"]):
        echo(line)
    for row in found.get("n_shot", []):
        if row["metric"] in ("accuracy", "eer") and row["mean"] is not None:
            spread = "" if row["deviation"] is None else f" ± {row['deviation']:.4f}"
            echo(f"{row['split']}, {row['shots']} per class: {row['metric']} {row['mean']:.4f}{spread}")
    place = origin(trained.path)
    echo_info(f"{place}: model, scores and metrics{next_step(f'voxshard report {quoted(place)} --out report.html')}")
