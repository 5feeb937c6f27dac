"""runs, experiments, feature sets -> report.html, results.csv, results.tex."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field

from voxshard import files
from voxshard.config import Settings, as_list
from voxshard.errors import BackendUnavailableError, ConfigError
from voxshard.extraction.telemetry import advice
from voxshard.stages.base import Task


class ReportConfig(Settings):
    """Settings of one report."""

    paths: Annotated[tuple[Path, ...], BeforeValidator(as_list)] = Field(min_length=1)
    """Runs, experiments or feature sets to report on, together."""
    out: Path
    """The HTML file."""
    title: str | None = None
    """Heading; null: the name of the run or experiment."""


def run(config: ReportConfig, task: Task | None = None) -> Path:
    """Write the report, and the results beside it as CSV and LaTeX; each file is replaced whole.

    Raises
    ------
    ConfigError : `out` is a folder.
    BackendUnavailableError : Jinja2 or Matplotlib is not installed.
    DataError : a path is no run, experiment or feature set, or is damaged.
    """
    task = task or Task()
    if config.out.is_dir():
        raise ConfigError(
            f"--out {config.out}: a folder; give the name of the HTML file, such as {config.out / 'report.html'}"
        )
    missing = [name for name in ("jinja2", "matplotlib") if find_spec(name) is None]
    if missing:
        raise BackendUnavailableError(f"a report needs {' and '.join(missing)}: pip install 'voxshard[report]'")
    from voxshard.reporting import comparability, html, loading, result_tables

    data = loading.load_report(config.paths, title=config.title, advise=advice, progress=task.progress)
    task.check()
    folder = config.out.parent
    folder.mkdir(parents=True, exist_ok=True)
    page = html.render(data)
    if data.systems:
        files.publish_bytes(folder / "results.csv", result_tables.results_csv(data.systems).encode())
        views = [
            (f"{split}{topic.suffix}", topic.view(split))
            for topic in comparability.topics(data)
            for split in topic.splits
        ]
        latex = result_tables.results_latex(views)
        files.publish_bytes(folder / "results.tex", latex.encode())
    files.publish_bytes(config.out, page.encode())
    return config.out
