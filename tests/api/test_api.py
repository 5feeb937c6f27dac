"""The Python API: one notebook's worth of calls, the errors of wrong arguments, and what is printed."""

from __future__ import annotations

import inspect
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

import voxshard
from support.feature_sets import write_set
from voxshard import Manifest, TrainedRun, api
from voxshard.errors import ConfigError, FeatureMismatchError, IncompleteError, ScoreError
from voxshard.learning.train_config import EvaluateConfig, TrainConfig
from voxshard.stages.extract import ExtractConfig
from voxshard.stages.prepare import PrepareConfig
from voxshard.store.merge import MergeConfig

RATE = 8000


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two kinds of tones, high and low, in train and test."""
    root = tmp_path_factory.mktemp("tones")
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        (root / split).mkdir()
        for number in range(8):
            kind, hz = ("high", 1500) if number % 2 else ("low", 200)
            time = np.arange(int(RATE * (0.3 + 0.05 * number))) / RATE
            samples = 0.3 * np.sin(2 * np.pi * hz * time) + 0.01 * rng.standard_normal(len(time))
            soundfile.write(root / split / f"{kind}-{number}.wav", samples.astype(np.float32), RATE, subtype="FLOAT")
    return root


@pytest.fixture(scope="module")
def experiment(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with manifest.parquet, features/ and run/."""
    folder = tmp_path_factory.mktemp("experiment")
    voxshard.prepare(
        "folder", root, out=folder / "manifest.parquet", split_from=["train/=train", "test/=test"],
        label_from=r"(?P<kind>high|low)",
    )  # fmt: skip
    voxshard.extract(folder / "manifest.parquet", encoder="mfcc", out=folder / "features", workers=1)
    voxshard.train(
        folder / "features", label="kind", classifier="logistic", out=folder / "run", replicates=0,
        settings={"standardize": True},
    )  # fmt: skip
    return folder


def test_every_name_of_the_api_is_exported_and_documented() -> None:
    assert set(voxshard.__all__) == set(api.__all__)
    for name in voxshard.__all__:
        item = getattr(voxshard, name)
        assert item.__doc__
        assert item.__doc__.strip().endswith((".", "SKIP")) or "Parameters" in item.__doc__


def test_prepare_extract_train_evaluate_report(experiment: Path) -> None:
    features = voxshard.open_features(experiment / "features")
    assert isinstance(features, voxshard.FeatureSet)
    assert len(features) == 16
    run = voxshard.evaluate(experiment / "run", group_by="split", replicates=0)
    assert run.metrics["metrics"]["test"]["accuracy"]["value"] == 1.0
    assert run.scores().column_names[0] == "utterance_id"
    assert voxshard.read_scores(run.path).equals(run.scores())
    assert voxshard.read_scores(run.path / "scores.tsv").equals(run.scores())
    page = voxshard.report([run, features], out=experiment / "report.html", title="Tones")
    assert "Tones" in page.read_text()


def test_predict_gives_the_decisions_of_a_feature_set_a_path_and_an_array(experiment: Path) -> None:
    run = voxshard.evaluate(experiment / "run", replicates=0)
    features = voxshard.open_features(experiment / "features")
    expected = ["high" if "high" in name else "low" for name in features.ids]
    assert run.predict(features).tolist() == expected
    assert run.predict(str(features.path)).tolist() == expected
    assert run.predict(np.asarray(features.embeddings)).tolist() == expected
    written = dict(zip(run.scores()["utterance_id"].to_pylist(), run.scores()["prediction"].to_pylist(), strict=True))
    for name, label in zip(features.ids, run.predict(features), strict=True):
        assert written.get(name, label) == label


def test_predict_refuses_other_features_and_other_sizes(experiment: Path, tmp_path: Path) -> None:
    run = voxshard.evaluate(experiment / "run", replicates=0)
    write_set(tmp_path / "other", {"a": np.ones(3, np.float32)})
    with pytest.raises(FeatureMismatchError, match="fingerprint"):
        run.predict(tmp_path / "other")
    with pytest.raises(FeatureMismatchError, match=r"an array \(2, 3\): 3 values per row"):
        run.predict(np.ones((2, 3), np.float32))
    with pytest.raises(ConfigError, match=r"an array \(N, D\) \(got int64 of shape \(3,\)\)"):
        run.predict(np.arange(3))
    with pytest.raises(ConfigError, match="got 7"):
        run.predict(7)  # type: ignore[arg-type]


