"""Stages in the real images: on this machine, on a cluster, as an ordinary user, stopped, killed, and set up wrong."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from support.image_runs import ROOT, Images, unavailable
from support.slurm_cluster import MINI, Experiment, Slurm, command_lines
from support.tensorflow_models import DIM
from voxshard import __version__, open_features
from voxshard.manifest import Manifest
from voxshard.runtime import images as known
from voxshard.store.layout import Plan

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(3000)]
ENCODERS: dict[str, Any] = {
    "trillsson3": "trillsson3",
    "metis8d": "metis8d",
    "wav2vec2": {"name": "hf", "weights": "small/wav2vec2", "layer": 2, "pooling": "mean"},
}


def whole(corpus: Path, tensorflow: str, pytorch: str, rest: str) -> dict[str, Any]:
    """Three encoders of two frameworks, classifiers on each."""
    return {
        "runtime": rest,
        "prepare": {"format": "asvspoof5", "root": str(corpus)},
        "extract": {
            name: {"encoder": encoder, "runtime": tensorflow if name == "trillsson3" else pytorch, "device": "cpu",
                   "workers": 1}
            for name, encoder in ENCODERS.items()
        },
        "train": {"label": "label", "features": ["trillsson3", "wav2vec2"], "settings": {"standardize": True},
                  "replicates": 20},
        "jobs": {"extract": {"tasks": 1, "mem_gb": 3}, "train": {"mem_gb": 2}},
    }  # fmt: skip


def arrays(folder: Path) -> tuple[list[str], Any]:
    """Ids, and vectors or frames, of a merged set."""
    with h5py.File(folder / "features.h5", "r", locking=False) as file:
        return file["utterance_id"].asstr()[:].tolist(), file["embeddings" if "embeddings" in file else "frames"][:]


def on_cluster(cluster: Slurm, images: Images, folder: Path, plugin: Path, **environment: str) -> Experiment:
    made = Experiment(cluster, folder, plugin, **environment)
    made.environment |= {
        key: images.environment[key] for key in ("PATH", "APPTAINER_NO_PRIVS") if key in images.environment
    }
    return made


@pytest.fixture(scope="session")
def outside(
    images: Images,
    environments: dict[str, Path],
    whole_corpus: Path,
    weights: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The complete experiment in virtual environments."""
    folder = tmp_path_factory.mktemp("outside")
    config = whole(whole_corpus, *(f"venv:{environments[name]}" for name in (".venv-tf", ".venv-torch")), "here")
    (folder / "config.yaml").write_text(json.dumps({"out": "exp", **config}))
    images.voxshard("run", "config.yaml", cwd=folder, VOXSHARD_WEIGHTS=str(weights))
    return folder / "exp"


def check_equal(found: Path, wanted: Path, images: Images) -> None:
    """An experiment made in the images has the numbers of one made outside, and reports where it was made."""
    for name in ENCODERS:
        inside = open_features(found / "features" / name)
        image = images.tensorflow if name == "trillsson3" else images.pytorch
        assert inside.summary["image_digests"] == [known.digest(image)]
        assert inside.summary["software"]["image"] == [f"voxshard-{image.stem.partition('-')[2]} {__version__}"]
        ids, numbers = arrays(found / "features" / name)
        wanted_ids, wanted_numbers = arrays(wanted / "features" / name)
        assert (len(ids), ids) == (420, wanted_ids)
        deviation = float(np.abs(numbers - wanted_numbers).max() / np.sqrt(np.mean(wanted_numbers**2)))
        print(f"\n{name}: largest deviation of the image from the environment, in units of rms: {deviation:.1e}")
        assert deviation < 1e-4
    runs = [path.parent.name for path in (wanted / "runs").glob("*/metrics.json")]
    assert len(runs) == 2
    for run in runs:
        assert metrics(found / "runs" / run) == pytest.approx(metrics(wanted / "runs" / run), abs=1e-3, nan_ok=True)


def metrics(run: Path) -> dict[tuple[str, str], float]:
    """(split, name) -> value."""
    found = json.loads((run / "metrics.json").read_text())["metrics"]
    return {(split, name): item["value"] for split, names in found.items() for name, item in names.items()}


