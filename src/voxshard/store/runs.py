"""The run directory of one trained classifier, its scores and its results, which `train` writes and `report` reads.

    RUN/config.yaml      resolved: features (path, name, encoder, fingerprint), label, classifier, settings ...
    RUN/model/           the model, without pickle, and what has to be known to use it
    RUN/scores.tsv       utterance_id, one column per score, prediction
    RUN/metrics.json     `metrics.<split>.<name>` = {value, low, high}; counts; notes
    RUN/inputs.json      what it was trained from, by content; see `learning.inputs`
    RUN/tables/*.csv     confusion-<split>, by-<column>-<split>, n-shot, folds ...
    RUN/trials.parquet   one row per scored utterance: split, label, prediction, scores and the corpus's columns

A run is written into a temporary folder next to its place and renamed there when complete: a killed training leaves the
run that existed before. `evaluate` replaces single files of a run, each at once.
"""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from voxshard import files
from voxshard.config import dump_yaml, parse_yaml
from voxshard.errors import ConfigError, CorruptFileError, FormatVersionError, IncompleteError, ScoreError
from voxshard.files import quoted
from voxshard.locations import AnyLocation, Url, local_copy
from voxshard.no_table import NO_TABLE
from voxshard.store import delimited
from voxshard.store.layout import FeatureDir

FORMAT_VERSION = 1
RUNS_TABLE = "runs.csv"
"""Table of the results of all runs in a folder, next to them."""
_OCCUPIED = (errno.ENOTEMPTY, errno.EEXIST)


@dataclass(frozen=True)
class Run:
    """A run directory (RUN in the documentation), for reading it and for replacing single files in it."""

    path: Path

    @property
    def config_file(self) -> Path:
        return self.path / "config.yaml"

    @property
    def model(self) -> Path:
        """Folder that contains the model."""
        return self.path / "model"

    @property
    def scores_file(self) -> Path:
        return self.path / "scores.tsv"

    @property
    def metrics_file(self) -> Path:
        return self.path / "metrics.json"

    @property
    def inputs_file(self) -> Path:
        return self.path / "inputs.json"

    @property
    def trials_file(self) -> Path:
        return self.path / "trials.parquet"

    @property
    def tables_folder(self) -> Path:
        return self.path / "tables"

    @property
    def name(self) -> str:
        return self.path.resolve().name

    def found(self, recorded: AnyLocation) -> Path:
        """Return the path of a feature set or manifest that this run names: as recorded, or in this experiment if it
        was moved."""
        if isinstance(recorded, Url):
            return local_copy(recorded)
        experiment = self.path.resolve().parent.parent
        places = (recorded, experiment / "features" / recorded.name, experiment / recorded.name)
        return next((path for path in places if path.exists()), recorded)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Open a run directory.

        Raises
        ------
        IncompleteError : there is no run at `path`.
        FormatVersionError : written by a newer voxshard.
        CorruptFileError : its config.yaml is not what voxshard writes.
        """
        run = cls(path)
        if FeatureDir(path).identity.exists():
            raise _no_run(run.model, path)
        found = run.config.get("format_version")
        if not isinstance(found, int):
            raise CorruptFileError(f"{run.config_file}: no format_version; not a run of voxshard")
        if found > FORMAT_VERSION:
            raise FormatVersionError(
                f"{path}: run format {found}, this voxshard reads up to {FORMAT_VERSION}; update it"
            )
        return run

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """Resolved config of the training."""
        content = parse_yaml(_text(self.config_file, self.path), where=str(self.config_file))
        if not isinstance(content, dict):
            raise CorruptFileError(f"{self.config_file}: not a mapping of keys to values; not a run of voxshard")
        return content

    @property
    def metrics(self) -> Mapping[str, Any]:
        """Current content of metrics.json; `["metrics"][split][name]` is {value, low, high}."""
        text = _text(self.metrics_file, self.path)
        try:
            content = json.loads(text)
            content["metrics"]
        except (ValueError, KeyError, TypeError) as exc:
            raise CorruptFileError(
                f"{self.metrics_file}: not metrics of voxshard: {exc!r}; evaluate the run again"
            ) from exc
        return content  # type: ignore[no-any-return]

    def trials(self) -> pa.Table:
        """Read one row per scored utterance: utterance_id, split, label, prediction, scores, columns to group by."""
        try:
            return files.with_retries(self.trials_file, lambda: pq.read_table(self.trials_file))
        except FileNotFoundError as exc:
            raise _no_run(self.trials_file, self.path) from exc
        except (OSError, *NO_TABLE) as exc:
            raise CorruptFileError(
                f"{self.trials_file}: {exc}; run `voxshard evaluate {quoted(self.path)}` again"
            ) from exc

    def scores(self) -> pa.Table:
        """Read scores.tsv: utterance_id, one float64 column per score, prediction."""
        return read_scores(self.path)

    def tables(self) -> dict[str, pa.Table]:
        """Read all result tables, keyed by file name without `.csv`."""
        return {path.stem: _read_text(path, ",", {}) for path in sorted(self.tables_folder.glob("*.csv"))}

    def write_config(self, content: Mapping[str, Any]) -> None:
        files.publish_bytes(self.config_file, dump_yaml({"format_version": FORMAT_VERSION, **content}).encode())

    def write_metrics(self, content: Mapping[str, Any]) -> None:
        files.publish_json(self.metrics_file, content)

    def write_inputs(self, content: Mapping[str, Any]) -> None:
        files.publish_json(self.inputs_file, content)

    def write_trials(self, table: pa.Table) -> None:
        with files.publish(self.trials_file) as stream:
            pq.write_table(table, stream, compression="zstd")

    def write_scores(self, table: pa.Table, *, of: str | None = None) -> None:
        """Publish scores.tsv, or scores-<of>.tsv for data other than the run's own features."""
        path = self.scores_file if of is None else self.path / f"scores-{file_name(of)}.tsv"
        _write_text(path, table, "\t")

    def write_table(self, name: str, table: pa.Table) -> None:
        """Publish RUN/tables/<name>.csv; characters that are not allowed in a file name become `_`."""
        self.tables_folder.mkdir(exist_ok=True)
        _write_text(self.tables_folder / f"{file_name(name)}.csv", table, ",")