def test_nothing_is_printed_unless_progress_is_asked_for(
    root: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    manifest = tmp_path / "m.parquet"
    voxshard.prepare("folder", root, out=manifest)
    voxshard.extract(manifest, encoder="mfcc", out=tmp_path / "quiet", workers=1, limit=2)
    assert capfd.readouterr() == ("", "")
    voxshard.extract(manifest, encoder="mfcc", out=tmp_path / "loud", workers=1, limit=2, progress=True)
    captured = capfd.readouterr()
    assert captured.out == ""
    assert "extract mfcc: 2 of 2" in captured.err


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: voxshard.prepare("nosuch", "x", out="m.parquet"), "format: no such corpus format"),
        (lambda: voxshard.prepare("folder", 5, out="m.parquet"), "root: .*valid string"),
        (lambda: voxshard.extract("m.parquet", encoder="mfcc", out="o", batch_second=3), "did you mean batch_seconds"),
        (lambda: voxshard.extract("m.parquet", encoder="mfcc", out="o", workers="many"), "workers: .*got 'many'"),
        (lambda: voxshard.extract("m.parquet", encoder="mfcc", out="o", settings=[1]), "settings: .*dictionary"),
        (lambda: voxshard.extract("m.parquet", encoder="mfcc"), "missing a required .*'out'"),
        (lambda: voxshard.extract("m.parquet", encoder="mfcc", out="o", progress="yes"), "progress: expected True"),
        (lambda: voxshard.merge(7), "features: .*path"),
        (lambda: voxshard.merge("x", mode="packd"), "mode: .*'packed'"),
        (lambda: voxshard.open_features(7), r"path: expected a path \(got 7\)"),
        (lambda: voxshard.open_features("x", chek="open"), "chek: unknown argument"),
        (lambda: voxshard.train("x", label="a", classifier="logistc", out="o"), "did you mean logistic"),
        (lambda: voxshard.train("x", label="a", out="o"), "classifier: required"),
        (lambda: voxshard.train("x", label="a", network="vgg", classifier="svm", out="o"), "takes no classifier"),
        (lambda: voxshard.evaluate(3), "run: .*path"),
        (lambda: voxshard.train({"a": [1.0]}, label="a", classifier="knn", out="o"), r"features: .*got dict"),
        (lambda: voxshard.report([], out="r.html"), "paths: .*at least 1"),
        (lambda: voxshard.read_scores(None), "path: expected a path"),
        (lambda: voxshard.load_encoder("mfc"), "did you mean mfcc"),
        (lambda: voxshard.load_encoder("mfcc", nosuch=1), "nosuch: unknown key"),
        (lambda: voxshard.load_encoder("mfcc", device="tpu"), "device tpu"),
        (lambda: voxshard.load_encoder(3), "name: expected a text"),
    ],
)  # fmt: skip
def test_a_wrong_argument_is_one_config_error(
    call: Any, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=message):
        call()
    assert list(tmp_path.iterdir()) == []


def test_all_wrong_arguments_are_in_one_error() -> None:
    with pytest.raises(ConfigError) as caught:
        voxshard.extract("m.parquet", encoder="mfcc", out="o", shards=0, workers=0, device="tpu")
    assert [line.split(":")[0].strip() for line in str(caught.value).splitlines()[1:]] == [
        "shards",
        "device",
        "workers",
    ]


@pytest.mark.parametrize(
    ("function", "config"),
    [
        (voxshard.prepare, PrepareConfig),
        (voxshard.extract, ExtractConfig),
        (voxshard.merge, MergeConfig),
        (voxshard.train, TrainConfig),
        (voxshard.evaluate, EvaluateConfig),
    ],
)
def test_defaults_are_those_of_the_command(function: Any, config: Any) -> None:
    for name, parameter in inspect.signature(function).parameters.items():
        if name in config.model_fields and parameter.default is not parameter.empty and name != "settings":
            if config.model_fields[name].is_required():
                assert parameter.default is None
            else:
                assert parameter.default == config.model_fields[name].default


