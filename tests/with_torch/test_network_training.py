"""Training networks from audio to a run directory: labels, heads, losses, what is kept, what is scored."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pytest

from support.network_trials import network_config, tone_corpus

torch = pytest.importorskip("torch")

from voxshard.errors import (  # noqa: E402
    BackendUnavailableError,
    ConfigError,
    CorruptFileError,
    DataError,
    IncompleteError,
    StoppedError,
    TransientFaultError,
)
from voxshard.learning._torch.data import Recordings  # noqa: E402
from voxshard.learning._torch.losses import NetworkLoss, balanced_weights  # noqa: E402
from voxshard.learning.train_config import EvaluateConfig  # noqa: E402
from voxshard.manifest import Manifest  # noqa: E402
from voxshard.networks.backbones import build_backbone  # noqa: E402
from voxshard.networks.network_files import Checkpoint  # noqa: E402
from voxshard.networks.settings import settings_of  # noqa: E402
from voxshard.progress import Silent  # noqa: E402
from voxshard.stages import evaluate, train  # noqa: E402
from voxshard.stages.base import Task  # noqa: E402
from voxshard.store.runs import Run  # noqa: E402


@pytest.fixture(scope="module")
def tones(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tone_corpus(tmp_path_factory.mktemp("tones"))


def trained(config: Any) -> Run:
    run = train.run(config, Task())
    assert run is not None
    return run


@pytest.fixture(scope="module")
def ecapa_run(tones: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    config = network_config(
        tones,
        tmp_path_factory.mktemp("runs") / "ecapa",
        validate_on="test",
        training={"epochs": 20, "batch_size": 5, "lr": 0.01},
    )
    return trained(config)


def test_a_small_ecapa_learns_to_tell_tones_apart(ecapa_run: Run) -> None:
    assert ecapa_run.metrics["metrics"]["test"]["accuracy"]["value"] > 0.8
    curves = ecapa_run.tables()["training"].to_pylist()
    assert [row["epoch"] for row in curves] == list(range(1, 21))
    assert curves[-1]["train_loss"] < 0.5 * curves[0]["train_loss"]
    assert {"validation_loss", "validation_accuracy", "learning_rate"} <= set(curves[0])


def test_a_run_holds_what_every_run_holds_and_no_pickle(ecapa_run: Run) -> None:
    names = {str(path.relative_to(ecapa_run.path)) for path in ecapa_run.path.rglob("*") if path.is_file()}
    assert names == {
        "config.yaml", "metrics.json", "scores.tsv", "trials.parquet", "tables/training.csv",
        "tables/training-curve.csv", "tables/confusion-test.csv", "inputs.json", "model/model.json",
        "model/model.safetensors", "model/network.yaml",
    }  # fmt: skip
    target = json.loads((ecapa_run.model / "model.json").read_text())["target"]
    assert (target["kind"], target["classes"]) == ("classification", ["high", "low", "middle"])
    assert not ecapa_run.path.with_name("ecapa.training").exists()


def test_a_checkpoint_moved_elsewhere_scores_the_same(ecapa_run: Run, tones: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    shutil.copytree(ecapa_run.path, moved)
    before = ecapa_run.trials()
    for name in ("scores.tsv", "trials.parquet"):
        assert (moved / name).exists()
    evaluate.run(EvaluateConfig(run=moved, replicates=0), Task())
    after = Run.read(moved).trials()
    assert after["utterance_id"].to_pylist() == before["utterance_id"].to_pylist()
    for name in ("score_high", "score_low", "score_middle"):
        np.testing.assert_allclose(after[name].to_numpy(), before[name].to_numpy(), atol=1e-6)


def test_a_run_of_an_experiment_that_was_moved_finds_its_manifest(ecapa_run: Run, tones: Path, tmp_path: Path) -> None:
    moved = tmp_path / "new" / "runs" / "a"
    shutil.copytree(ecapa_run.path, moved)
    config = moved / "config.yaml"
    config.write_text(config.read_text().replace(str(tones), "/old/manifest.parquet"))
    with pytest.raises(IncompleteError, match=r"^/old/manifest\.parquet: what this network was trained on no longer"):
        evaluate.run(EvaluateConfig(run=moved, replicates=0), Task())
    shutil.copy(tones, tmp_path / "new" / "manifest.parquet")
    assert set(evaluate.run(EvaluateConfig(run=moved, replicates=0), Task()).metrics) == {"test"}


def test_another_corpus_is_scored_from_the_checkpoint_alone(ecapa_run: Run, tmp_path: Path) -> None:
    other = tone_corpus(tmp_path / "other", per_class=3, seconds=(0.5,))
    found = evaluate.run(EvaluateConfig(run=ecapa_run.path, on=(other,), replicates=0), Task())
    assert set(found.metrics) == {"manifest-train", "manifest-test"}
    assert found.counts["manifest-train"] == {"scored": 6, "measured": 6}
    assert found.metrics["manifest-train"]["accuracy"]["value"] > 0.5
    assert (ecapa_run.path / "scores-manifest.tsv").exists()


def test_evaluating_on_features_is_refused(ecapa_run: Run, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^--on /.*: network ecapa scores recordings; give a MANIFEST$"):
        evaluate.run(EvaluateConfig(run=ecapa_run.path, on=(tmp_path,)), Task())


def test_the_same_seed_gives_the_same_weights_and_another_one_others(tones: Path, tmp_path: Path) -> None:
    first, second, third = (
        Checkpoint.read(trained(network_config(tones, tmp_path / name, seed=seed)).path).load().state_dict()
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], third[name]) for name in first)


def test_the_number_of_workers_changes_nothing(tones: Path, tmp_path: Path) -> None:
    augment = {"speed": 0.1, "noise": {"strength": 0.3, "probability": 0.5}, "mixup": 0.4, "time_mask": 0.2}
    first, second = (
        Checkpoint.read(trained(network_config(tones, tmp_path / str(workers), workers=workers, augment=augment)).path)
        for workers in (0, 2)
    )
    assert first.about.fingerprint == second.about.fingerprint


def test_columns_of_classes_become_a_head_each_and_missing_labels_are_not_learned(tones: Path, tmp_path: Path) -> None:
    run = trained(network_config(tones, tmp_path / "run", label=["pitch", "speaker"]))
    spec = Checkpoint.read(run.path).about.network
    assert [group.labels for group in spec.groups] == [
        ("pitch=high", "pitch=low", "pitch=middle"),
        ("speaker=ann", "speaker=bob"),
    ]
    found = run.metrics["metrics"]["test"]
    assert {"mean_auc", *(f"auc.{label}" for group in spec.groups for label in group.labels)} <= set(found)


def test_a_labels_file_says_which_labels_share_a_head(tones: Path, tmp_path: Path) -> None:
    groups = tmp_path / "labels.txt"
    groups.write_text("high\n\nloud\n")
    run = trained(network_config(tones, tmp_path / "run", label=(), labels_file=groups))
    checkpoint = Checkpoint.read(run.path)
    assert [group.labels for group in checkpoint.about.network.groups] == [("high",), ("loud",)]
    assert len(checkpoint.load().heads.heads) == 2
    assert run.trials().column_names[:4] == ["utterance_id", "split", "label", "prediction"]


def test_a_label_that_stands_in_a_labels_file_twice_is_refused(tones: Path, tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    path.write_text("high,loud\nhigh\n")
    with pytest.raises(ConfigError, match=f"^{re.escape(str(path))}: label high is in it twice$"):
        train.run(network_config(tones, tmp_path / "run", label=(), labels_file=path), Task())


@pytest.mark.parametrize("loss", ["bce", "mse", "aam"])
def test_every_loss_trains(tones: Path, tmp_path: Path, loss: str) -> None:
    run = trained(network_config(tones, tmp_path / loss, loss=loss))
    curves = run.tables()["training"]["train_loss"].to_pylist()
    assert curves[-1] < curves[0]


def test_a_missing_label_changes_no_loss_and_no_gradient() -> None:
    outputs = torch.tensor([[0.3, -1.0], [2.0, 0.5]], requires_grad=True)
    targets = torch.tensor([[1.0, float("nan")], [0.0, 1.0]])
    for loss in ("bce", "mse"):
        value = NetworkLoss(loss, [2], None, 0.2, 30.0)(outputs, targets)
        (gradient,) = torch.autograd.grad(value, outputs)
        assert gradient[0, 1] == 0.0
        assert torch.isfinite(value)
    known = torch.nn.functional.binary_cross_entropy_with_logits(
        torch.tensor([0.3, 2.0, 0.5]), torch.tensor([1.0, 0.0, 1.0])
    )
    torch.testing.assert_close(NetworkLoss("bce", [2], None, 0.2, 30.0)(outputs, targets), known)


def test_cross_entropy_takes_soft_labels_head_by_head() -> None:
    outputs = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([[1.0, 0, 0, 0.3, 0.7]] * 3 + [[float("nan")] * 3 + [1.0, 0.0]])
    value = NetworkLoss("cross_entropy", [3, 2], None, 0.2, 30.0)(outputs, targets)
    first = torch.nn.functional.cross_entropy(outputs[:3, :3], targets[:3, :3])
    torch.testing.assert_close(value, first + torch.nn.functional.cross_entropy(outputs[:, 3:], targets[:, 3:]))


def test_balanced_weights_make_rare_classes_count_as_much() -> None:
    targets = np.eye(2, dtype=np.float32)[[0, 0, 0, 1]]
    np.testing.assert_allclose(balanced_weights(targets, "cross_entropy", [2]), [4 / 6, 2.0])
    np.testing.assert_allclose(balanced_weights(targets, "bce", [2]), [1 / 3, 3.0])


def test_a_group_of_which_no_label_applies_leaves_the_loss_finite() -> None:
    outputs = torch.randn(2, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    value = NetworkLoss("cross_entropy", [3], None, 0.2, 30.0)(outputs, torch.zeros(2, 3))
    (gradient,) = torch.autograd.grad(value, outputs)
    assert value == 0.0
    assert torch.equal(gradient, torch.zeros(2, 3))


def test_cross_entropy_over_a_single_label_is_refused(tones: Path, tmp_path: Path) -> None:
    config = network_config(tones, tmp_path / "run", label=["high"], loss="cross_entropy", labels_file=None)
    trained(config)  # two classes
    groups = tmp_path / "labels.txt"
    groups.write_text("high\npitch\n")
    config = network_config(tones, tmp_path / "run", label=(), labels_file=groups, loss="cross_entropy")
    with pytest.raises(ConfigError, match=r"^loss=cross_entropy: label high is alone in its group"):
        train.run(config, Task())


def test_a_recording_that_cannot_be_read_is_left_out_and_named(tmp_path: Path) -> None:
    manifest = tone_corpus(tmp_path / "corpus")
    (tmp_path / "corpus/audio/low-0.wav").write_bytes(b"not audio")
    (tmp_path / "corpus/audio/low-7.wav").write_bytes(b"not audio")
    run = trained(network_config(manifest, tmp_path / "run"))
    failures = {row["utterance_id"]: row["error"] for row in run.tables()["failures"].to_pylist()}
    assert failures == {"low-0.wav": "UnreadableAudioError", "low-7.wav": "UnreadableAudioError"}
    assert "low-7.wav" not in run.scores()["utterance_id"].to_pylist()
    assert run.scores().num_rows == pc.sum(pc.equal(Manifest.read(manifest).table["split"], "test")).as_py() - 1


def test_recordings_none_of_which_can_be_used_end_the_training(tones: Path, tmp_path: Path) -> None:
    config = network_config(tones, tmp_path / "run", clip={"max_seconds": 0.01})
    message = r"^not one of the training recordings can be used; the first: TooShortError: 80 samples at 8000 Hz; this"
    with pytest.raises(DataError, match=message):
        train.run(config, Task())


def test_a_batch_of_which_one_recording_is_left_is_passed_over(tmp_path: Path) -> None:
    """ECAPA normalises over the batch, and a batch of one has no variance."""
    manifest = tone_corpus(tmp_path / "corpus")
    for path in (tmp_path / "corpus/audio").glob("*-[01].wav"):
        path.write_bytes(b"not audio")
    training = {"epochs": 4, "batch_size": 2, "lr": 0.01}
    run = trained(network_config(manifest, tmp_path / "run", training=training))
    assert all(np.isfinite(run.tables()["training"]["train_loss"].to_numpy()))


@pytest.mark.parametrize("workers", [0, 1])
def test_storage_that_fails_is_one_line_and_leaves_the_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    monkeypatch.setattr("voxshard.audio.retry.time.sleep", lambda _seconds: None)
    manifest = tone_corpus(tmp_path / "corpus")
    gone = tmp_path / "corpus/audio"
    gone.rename(tmp_path / "elsewhere")
    settings = {**network_config(manifest, tmp_path).settings, "normalize": False}
    config = network_config(manifest, tmp_path / "run", workers=workers, settings=settings)
    with pytest.raises(TransientFaultError) as caught:
        train.run(config, Task())
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert message.endswith("; when it can be read again, run the same command: it continues from what is saved")
    assert "No such file or directory" in message
    (tmp_path / "elsewhere").rename(gone)
    assert trained(config).metrics["counts"]["test"]["scored"] == 9


def test_a_file_that_is_gone_beside_others_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("voxshard.audio.retry.time.sleep", lambda _seconds: None)
    manifest = tone_corpus(tmp_path / "corpus")
    (tmp_path / "corpus/audio/low-0.wav").unlink()
    run = trained(network_config(manifest, tmp_path / "run"))
    assert run.tables()["failures"].to_pylist() == [
        {
            "utterance_id": "low-0.wav",
            "error": "MissingRecordingError",
            "message": "the file is gone, its folder exists",
        }
    ]


def test_a_worker_that_dies_is_one_line(tones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Recordings, "features", lambda *_: os._exit(9))
    settings = {**network_config(tones, tmp_path).settings, "normalize": False}
    with pytest.raises(TransientFaultError, match=r"^DataLoader worker .* lack of memory is the usual reason"):
        train.run(network_config(tones, tmp_path / "run", workers=1, settings=settings), Task())


def test_a_training_that_diverges_is_told_so(tones: Path, tmp_path: Path) -> None:
    training = {"epochs": 2, "batch_size": 5, "lr": 1e30}
    with pytest.raises(ConfigError, match=r"^the training diverges: its loss is nan after epoch 1; give a smaller"):
        train.run(network_config(tones, tmp_path / "run", training=training), Task())


def test_early_stopping_keeps_the_best_weights(tones: Path, tmp_path: Path) -> None:
    early = {"metric": "loss", "patience": 2}
    config = network_config(
        tones, tmp_path / "run", validate_on="test", augment={"noise": 0.9},
        training={"epochs": 60, "batch_size": 5, "lr": 0.05, "early_stopping": early},
    )  # fmt: skip
    run = trained(config)
    losses = run.tables()["training"]["validation_loss"].to_pylist()
    assert len(losses) < 60
    assert losses.index(min(losses)) == len(losses) - 3


@pytest.mark.parametrize(("metric", "best"), [("auc.low", max), ("uar", max), ("eer_tie_aware", min)])
def test_early_stopping_judges_by_any_metric(tones: Path, tmp_path: Path, metric: str, best: Any) -> None:
    early = {"metric": metric, "patience": 1}
    label = "high" if "eer" in metric else "pitch"
    training = {"epochs": 12, "batch_size": 5, "lr": 0.01, "early_stopping": early}
    config = network_config(tones, tmp_path / "run", label=label, validate_on="test", training=training)
    run = trained(config)
    values = run.tables()["training"][f"validation_{metric}"].to_pylist()
    assert len(values) < 12
    assert values.index(best(values)) == len(values) - 2
    name = metric if "eer" not in metric else "eer_tie_aware"
    assert run.metrics["metrics"]["test"][name]["value"] == pytest.approx(best(values), abs=1e-6)


def test_a_metric_that_is_not_measured_is_refused_before_the_training(tones: Path, tmp_path: Path) -> None:
    training = {"early_stopping": {"metric": "acuracy"}}
    config = network_config(tones, tmp_path / "run", validate_on="test", training=training)
    message = (
        r"^training.early_stopping.metric=acuracy: not measured on split test; choose loss, accuracy, uar, macro_f1, "
        r"auc.high, auc.low, auc.middle, mean_auc$"
    )
    with pytest.raises(ConfigError, match=message):
        train.run(config, Task(progress=Refusing()))
    assert not list(tmp_path.iterdir())


class Refusing(Silent):
    """Fails when a work begins."""

    def begin(self, what: str, *, items: int | None = None, audio_s: float | None = None) -> None:
        raise AssertionError(what)


def test_accumulated_batches_train_as_one_of_their_size(make_model: Any, tmp_path: Path) -> None:
    """Without batch normalisation and dropout, for which the size of the batch matters."""
    manifest = tone_corpus(tmp_path / "tones", per_class=9)  # 18 to train on: complete batches either way
    quiet = {f"{name}_dropout": 0.0 for name in ("hidden", "attention", "activation", "feat_proj")}
    settings = {"weights": str(make_model("wav2vec2-group", **quiet)), "heads": {"dropout": 0.0}}
    weights = []
    for accumulate in (1, 2):
        training = {
            "epochs": 2,
            "batch_size": 6 // accumulate,
            "accumulate": accumulate,
            "optimizer": "sgd",
            "lr": 0.01,
        }
        config = network_config(
            manifest, tmp_path / f"run-{accumulate}", network="wav2vec2", settings=settings, training=training
        )
        weights.append(Checkpoint.read(trained(config).path).load().state_dict())
    for name, tensor in weights[0].items():
        torch.testing.assert_close(weights[1][name], tensor, rtol=1e-4, atol=1e-6)


def test_learning_rates_and_loss_are_kept_all_along(make_model: Any, tones: Path, tmp_path: Path) -> None:
    config = network_config(
        tones, tmp_path / "run", network="wav2vec2", settings={"weights": str(make_model("wav2vec2-group"))},
        training={"epochs": 2, "batch_size": 5, "lr": 1e-3, "backbone_lr": 1e-4, "schedule": "cosine", "warmup": 0.5},
    )  # fmt: skip
    curve = trained(config).tables()["training-curve"].to_pylist()
    np.testing.assert_allclose([row["epoch"] for row in curve], np.arange(1, 7) / 3)
    rates = [row["learning_rate"] for row in curve]
    np.testing.assert_allclose(rates, [1e-3 * part for part in (1 / 3, 2 / 3, 1, 1, 0.75, 0.25)], rtol=1e-6)
    np.testing.assert_allclose([row["backbone_learning_rate"] for row in curve], 0.1 * np.array(rates))


class Counted(Silent):
    """Keeps how many items of which work were done."""

    def __init__(self) -> None:
        self.works: list[tuple[str, int | None, int]] = []

    def begin(self, what: str, *, items: int | None = None, audio_s: float | None = None) -> None:
        self.works.append((what, items, 0))

    def advance(self, items: int = 1, audio_s: float = 0.0) -> None:
        what, total, done = self.works[-1]
        self.works[-1] = what, total, done + items


def test_n_shot_gives_a_curve_and_folds_test_everything_once(tones: Path, tmp_path: Path) -> None:
    progress = Counted()
    run = train.run(network_config(tones, tmp_path / "few", n_shot=[1, 3], runs=2), Task(progress=progress))
    assert run is not None
    assert progress.works == [("few-shot trainings", 4, 4), ("score", 1, 1)]
    rows = run.tables()["n-shot"].to_pylist()
    assert [(row["shots"], row["run"]) for row in rows] == [(1, 1), (1, 0), (3, 1), (3, 0)]
    assert run.metrics["counts"]["training"]["utterances"] == 9
    run = trained(network_config(tones, tmp_path / "folds", folds="fold"))
    assert run.metrics["counts"]["folds"]["scored"] == 24


def csv_rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as stream:
        return list(csv.DictReader(stream))


def test_csv_has_every_epoch_and_the_results_and_a_training_that_continues_is_one_log(
    tones: Path, tmp_path: Path
) -> None:
    config = network_config(tones, tmp_path / "run", log="csv", validate_on="test")

    class StopsAfterAnEpoch(Silent):
        def note(self, message: str) -> None:
            if message.startswith("epoch 1"):
                task.stop.set()

    task = Task(progress=StopsAfterAnEpoch())
    with pytest.raises(StoppedError):
        train.run(config, task)
    run = trained(config)
    rows = csv_rows(tmp_path / "logs/csv/run/version_0/metrics.csv")
    curves = run.tables()["training"].to_pylist()
    assert [row["step"] for row in rows] == ["1", "2", "3", "3"]
    for row, expected in zip(rows, curves, strict=False):
        assert {name: float(row[name]) for name in expected} == expected
    assert float(rows[-1]["test/accuracy"]) == run.metrics["metrics"]["test"]["accuracy"]["value"]
    trained(config)
    assert len(csv_rows(tmp_path / "logs/csv/run/version_1/metrics.csv")) == 4


def test_few_shot_trainings_log_their_results_alone(tones: Path, tmp_path: Path) -> None:
    run = trained(network_config(tones, tmp_path / "run", log=["csv"], n_shot=[2], runs=2))
    (row,) = csv_rows(tmp_path / "logs/csv/run/version_0/metrics.csv")
    assert float(row["test/accuracy"]) == run.metrics["metrics"]["test"]["accuracy"]["value"]


@pytest.mark.filterwarnings("ignore")  # of a third-party client
def test_wandb_has_every_epoch_and_the_results(
    tones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    run = trained(network_config(tones, tmp_path / "run", wandb=True, validate_on="test"))
    (folder,) = (tmp_path / "wandb").glob("offline-run-*")
    (log,) = folder.glob("*.wandb")
    content = log.read_bytes()
    for name in ("train_loss", "validation_loss", "test/accuracy", "trainer/global_step"):
        assert name.encode() in content
    assert run.name.encode() in content
    assert wandb.run is None


@pytest.mark.parametrize(
    ("name", "extra"), [("wandb", "tracking"), ("tensorboard", "tensorboard"), ("mlflow", "mlflow")]
)
def test_a_tracker_that_is_not_installed_is_said_before_training(
    tones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    message = f"--log {name} needs the package {name}, which is not installed here; pip install 'voxshard[{extra}]', or"
    with pytest.raises(BackendUnavailableError, match=re.escape(message)):
        train.run(network_config(tones, tmp_path / "run", log=[name]), Task())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("ignore")  # of a third-party client
@pytest.mark.parametrize("name", ["tensorboard", "mlflow"])
def test_lightnings_other_loggers_have_every_epoch_and_the_results(
    tones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    pytest.importorskip(name)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    trained(network_config(tones, tmp_path / "run", log=[name]))
    files = [path for path in (tmp_path / "logs").rglob("*") if path.is_file()]
    content = b"".join(path.read_bytes() for path in files)
    assert b"train_loss" in content
    assert b"test/accuracy" in content


def test_prototypes_are_means_of_the_training_recordings(tones: Path, tmp_path: Path) -> None:
    config = network_config(
        tones, tmp_path / "run", network="vgg", episodes={"support": 2, "query": 2, "per_epoch": 15},
        training={"epochs": 3, "lr": 0.01},
    )  # fmt: skip
    run = trained(config)
    assert run.metrics["metrics"]["test"]["accuracy"]["value"] > 0.8
    spec = Checkpoint.read(run.path).about.network
    assert spec.prototypes


def test_the_preset_of_few_audio_is_its_front_end() -> None:
    """melspectrogram at 44.1 kHz, log10(x + eps), the recording repeated where it is shorter than 128 frames."""
    librosa = pytest.importorskip("librosa")
    settings = settings_of("vgg", {"preset": "few-audio-2018", "channels": 4})
    wave = (0.1 * np.random.default_rng(0).standard_normal(60000)).astype(np.float32)
    mel = librosa.feature.melspectrogram(y=wave, sr=44100, hop_length=1024, n_fft=1024, n_mels=128).T
    expected = np.log10(np.concatenate([mel, mel, mel])[:128] + np.finfo(float).eps)
    found = build_backbone("vgg", settings, None).preparer(wave)
    assert found.shape == (1, 128, 128)
    np.testing.assert_allclose(found[0], expected, atol=1e-5)
    given = settings_of("vgg", {"preset": "few-audio-2018", "num_mels": 64, "learned_log": True})
    assert (given.num_mels, given.patch_frames) == (64, 128)
    again = settings_of("vgg", given.model_dump(mode="json"))
    assert again == given


@pytest.mark.parametrize("family", ["sbcnn", "timbre", "vgg"])
def test_spectrogram_networks_train_also_with_a_learned_logarithm(tones: Path, tmp_path: Path, family: str) -> None:
    settings = {**network_config(tones, tmp_path, network=family).settings, "learned_log": family == "timbre"}
    run = trained(network_config(tones, tmp_path / "run", network=family, settings=settings))
    curves = run.tables()["training"]["train_loss"].to_pylist()
    assert curves[-1] < curves[0]


def test_an_unknown_split_to_validate_on_is_named(tones: Path, tmp_path: Path) -> None:
    config = network_config(tones, tmp_path / "run", validate_on="dev")
    with pytest.raises(ConfigError, match=r"^validate_on=dev: no labelled utterance has that split; splits here: "):
        train.run(config, Task())


def test_too_few_recordings_for_episodes_are_an_error_that_says_so(tones: Path, tmp_path: Path) -> None:
    config = network_config(tones, tmp_path / "run", episodes={"support": 5, "query": 1})
    with pytest.raises(DataError, match=r"^episodes: class high has 5 training recordings, none of them left to ask"):
        train.run(config, Task())


def test_a_damaged_checkpoint_is_refused(ecapa_run: Run, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(ecapa_run.path, copy)
    weights = copy / "model/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(CorruptFileError, match=r"does not hold the weights that network.yaml describes"):
        Checkpoint.read(copy).load()
    with pytest.raises(IncompleteError, match=r"no trained network here"):
        Checkpoint.read(tmp_path)
