"""`voxshard score`: official metrics of a score file."""

from __future__ import annotations

import json
from dataclasses import replace

import click
import pyarrow.compute as pc
import pyarrow.parquet as pq

from voxshard.cli.options import INPUT, echo
from voxshard.files import with_retries
from voxshard.locations import AnyLocation, local_copy
from voxshard.scoring.detection import ASVSPOOF5, DetectionTrials
from voxshard.scoring.intervals import Interval, bootstrap, point_estimates
from voxshard.scoring.score_files import Keys, Scores, read_keys, read_scores, scores_for

_JSON_METRICS = ("eer", "min_dcf", "act_dcf", "cllr", "eer_tie_aware")
_TITLES = {
    "min_dcf": "minDCF",
    "act_dcf": "actDCF",
    "cllr": "Cllr, bits",
    "eer": "EER, %",
    "eer_tie_aware": "EER tie-aware, %",
    "auc": "AUC, %",
}
_PERCENT = ("eer", "eer_tie_aware", "auc")


@click.command(short_help="Official ASVspoof 5 Track 1 scores of any score file.")
@click.argument("scores", type=INPUT)
@click.argument("keys", type=INPUT)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object; rates are in 0..1, Cllr is in bits.")
@click.option(
    "--bootstrap",
    "num_replicates",
    type=click.IntRange(min=1),
    metavar="N",
    help="Add 95 % confidence intervals from N resamples of the utterances, and of the speakers if the keys name them.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the resampling.")
def command(scores: AnyLocation, keys: AnyLocation, as_json: bool, num_replicates: int | None, seed: int) -> None:
    """Score a detector of spoofed speech with the official ASVspoof 5 Track 1 metrics.

    \b
    SCORES  tab separated, header `filename  cm-score`, or the scores.tsv of a run; higher = bona fide
    KEYS    tab separated, header `filename  cm-label`, or a protocol such as ASVspoof5.dev.track_1.tsv

    Both must name the same utterances, each once. actDCF and Cllr take the scores for natural-log likelihood ratios.
    """
    if as_json and num_replicates:
        raise click.UsageError("--bootstrap belongs to the table; leave out --json")
    known = read_keys(local_copy(keys))
    found = _of_the_keys_splits(read_scores(local_copy(scores)), known)
    trials = DetectionTrials(scores_for(known, found), known.is_bonafide)
    num_bonafide = int(known.is_bonafide.sum())
    num_spoof = trials.num_trials - num_bonafide
    if as_json:
        values = point_estimates(trials)
        content = {name: values[name] for name in _JSON_METRICS}
        echo(json.dumps({**content, "num_bonafide": num_bonafide, "num_spoof": num_spoof}))
        return
    measured = [bootstrap(trials, num_replicates=num_replicates or 0, seed=seed)]
    heads = ["value", *(["95 % by utterance"] if num_replicates else [])]
    if num_replicates and known.speakers is not None:
        measured.append(bootstrap(trials, groups=known.speakers, num_replicates=num_replicates, seed=seed))
        heads.append("95 % by speaker")
    echo(
        f"{num_bonafide:,} bona fide, {num_spoof:,} spoof; prior of spoof {ASVSPOOF5.prior_spoof:g}, "
        f"cost of a miss {ASVSPOOF5.cost_miss:g}, of a false alarm {ASVSPOOF5.cost_false_alarm:g}\n"
    )
    echo(f"{'':18}" + "".join(f"{head:>20}" for head in heads))
    for name, title in _TITLES.items():
        cells = [_number(name, measured[0][name].value)]
        if num_replicates:
            cells += [_bounds(name, intervals[name]) for intervals in measured]
        echo(f"{title:18}" + "".join(f"{cell:>20}" for cell in cells))


def _of_the_keys_splits(scores: Scores, keys: Keys) -> Scores:
    """Select a run's scores of the splits in the keys: one scores.tsv contains dev and eval."""
    trials = scores.path.with_name("trials.parquet")
    if scores.path.name != "scores.tsv" or not trials.exists():
        return scores
    table = with_retries(trials, lambda: pq.read_table(trials, columns=["utterance_id", "split"]))
    with_key = table.filter(pc.is_in(table["utterance_id"], value_set=keys.names))
    names = table.filter(pc.is_in(table["split"], value_set=pc.unique(with_key["split"])))["utterance_id"]
    chosen = pc.is_in(scores.names, value_set=names.combine_chunks())
    return replace(
        scores, names=scores.names.filter(chosen), scores=scores.scores[chosen.to_numpy(zero_copy_only=False)]
    )


def _number(name: str, value: float | None) -> str:
    if value is None:
        return "-"
    return f"{100 * value:.3f}" if name in _PERCENT else f"{value:.5f}"


def _bounds(name: str, interval: Interval) -> str:
    if interval.low is None:
        return "-"
    return f"{_number(name, interval.low)} to {_number(name, interval.high)}"
