"""The run directory: published completely, read back equal, never in place of something else."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from voxshard import files
from voxshard.errors import ConfigError, CorruptFileError, FormatVersionError, IncompleteError
from voxshard.store.runs import Run, append_results, file_name, publish_run

CONFIG = {
    "features": [{"path": "/data/mfcc", "name": "mfcc", "encoder": "mfcc", "fingerprint": "f" * 64}],
    "label": ["digit"],
    "classifier": "logistic",
    "seed": 3,
}
METRICS = {"metrics": {"test": {"accuracy": {"value": 0.5, "low": 0.25, "high": 0.75}}}, "counts": {}}


def _write(path: Path, *, seed: int = 3) -> None:
    with publish_run(path) as run:
        run.write_config({**CONFIG, "seed": seed})
        (run.model / "model.json").write_text("{}")
        run.write_metrics(METRICS)


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    ids = ["plain", 'with "quotes"', "tab\there", "line\nbreak", "ünï", ""]
    trials = pa.table({"utterance_id": ids, "split": ["test"] * 6, "score": [0.1, 1 / 3, -1e-300, 2.0, 3.0, -0.0]})
    scores = trials.select(["utterance_id", "score"]).append_column("prediction", [["1", "2", "1", "2", "1", "2"]])
    with publish_run(tmp_path / "run") as run:
        run.write_config(CONFIG)
        run.write_metrics(METRICS)
        run.write_trials(trials)
        run.write_scores(scores)
        run.write_table("by-codec/x-test", pa.table({"codec": ["opus"], "count": [3], "accuracy": [0.5]}))
    found = Run.read(tmp_path / "run")
    assert found.name == "run"
    assert found.config == {"format_version": 1, **CONFIG}
    assert found.metrics == METRICS
    assert found.trials().equals(trials)
    assert found.scores().to_pydict() == scores.to_pydict()
    assert found.tables()["by-codec_x-test"].to_pylist() == [{"codec": "opus", "count": 3, "accuracy": 0.5}]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


def test_a_training_that_fails_leaves_the_run_that_was_there(tmp_path: Path) -> None:
    _write(tmp_path / "run")

    def fail() -> None:
        with publish_run(tmp_path / "run") as run:
            run.write_config({**CONFIG, "seed": 4})
            run.write_metrics({"metrics": object()})

    with pytest.raises(TypeError, match=r"^Object of type object is not JSON serializable$"):
        fail()
    assert Run.read(tmp_path / "run").config["seed"] == 3
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_killed_training_leaves_the_run_that_was_there_and_the_next_one_sweeps(tmp_path: Path) -> None:
    _write(tmp_path / "run")
    script = (
        "import sys, time\nfrom pathlib import Path\nfrom voxshard.store.runs import publish_run\n"
        "with publish_run(Path(sys.argv[1])) as run:\n"
        "    run.write_config({'seed': 4})\n    print('writing', flush=True)\n    time.sleep(60)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        os.kill(process.pid, signal.SIGKILL)
    assert Run.read(tmp_path / "run").config["seed"] == 3
    assert len(list(tmp_path.glob("run.*.tmp"))) == 1
    _write(tmp_path / "run", seed=5)
    assert Run.read(tmp_path / "run").config["seed"] == 5
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_run_is_replaced_whole(tmp_path: Path) -> None:
    with publish_run(tmp_path / "run") as run:
        run.write_config(CONFIG)
        run.write_table("n-shot", pa.table({"shots": [1]}))
    _write(tmp_path / "run", seed=4)
    assert Run.read(tmp_path / "run").config["seed"] == 4
    assert Run.read(tmp_path / "run").tables() == {}


def test_a_folder_that_is_no_run_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ConfigError, match=re.escape(f"--out {tmp_path}: a folder with other things in it, not a run")):
        _write(tmp_path)
    with pytest.raises(ConfigError, match=re.escape("a file; a run is a folder, give a new name")):
        _write(tmp_path / "thesis.txt")
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_reading_says_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(IncompleteError, match=re.escape(f"{tmp_path}/no: no run here (no config.yaml); make one with")):
        Run.read(tmp_path / "no")
    (tmp_path / "config.yaml").write_text("- a list\n")
    with pytest.raises(CorruptFileError, match="not a mapping of keys to values; not a run of voxshard"):
        Run.read(tmp_path)
    (tmp_path / "config.yaml").write_text("a: 1\n")
    with pytest.raises(CorruptFileError, match="no format_version; not a run of voxshard"):
        Run.read(tmp_path)
    (tmp_path / "config.yaml").write_text("format_version: 2\n")
    with pytest.raises(FormatVersionError, match="run format 2, this voxshard reads up to 1; update it"):
        Run.read(tmp_path)
    _write(tmp_path / "run")
    run = Run.read(tmp_path / "run")
    run.metrics_file.write_text("{}")
    with pytest.raises(CorruptFileError, match=re.escape("KeyError('metrics'); evaluate the run again")):
        run.metrics  # noqa: B018
    with pytest.raises(IncompleteError, match=re.escape("no run here (no trials.parquet)")):
        run.trials()


def test_several_processes_append_to_one_results_file(tmp_path: Path) -> None:
    script = (
        "import sys\nfrom pathlib import Path\nfrom voxshard.store.runs import append_results\n"
        "for i in range(50): append_results(Path(sys.argv[1]), [{'run': sys.argv[2], 'value': i}] * 3)\n"
    )
    path = tmp_path / "runs.csv"
    writers = [subprocess.Popen([sys.executable, "-c", script, str(path), f"run {n}"]) for n in range(3)]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    lines = path.read_text().splitlines()
    assert lines[0] == "run,value"
    assert sorted(lines[1:]) == sorted(f"run {n},{i}" for n in range(3) for i in range(50) for _ in range(3))
    append_results(path, [])
    assert path.read_text().splitlines() == lines


def test_a_name_becomes_a_safe_part_of_a_file_name() -> None:
    assert file_name("by-codec/q 1-ü") == "by-codec_q_1-ü"
    assert ".." not in Path(file_name("../../x")).parts


def test_sweeping_removes_folders_too(tmp_path: Path) -> None:
    folder = files.temp_path_for(tmp_path / "run")
    (folder / "model").mkdir(parents=True)
    assert files.sweep_temporaries(tmp_path) == []
    assert files.sweep_temporaries(tmp_path, everything=True) == [folder]
    assert not folder.exists()