def test_scores_of_an_official_file_and_of_no_score_file(tmp_path: Path) -> None:
    official = tmp_path / "scores.tsv"
    official.write_text("filename\tcm-score\nE_1\t0.5\nE_2\t-3\n")
    table = voxshard.read_scores(official)
    assert table.to_pydict() == {"filename": ["E_1", "E_2"], "cm-score": [0.5, -3.0]}
    official.write_text("name\tvalue\n")
    with pytest.raises(ScoreError, match="found the columns name, value"):
        voxshard.read_scores(official)
    with pytest.raises(IncompleteError, match="no run here"):
        voxshard.read_scores(tmp_path / "gone")


def test_to_pandas_has_the_manifest_and_the_arrays(tmp_path: Path) -> None:
    pytest.importorskip("pandas")
    path = write_set(tmp_path / "set", {"a": np.arange(3.0), "b": np.ones(3)}, {"label": ["x", "y"]})
    frame = voxshard.open_features(path).to_pandas()
    assert frame.index.tolist() == ["a", "b"]
    assert frame.loc["b", "label"] == "y"
    np.testing.assert_array_equal(frame.loc["a", "embedding"], np.arange(3, dtype=np.float32))
    path = write_set(tmp_path / "frames", {"a": np.ones((2, 3)), "b": np.ones((0, 3))}, granularity="frames")
    frame = voxshard.open_features(path).to_pandas()
    assert [len(item) for item in frame["frames"]] == [2, 0]
    for look_up in (voxshard.open_features(path).__getitem__, voxshard.open_features(path).frames):
        with pytest.raises(KeyError, match="0 is no utterance_id"):
            look_up(0)  # type: ignore[arg-type]


def test_names_and_objects_of_a_notebook_are_short(experiment: Path) -> None:
    public = {name for name in dir(voxshard) if not name.startswith("__")}
    assert public == set(voxshard.__all__)
    features, run = voxshard.open_features(experiment / "features"), TrainedRun.read(experiment / "run")
    assert repr(run).startswith(f"<TrainedRun {run.path}: logistic of kind; test: ")
    assert repr(Manifest.read(experiment / "manifest.parquet")).startswith("<Manifest of 16 utterances in ")
    with pytest.raises(KeyError, match=r"row i of the set is `.embeddings\[i\]`"):
        features[0]  # type: ignore[index]


def test_objects_stay_usable_after_a_change_of_folder(
    experiment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(experiment)
    features = voxshard.open_features("features")
    run = voxshard.train("features", label="kind", classifier="knn", out=tmp_path / "run", replicates=0)
    monkeypatch.chdir(tmp_path)
    relative = voxshard.train(features, label="kind", classifier="knn", out="again", replicates=0)
    monkeypatch.chdir("/")
    assert list(relative.predict(features)) == list(run.predict(features))
    assert pickle.loads(pickle.dumps(features)).ids == features.ids  # noqa: S301  our own bytes


def test_an_error_shows_the_callers_line_and_not_ours(experiment: Path, tmp_path: Path) -> None:
    with pytest.raises(IncompleteError) as caught:
        voxshard.open_features(tmp_path / "nothing")
    assert [entry.path.name for entry in caught.traceback] == ["test_api.py", "arguments.py"]
    assert caught.value.__cause__ is None
    with pytest.raises(ConfigError, match=r"manifest: expected the path that `prepare` wrote, its `out`"):
        voxshard.extract(Manifest.read(experiment / "manifest.parquet"), encoder="mfcc", out=tmp_path / "o")  # type: ignore[arg-type]


def test_a_training_that_is_interrupted_publishes_nothing(
    experiment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: object, **more: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sklearn.neural_network._multilayer_perceptron.shuffle", interrupted)
    for _ in range(2):  # a warning that was shown once is not shown again
        with pytest.raises(KeyboardInterrupt):
            voxshard.train(experiment / "features", label="kind", classifier="mlp", out=tmp_path / "run", replicates=0)
    assert not (tmp_path / "run").exists()
