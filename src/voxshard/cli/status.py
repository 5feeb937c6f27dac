"""`voxshard status`: show the state of a feature set, a run or an experiment."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path

import click
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from voxshard.cli.options import EXISTING, echo
from voxshard.diagnostics.status import FeatureStatus, RunStatus, as_json, runs, status
from voxshard.diagnostics.step_status import StepStatus, step_statuses
from voxshard.errors import IncompleteError
from voxshard.progress import printable
from voxshard.progress_display import duration

_REFRESH_S = 2.0


@click.command()
@click.argument("path", type=EXISTING)
@click.option("--watch", is_flag=True, help="Keep the screen up to date until Ctrl-C.")
@click.option("--json", "as_text", is_flag=True, help="Print one JSON object, for scripts.")
def command(path: Path, watch: bool, as_text: bool) -> None:
    """Show how far PATH is, what is slow, what failed, and which command comes next."""
    if as_text:
        steps, features, trained = _state(path)
        found = {
            "steps": [asdict(item) for item in steps],
            "features": as_json(features),
            "runs": as_json(trained),
        }
        echo(json.dumps(found, indent=2))
        return
    console = Console(highlight=False)
    if not watch:
        for part in _screen(*_state(path)):  # unbroken lines, so that commands can be copied and scripts can read them
            console.print(part, soft_wrap=isinstance(part, Text))
        return
    with Live(Group(*_screen(*_state(path))), console=console, auto_refresh=False) as live:
        while True:
            time.sleep(_REFRESH_S)
            live.update(Group(*_screen(*_state(path))), refresh=True)


def _state(path: Path) -> tuple[list[StepStatus], list[FeatureStatus], list[RunStatus]]:
    """Return steps, feature sets and runs; an experiment that was just submitted has only steps."""
    steps, trained = step_statuses(path), runs(path)
    try:
        return steps, status(path), trained
    except IncompleteError:
        if not steps and not trained:
            raise
        return steps, [], trained


def _screen(
    steps: list[StepStatus], statuses: list[FeatureStatus], trained: list[RunStatus]
) -> Iterator[RenderableType]:
    if steps:
        yield from _steps(steps)
    for item in statuses:
        yield _features(item, is_submitted=bool(steps), is_trained=bool(trained))
    for run in trained:
        rows = [("run", f"{run.path} ({run.what})"), *((split, _values(found)) for split, found in run.results.items())]
        yield _lines([*rows, ("next", run.next_step)] if len(trained) == 1 else rows)


def _values(metrics: Mapping[str, float | None]) -> str:
    return ", ".join(f"{name} {'-' if value is None else format(value, '.4f')}" for name, value in metrics.items())


def _steps(steps: list[StepStatus]) -> Iterator[RenderableType]:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("step", "tasks", "attempt", "task time", "GPU h", "memory"):
        table.add_column(name)
    notes: list[Text] = []
    for item in steps:
        tasks = ", ".join(f"{count:,} {kind}" for kind, count in sorted(item.tasks.items()))
        memory = f"{item.max_rss_gb:.1f}" + (f" of {item.mem_gb:.0f} GB" if item.mem_gb else " GB")
        table.add_row(
            item.name,
            tasks,
            str(item.attempts),
            duration(item.elapsed_s),
            f"{item.gpu_hours:.2f}",
            memory if item.max_rss_gb else "",
        )
        notes += [Text(printable(f"{item.name} failed: {text}")) for text in item.failures]
        notes += [Text(printable(f"{item.name} waits: {text}")) for text in item.queue]
    following = dict.fromkeys(item.next_step for item in steps if item.next_step)
    notes += [Text(f"next: {text}", style="bold") for text in list(following)[:1]]
    yield table
    yield from [*notes, Text("")]


def _features(item: FeatureStatus, *, is_submitted: bool, is_trained: bool) -> Text:
    speed = f", {item.speed:,.0f} x real time" if item.speed else ""
    left = f", {duration(item.eta_s)} left" if item.eta_s is not None else ""
    rows = [
        ("features", f"{item.path} ({item.encoder}, {item.fingerprint[:12]})"),
        ("tasks", ", ".join(f"{count} {kind}" for kind, count in sorted(item.tasks.items())) or "none yet"),
        ("shards", f"{item.shards_done:,} of {item.num_shards:,} ({_percent(item.shards_done, item.num_shards)})"),
        ("utterances", f"{item.utterances_done:,} of {item.num_utterances:,}, {item.num_failed:,} failed"),
        ("audio", f"{item.audio_s / 3600:.2f} h{speed}{left}"),
    ]
    if item.advice:
        rows.append(("advice", item.advice))
    rows += [("failures", f"{count:,} x {kind}") for kind, count in list(item.failures.items())[:3]]
    if item.failures_file:
        rows.append(("reasons", item.failures_file))
    elif item.num_failed and not item.is_merged:
        rows.append(("failures", "`voxshard merge` lists them with their reasons in failures.csv"))
    rows += [("error", error.splitlines()[0]) for error in item.last_errors]
    rows.append(
        ("merged", "no" if not item.is_merged else "yes, but shards have changed since" if item.is_stale else "yes")
    )
    if not is_submitted and not (is_trained and item.is_merged):  # otherwise steps or runs show what comes next
        rows.append(("next", item.next_step))
    return _lines(rows)


def _lines(rows: Iterable[tuple[str, str]]) -> Text:
    """Format names and their descriptions, one per line, with an empty line at the end."""
    text = Text()
    for name, value in rows:
        text.append(f"{printable(name):<10}  ", "bold").append(f"{printable(value)}\n")
    return text


def _percent(part: int, total: int) -> str:
    return f"{part / total:.0%}" if total else "0 %"