def read_scores(path: Path) -> pa.Table:
    """Read the scores of a run, or a score file: a scores.tsv, or the official tab-separated one of ASVspoof 5.

    Parameters
    ----------
    path : run directory or file.

    Returns
    -------
    The columns of the file: utterance_id and prediction as text, each `score...` as float64; of an official file
    filename as text and cm-score as float64.

    Raises
    ------
    ScoreError : the file is no score file; the message names its columns.
    """
    path, run = (path / "scores.tsv", path) if path.is_dir() else (path, path.parent)
    header = _text(path, run).partition("\n")[0].rstrip("\r").split("\t")
    scores = [name for name in header if name.startswith("score") or name == "cm-score"]
    if not scores or not {"utterance_id", "filename"} & set(header):
        raise ScoreError(
            f"{path}: found the columns {', '.join(header)}; wanted a tab-separated header with utterance_id and score "
            "columns (the scores.tsv of a run), or with filename and cm-score (ASVspoof 5)"
        )
    return _read_text(path, "\t", {name: pa.float64() if name in scores else pa.string() for name in header})


def file_name(text: str) -> str:
    """Return a text as part of a file name; `evaluate` writes, and `report` links, the same name."""
    return "".join(char if char.isalnum() or char in "-_.+" else "_" for char in text)