def test_an_experiment_in_both_images_has_the_numbers_of_the_environments(
    images: Images, cluster: Slurm, whole_corpus: Path, weights: Path, outside: Path, tmp_path: Path
) -> None:
    """On a cluster, each step in the image of its framework."""
    pytorch = f"image:{images.pytorch}"
    run = on_cluster(cluster, images, tmp_path, tmp_path, VOXSHARD_WEIGHTS=str(weights))
    run.submit(whole(whole_corpus, f"image:{images.tensorflow}", pytorch, pytorch))
    cluster.wait_until_empty()
    assert (run.path / "report.html").exists(), [run.logs(step) for step in run.statuses()]
    assert not any(Manifest.read(run.path / "manifest.parquet").table["problem"].to_pylist())
    check_equal(run.path, outside, images)


def test_read_only_and_contained_as_an_ordinary_user_it_has_the_same_numbers(
    images: Images, whole_corpus: Path, weights: Path, outside: Path, open_folder: Path
) -> None:
    if os.getuid() != 0:
        unavailable("needs root, to become somebody else")
    shutil.copytree(whole_corpus, open_folder / "corpus", symlinks=True)
    shutil.copytree(weights, open_folder / "weights")
    for path in (open_folder / "weights").rglob("*"):  # some libraries write files that only their owner may read
        path.chmod(0o755 if path.is_dir() else 0o644)
    pytorch = f"image:{images.pytorch}"
    config = whole(Path("corpus"), f"image:{images.tensorflow}", pytorch, pytorch)
    (open_folder / "config.yaml").write_text(json.dumps({"out": "exp", **config}))
    become = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    contained = ["--set", "site.container.options=[--containall]"]
    environment = {"HOME": "/nonexistent", "VOXSHARD_WEIGHTS": str(open_folder / "weights"), "APPTAINER_NO_PRIVS": ""}
    command = [*become, sys.executable, "-m", "voxshard", "run", "config.yaml", *contained]
    images.run(*command, cwd=open_folder, **environment)
    assert (open_folder / "exp" / "report.html").stat().st_uid == 65534
    check_equal(open_folder / "exp", outside, images)


def test_the_plain_scripts_run_in_an_image_submitted_from_any_folder(
    images: Images, cluster: Slurm, weights: Path, tmp_path: Path
) -> None:
    """The corpus is behind a link to a link, and the job's folder shows neither."""
    (tmp_path / "projects").symlink_to(MINI)
    (tmp_path / "data").symlink_to(tmp_path / "projects")
    (tmp_path / "mine").mkdir()
    run = on_cluster(cluster, images, tmp_path / "mine", tmp_path)
    run.voxshard("prepare", "asvspoof5", tmp_path / "data", "--out", "manifest.parquet", "--limit", "12")
    variables = {
        "IMAGE": str(images.tensorflow), "BINDS": str(tmp_path / "data"), "DEVICE": "cpu",
        "TASKS": "1", "VOXSHARD_WEIGHTS": str(weights), "SBATCH_MEM_PER_NODE": "3000",
    }  # fmt: skip
    images.run("bash", ROOT / "slurm" / "pipeline.sh", "trillsson", cwd=run.folder, **run.environment, **variables)
    cluster.wait_until_empty()
    logs = "\n".join(path.read_text() for path in run.folder.glob("*.out"))
    assert "12 utterances, 0 failures" in logs
    found = open_features(run.folder / "features" / "trillsson")
    assert found.embeddings.shape == (12, DIM)
    assert found.summary["image_digests"] == [known.digest(images.tensorflow)]


SLOW: dict[str, Any] = {
    "extract": {"lfcc": {"encoder": "slow-lfcc", "shards": 12, "workers": 1}},
    "jobs": {"extract": {"partitions": "gpu_a100", "tasks": 1, "minutes": 30, "mem_gb": 2}},
}
SLOW_LFCC = """
import time
from voxshard.encoders.acoustic.lfcc import LfccEncoder, LfccPreparer

class SlowLfccPreparer(LfccPreparer):
    def __call__(self, waveform):
        time.sleep(0.5)
        if len(waveform) != 16000:  # a worker's own warming up
            with open({log!r}, "a") as log:
                print(len(waveform), file=log)
        return super().__call__(waveform)

class SlowLfccEncoder(LfccEncoder):
    preparer_class = SlowLfccPreparer
"""


