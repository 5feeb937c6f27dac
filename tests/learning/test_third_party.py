"""The corpus format and the classifier of docs/third-party.md, installed the way a package would be."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

import voxshard
from support.feature_sets import write_set
from voxshard.cli import main
from voxshard.errors import BrokenPluginError, ConfigError
from voxshard.learning.train_config import GridConfig

DOCUMENT = Path(__file__).parents[2] / "docs/third-party.md"
BROKEN = """
def nothing(request):
    return None

def bug(request):
    return request.nosuch

NUMBER = 3
"""


@pytest.fixture(autouse=True)
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = DOCUMENT.read_text()
    code = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    (points,) = re.findall(r"```toml\n(.*?)```", text, flags=re.DOTALL)
    site = tmp_path / "site"
    facts = site / "my_package-1.0.dist-info"
    facts.mkdir(parents=True)
    (site / "my_package.py").write_text("\n".join(code) + BROKEN)
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1.0\n")
    points = re.sub(r'project\.entry-points\."(.*?)"', r"\1", points).replace('"', "")
    points = points.replace(
        "[voxshard.corpora]", "[voxshard.corpora]\nnothing = my_package:nothing\nbug = my_package:bug"
    )
    points = points.replace("[voxshard.classifiers]", "[voxshard.classifiers]\nnumber = my_package:NUMBER")
    (facts / "entry_points.txt").write_text(points)
    monkeypatch.syspath_prepend(site)
    monkeypatch.delitem(sys.modules, "my_package", raising=False)


def test_the_corpus_format_makes_a_manifest(tmp_path: Path) -> None:
    for speaker in ("ann", "bob"):
        (tmp_path / "root" / speaker).mkdir(parents=True)
        soundfile.write(tmp_path / "root" / speaker / "a.wav", np.zeros(800, np.float32), 8000)
    manifest = voxshard.prepare("speaker-folders", tmp_path / "root", out=tmp_path / "m.parquet")
    assert manifest.ids == ["ann/a.wav", "bob/a.wav"]
    assert manifest.table["speaker"].to_pylist() == ["ann", "bob"]
    assert manifest.table["duration_s"].to_pylist() == [0.1, 0.1]
    with pytest.raises(ConfigError, match="--set x: no such setting"):
        voxshard.prepare("speaker-folders", tmp_path / "root", out=tmp_path / "m.parquet", settings={"x": 1})


@pytest.mark.parametrize(("name", "problem"), [("nothing", "expected a Listing"), ("bug", "AttributeError: .*nosuch")])
def test_a_corpus_format_that_breaks_its_promise_is_one_error(name: str, problem: str, tmp_path: Path) -> None:
    with pytest.raises(
        BrokenPluginError, match=rf"^corpus format {name} \(my_package:{name}, from my-package\): {problem}"
    ):
        voxshard.prepare(name, tmp_path, out=tmp_path / "m.parquet")


def test_the_classifier_trains_scores_and_predicts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("sklearn")
    rng = np.random.default_rng(0)
    labels = ["x", "y"] * 10
    arrays = {f"u{n}": rng.standard_normal(3) + 9 * (label == "x") for n, label in enumerate(labels)}
    path = write_set(tmp_path / "set", arrays, {"label": labels, "split": ["train"] * 12 + ["test"] * 8})
    run = voxshard.train(
        path, label="label", classifier="lda", out=tmp_path / "run", settings={"solver": "lsqr"}, replicates=0
    )
    assert run.metrics["metrics"]["test"]["accuracy"]["value"] == 1.0
    assert run.predict(path).tolist() == labels
    main(["classifiers"])
    assert "lda                From my-package." in capsys.readouterr().out
    main(["classifiers", "lda"])
    assert "--set solver=   svd | lsqr | eigen, default svd" in capsys.readouterr().out
    grid = GridConfig(
        features=[path], label="label", classifier=["lda", "knn"], out=tmp_path, settings={"lda": {"solver": "svd"}}
    )
    assert [training.settings for training in grid.expand()] == [{"solver": "svd"}, {}]


def test_a_classifier_that_is_none_is_one_error(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    path = write_set(
        tmp_path / "set", {"a": np.ones(2), "b": np.zeros(2)}, {"label": ["x", "y"], "split": ["train"] * 2}
    )
    with pytest.raises(
        BrokenPluginError, match=r"^classifier number \(my_package:NUMBER, from my-package\): expected a"
    ):
        voxshard.train(path, label="label", classifier="number", out=tmp_path / "run")