@contextmanager
def publish_run(path: Path) -> Iterator[Run]:
    """Write a run into a temporary folder; it appears at `path` when the block ends without an error.

    Raises
    ------
    ConfigError : `path` is a folder or file that is not a run; nothing is touched.
    """
    check_is_run(path)
    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    files.sweep_temporaries(path.parent)
    temporary = files.temp_path_for(path)
    with files.storage_errors(path):
        try:
            (temporary / "model").mkdir(parents=True)
            (temporary / "tables").mkdir()
            yield Run(temporary)
            for folder in (temporary / "model", temporary / "tables", temporary):
                files.fsync_folder(folder)
            _rename_over(temporary, path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def check_is_run(path: Path) -> None:
    """Raise ConfigError if writing a run to `path` would replace anything but a run."""
    if path.is_dir():
        if (path / "config.yaml").exists() and (path / "model").is_dir():
            return
        if not any(path.iterdir()):
            return
        raise ConfigError(f"--out {path}: a folder with other things in it, not a run; give a new name")
    if path.exists():
        raise ConfigError(f"--out {path}: a file; a run is a folder, give a new name")


def _rename_over(temporary: Path, path: Path) -> None:
    """Replace a folder by another one; the target is absent only between two renames."""
    replaced = []
    while True:
        try:
            temporary.rename(path)
            break
        except OSError as exc:
            if exc.errno not in _OCCUPIED:
                raise
        aside = files.temp_path_for(path)
        with suppress(FileNotFoundError):  # another training of the same run was faster
            path.rename(aside)
            replaced.append(aside)
    files.fsync_folder(path.parent)
    for folder in replaced:
        shutil.rmtree(folder, ignore_errors=True)


def append_results(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Append rows with equal keys to a CSV file that several processes may append to.

    The header is published completely and once, and all rows go out in one append, so that two writers on one machine
    never mix their lines.
    """
    if not rows:
        return
    header = list(rows[0])
    with files.storage_errors(path):
        if not path.exists():
            files.publish_bytes(path, _lines([header]), first_wins=True)
        with open(path, "ab", buffering=0) as stream:
            stream.write(_lines([row[name] for name in header] for row in rows))
            os.fsync(stream.fileno())


def _lines(rows: Iterable[Sequence[Any]]) -> bytes:
    text = io.StringIO()
    delimited.writer(text).writerows(rows)
    return text.getvalue().encode()


def _write_text(path: Path, table: pa.Table, delimiter: str) -> None:
    with files.publish(path) as stream:
        text = io.TextIOWrapper(stream, encoding="utf-8", newline="")
        writer = delimited.writer(text, delimiter)
        writer.writerow(table.column_names)
        for batch in table.to_batches(max_chunksize=65536):
            writer.writerows(zip(*(column.to_pylist() for column in batch.columns), strict=True))
        text.flush()
        text.detach()


def _read_text(path: Path, delimiter: str, types: Mapping[str, pa.DataType]) -> pa.Table:
    try:
        return pa.csv.read_csv(
            pa.BufferReader(files.read_bytes(path)),
            parse_options=pa.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
            convert_options=pa.csv.ConvertOptions(column_types=types),
        )
    except NO_TABLE as exc:
        raise CorruptFileError(f"{path}: {exc}; run `voxshard evaluate` again") from exc


def _text(path: Path, run: Path) -> str:
    try:
        return files.read_text(path)
    except (FileNotFoundError, NotADirectoryError) as exc:
        raise _no_run(path, run) from exc
    except (OSError, UnicodeDecodeError) as exc:
        raise CorruptFileError(f"{path}: cannot be read: {exc}") from exc


def _no_run(path: Path, run: Path) -> IncompleteError:
    if run.is_file():
        return IncompleteError(f"{run}: a file; expected a run, the folder that `voxshard train ... --out RUN` made")
    if FeatureDir(run).identity.exists():
        return IncompleteError(
            f"{run}: a feature set; expected a run, the folder that `voxshard train {quoted(run)} ... --out RUN` makes "
            f"(to score a run on this set: `voxshard evaluate RUN --on {quoted(run)}`)"
        )
    below = [item for item in (*sorted(run.glob("*")), *sorted((run / "runs").glob("*"))) if (item / "model").is_dir()]
    if below:
        return IncompleteError(f"{run}: not a run; give one of those in it: {', '.join(map(quoted, below))}")
    return IncompleteError(
        f"{run}: no run here (no {path.name}); make one with `voxshard train ... --out {quoted(run)}`"
    )
