"""Sections about feature sets: maps of embeddings, accounting of rows, costs, and the origin of everything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from voxshard.reporting import feature_plots
from voxshard.reporting.page import Block, Facts, Folded, Heading, Plots, Preformatted, Section, Text, notes
from voxshard.reporting.report_data import FeatureSetReport, ReportData, System
from voxshard.reporting.result_sections import MAX_SYSTEMS
from voxshard.reporting.result_tables import TableCell, table


def maps(feature_sets: Sequence[FeatureSetReport]) -> Section | None:
    """Return the section with each set's embeddings on the first two principal components."""
    blocks: list[Block] = []
    for place, features in enumerate(feature_sets):
        sample = features.embedding_map
        if sample is not None and sample.columns:
            drawn = [
                feature_plots.embedding_map(sample, column, key=f"map-{place}-{number}", name=features.name)
                for number, column in enumerate(sample.columns)
            ]
            blocks.append(Plots(drawn))
        elif features.no_map:
            blocks.append(Text(f"{features.name}: {features.no_map}", quiet=True))
    if not blocks:
        return None
    text = "Two dimensions hide most of the structure: classes that overlap here may still be separable."
    return Section("embeddings", "Embeddings", [Text(text), *blocks])


def accounting(feature_sets: Sequence[FeatureSetReport]) -> Section | None:
    """Return the section that counts every row of every manifest, with the reasons for failures."""
    if not feature_sets:
        return None
    rows: list[list[str | TableCell]] = []
    blocks: list[Block] = []
    for features in feature_sets:
        for account in features.accounts:
            share = f"{100 * account.num_failed / account.num_total:.2f}" if account.num_total else "–"
            counts = (account.num_total, account.num_ok, account.num_failed, account.num_pending)
            rows.append([features.name, account.split, *(f"{count:,}" for count in counts), share])
    if rows:
        blocks.append(
            Text("Every utterance of the manifest is counted once: embedded, failed with a reason, or still to do.")
        )
        heads = ["features", "split", "utterances", "embedded", "failed", "to do", "failed, %"]
        blocks.append(table(heads, rows, text=2))
    failed = [features for features in feature_sets if features.failures]
    for features in failed:
        blocks.append(Heading(f"Failures in {features.name}"))
        reasons = [
            [reason.kind, utterance_id, message, f"{reason.count:,}" if place == 0 else ""]
            for reason in features.failures
            for place, (utterance_id, message) in enumerate(reason.examples or [("–", "–")])
        ]
        blocks.append(table(["reason", "first examples", "message", "utterances"], reasons, text=3))
    blocks += [Text(f"{item.name}: {item.not_counted}", quiet=True) for item in feature_sets if item.not_counted]
    if not failed and rows:
        blocks.append(Text("No utterance failed."))
    return Section("data", "Data accounting", blocks) if blocks else None


def speed(feature_sets: Sequence[FeatureSetReport]) -> Section | None:
    """Return the section on hours, throughput and device load."""
    blocks: list[Block] = []
    names = list(dict.fromkeys(name for features in feature_sets for name in features.costs))
    if names:
        rows = [
            [features.name, *(features.costs.get(name, "–") for name in names)]
            for features in feature_sets
            if features.costs
        ]
        caption = "Each task by its last attempt, loading the model included; a CPU hour is one core for one hour."
        blocks.append(table(["features", *names], rows, caption=caption))
    for place, features in enumerate(feature_sets):
        if features.advice:
            blocks.append(Text(f"{features.name}: {features.advice}"))
        drawn = []
        for number, quantity in enumerate(dict.fromkeys(series.quantity for series in features.timelines)):
            alike = [series for series in features.timelines if series.quantity == quantity]
            drawn.append(feature_plots.timeline(alike, key=f"timeline-{place}-{number}", name=features.name))
        if drawn:
            blocks.append(Plots(drawn))
    return Section("speed", "Cost and speed", blocks) if blocks else None


def jobs(entries: Sequence[Mapping[str, Any]]) -> Section | None:
    """Return the section on each step's cost on a cluster: requested and used resources, and advice for the next
    request."""
    if not entries:
        return None
    rows: list[list[str | TableCell]] = [
        [
            str(entry["step"]),
            f"{entry['tasks']:,}",
            f"{entry['gpu_hours']:,.3f}",
            f"{entry['cpu_hours']:,.3f}",
            "–" if entry["units"] is None else f"{entry['units']:,.2f}",
            "–" if entry.get("units_per_1000_audio_hours") is None else f"{entry['units_per_1000_audio_hours']:,.1f}",
            _of(entry["max_rss_gb"], entry["mem_gb"]),
            _of(entry["longest_minutes"], entry["minutes"]),
        ]
        for entry in entries
    ]
    unit = str(entries[0]["unit"])
    heads = [
        "step",
        "tasks",
        "GPU hours",
        "CPU hours",
        unit,
        f"{unit} per 1,000 h of audio",
        "memory, GB",
        "longest, min",
    ]
    caption = (
        "All runs of every task; of one that was killed, up to a minute before its end. Used, of what was asked for."
    )
    lines = [Text(str(line)) for entry in entries for line in entry["advice"]]
    return Section("jobs", "Jobs", [table(heads, rows, caption=caption), *lines])


def _of(used: float, asked: float | None) -> str:
    return f"{used:,.1f}" if asked is None else f"{used:,.1f} of {asked:,.0f}"


def provenance(data: ReportData) -> Section:
    """Return the section on configs, fingerprints and versions."""
    blocks: list[Block] = []
    if data.config:
        repeat = "To repeat an experiment, save its config as FILE and type: voxshard run FILE"
        blocks += [Heading("Experiment"), Text(repeat), Preformatted("Config of the experiment", data.config)]
    for features in data.feature_sets:
        blocks.append(Heading(f"Features {features.name}"))
        if features.facts:
            blocks.append(Facts(list(features.facts.items())))
        if features.versions:
            versions = [list(item) for item in features.versions.items()]
            blocks.append(Folded("Software versions", table(["package", "version"], versions, text=2)))
        if features.config:
            blocks.append(Preformatted("Options of the extraction", features.config))
    if data.systems:
        blocks += [Heading("Runs"), *_runs(data.systems), *_configs(data.systems)]
    return Section("provenance", "How it was made", blocks)


def left_out(lines: Sequence[str]) -> Section | None:
    """Return the section on runs and feature sets that could not be read."""
    return Section("left-out", "Left out", notes(lines)) if lines else None


def _runs(systems: Sequence[System]) -> list[Block]:
    """Return the facts that all runs share, and a table with one row per run of those that differ."""
    names = list(dict.fromkeys(name for system in systems for name in system.facts))
    values = {name: {system.facts.get(name, "–") for system in systems} for name in names}
    shared = [(name, values[name].pop()) for name in names if len(values[name]) == 1]
    own = [name for name in names if name not in dict(shared)]
    rows = [[system.name, *(system.facts.get(name, "–") for name in own)] for system in systems]
    blocks: list[Block] = [Facts(shared)] if shared else []
    if own:
        each = table(["run", *own], rows, text=len(own) + 1)
        blocks.append(each if len(rows) <= MAX_SYSTEMS else Folded(f"All {len(rows)} runs", each))
    return blocks


def _configs(systems: Sequence[System]) -> list[Block]:
    configs = [(f"Config of {system.name}", system.config) for system in systems if system.config]
    if len(configs) > MAX_SYSTEMS:
        text = "\n".join(f"# {title}\n{config}" for title, config in configs)
        return [Preformatted(f"Configs of all {len(configs)} runs", text)]
    return [Preformatted(title, config) for title, config in configs]