@pytest.fixture
def slow(cluster: Slurm, images: Images, unpacked: Path, corpus: Path, tmp_path: Path) -> Experiment:
    """An experiment in an unpacked image whose extraction takes a while, with an encoder of another package."""
    plugin = tmp_path / "plugin"
    info = plugin / "voxshard_slow_lfcc-1.0.dist-info"
    info.mkdir(parents=True)
    (plugin / "slow_lfcc.py").write_text(SLOW_LFCC.format(log=str(tmp_path / "prepared.log")))
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: voxshard-slow-lfcc\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[voxshard.encoders]\nslow-lfcc = slow_lfcc:SlowLfccEncoder\n")
    run = on_cluster(cluster, images, tmp_path, plugin, APPTAINERENV_PYTHONPATH=str(plugin))
    run.submit({**SLOW, "runtime": f"image:{unpacked}", "prepare": {"format": "asvspoof5", "root": str(corpus)}})
    return run


def in_image(run: Experiment) -> list[int]:
    """Pids of the extraction's own process in the image."""
    lines = command_lines(run)
    return [
        pid for pid, words in lines if words[0].endswith(b"python") and words[1:4] == [b"-m", b"voxshard", b"extract"]
    ]


def finished(run: Experiment, *, disturbed: int) -> None:
    """The set is complete, and at most a shard was computed again for each time the task was disturbed."""
    run.cluster.wait_until_empty()
    assert (run.path / "report.html").exists(), run.logs("extract-lfcc")
    folder = run.path / "features" / "lfcc"
    assert not list(folder.rglob("*.tmp"))
    shards = Plan.read(folder / "plan.parquet").shard.tolist()
    again = len(run.log.read_text().splitlines()) - len(shards)
    largest = max(Counter(shards).values())
    print(f"\n{again} utterances computed again; a shard has up to {largest}")
    assert again <= disturbed * 2 * largest, "the shard under way, and what was decoded of the next one"


@pytest.mark.parametrize("number", ["USR2", "TERM"])
def test_a_stop_reaches_the_program_in_the_image_which_publishes_what_is_whole(slow: Experiment, number: str) -> None:
    slow.wait_for_shards(2, "lfcc")
    ((job, element, *_),) = slow.elements("extract-lfcc")
    slow.cluster.call("scancel", f"--signal={number}", f"{job}_{element}")
    finished(slow, disturbed=1)
    told = slow.logs("extract-lfcc")
    assert "stopped by a signal; what is finished is kept" in told
    assert "was asked to stop and goes back into the queue" in told
    assert slow.attempts("extract-lfcc") == 1


def test_kill_9_of_the_program_in_the_image_costs_a_shard(slow: Experiment) -> None:
    slow.wait_for_shards(2, "lfcc")
    os.kill(in_image(slow)[0], signal.SIGKILL)
    finished(slow, disturbed=1)
    assert slow.attempts("extract-lfcc") == 2


def small(images: Images, corpus: Path, folder: Path, name: str, device: str = "cpu") -> Path:
    """A config with one encoder, in the image of its framework."""
    image = images.tensorflow if name == "trillsson3" else images.pytorch
    config = {
        "out": str(folder / "exp"),
        "runtime": f"image:{image}",
        "prepare": {"format": "asvspoof5", "root": str(corpus)},
        "extract": {name: {"encoder": ENCODERS[name], "device": device, "shards": 4, "workers": 1}},
    }
    (folder / "config.yaml").write_text(json.dumps(config))
    return folder / "config.yaml"


@pytest.mark.parametrize("name", ["trillsson3", "wav2vec2"])
def test_a_gpu_that_is_not_there_is_one_line(
    images: Images, corpus: Path, weights: Path, tmp_path: Path, name: str
) -> None:
    if any(Path("/dev").glob("nvidia[0-9]*")):
        pytest.skip("this machine has a GPU")
    config = small(images, corpus, tmp_path, name, device="cuda")
    told = images.voxshard("run", config, cwd=tmp_path, check=4, VOXSHARD_WEIGHTS=str(weights))
    lines = [line for line in told.splitlines() if line.startswith("voxshard: ")]
    assert len(lines) == 2
    assert "GPU" in lines[0]
    assert lines[1] == f"voxshard: extract-{name} ended with exit code 4; see the lines above"


def test_weights_that_are_not_there_are_one_line(images: Images, corpus: Path, tmp_path: Path) -> None:
    told = images.voxshard(
        "run", small(images, corpus, tmp_path, "metis8d"), cwd=tmp_path, check=4, VOXSHARD_WEIGHTS=""
    )
    assert sum("weights of metis8d not found" in line for line in told.splitlines()) == 1


def test_a_full_folder_for_temporary_files_is_one_line(
    images: Images, corpus: Path, weights: Path, tmp_path: Path
) -> None:
    (tmp_path / "full").mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path / "full")]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a file system")
    try:
        config = small(images, corpus, tmp_path, "wav2vec2")
        variables = {"VOXSHARD_WEIGHTS": str(weights), "TMPDIR": str(tmp_path / "full")}
        told = images.voxshard("run", config, cwd=tmp_path, check=4, **variables)
    finally:
        subprocess.run(["umount", str(tmp_path / "full")], check=True)
    assert len(told.strip().splitlines()) == 1
    assert f"{tmp_path / 'full'}: 0 MB free" in told


def test_another_version_inside_is_refused(images: Images, corpus: Path, weights: Path, tmp_path: Path) -> None:
    package = shutil.copytree(ROOT / "src" / "voxshard", tmp_path / "newer" / "voxshard")
    text = (package / "__init__.py").read_text()
    (package / "__init__.py").write_text(text + '\n__version__ = "99.0.0"\n')
    told = images.voxshard("run", small(images, corpus, tmp_path, "wav2vec2"), cwd=tmp_path, check=4,
                           VOXSHARD_WEIGHTS=str(weights), PYTHONPATH=str(tmp_path / "newer"))  # fmt: skip
    assert len(told.strip().splitlines()) == 1
    assert "holds voxshard 0.1.0, this is 99.0.0; build the image again" in told


def test_a_local_run_that_is_stopped_stops_the_image_and_goes_on_later(
    images: Images, corpus: Path, weights: Path, tmp_path: Path
) -> None:
    command: Sequence[str] = [sys.executable, "-m", "voxshard", "run", str(small(images, corpus, tmp_path, "wav2vec2"))]
    environment = {**images.environment, "VOXSHARD_WEIGHTS": str(weights)}
    run = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)
    shards = tmp_path / "exp" / "features" / "wav2vec2" / "shards"
    deadline = time.monotonic() + 800
    while not list(shards.glob("*.h5")) and run.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    run.send_signal(signal.SIGTERM)
    told = run.communicate()[1]
    assert run.returncode in (0, 75), told
    images.voxshard("run", tmp_path / "config.yaml", cwd=tmp_path, VOXSHARD_WEIGHTS=str(weights))
    with h5py.File(tmp_path / "exp" / "features" / "wav2vec2" / "features.h5", "r", locking=False) as file:
        assert len(file["utterance_id"]) >= 60


def test_make_extract_trillsson_runs_in_the_image(images: Images, corpus: Path, weights: Path, tmp_path: Path) -> None:
    command = ["make", "--no-print-directory", "extract-trillsson", "RUNTIME=image", f"TF_IMAGE={images.tensorflow}",
               "SPLIT=dev", f"OUT={tmp_path}"]  # fmt: skip
    images.run(*command, cwd=ROOT, ASVSPOOF5_ROOT=str(corpus), VOXSHARD_WEIGHTS=str(weights))
    assert np.load(tmp_path / "dev.npy", allow_pickle=False).shape == (20, DIM)
    summary = json.loads((tmp_path / "trillsson3" / "features" / "trillsson3" / "summary.json").read_text())
    assert summary["image_digests"] == [known.digest(images.tensorflow)]
