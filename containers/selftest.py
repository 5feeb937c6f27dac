"""What an image must show before it is used: `python selftest.py --lock FILE --framework torch --without tensorflow`.

Its packages are those of the lock; its framework works and the other is not there; sounds become a merged, verified
feature set through the command line, with a small model of random weights. The node's driver is compared with the one
that its CUDA needs.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import h5py
import numpy as np
import soundfile

from voxshard.runtime import gpus

RATE = 16_000
SECONDS = (0.4, 1.0, 2.5, 3.1)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lock", type=Path, required=True)
    parser.add_argument("--framework", choices=sorted(MODELS), required=True)
    parser.add_argument("--without", nargs="+", required=True)
    given = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    wrong = differing(given.lock)
    if wrong:
        raise SystemExit("packages differ from the lock: " + "; ".join(wrong))
    for name in given.without:
        if importlib.util.find_spec(name) is not None:
            raise SystemExit(f"{name} is in the image of {given.framework}")
    with tempfile.TemporaryDirectory() as folder:
        dim = extract(Path(folder), *MODELS[given.framework](Path(folder) / "weights"))
    programs = f"voxshard {metadata.version('voxshard')} with {given.framework} {metadata.version(given.framework)}"
    print(
        f"{programs}: {len(SECONDS)} embeddings of {dim} numbers, no {', no '.join(given.without)}; packages as locked"
    )
    print(driver(given.framework))
    return 0


def driver(framework: str) -> str:
    """Whether this node's NVIDIA driver is new enough for the CUDA libraries in the image."""
    found, least = gpus.driver_version(), gpus.MIN_DRIVERS[{"torch": "PyTorch"}.get(framework, "TensorFlow")]
    if found is None:
        return f"no NVIDIA driver here; on a GPU this image needs {least} or newer"
    if int(found.partition(".")[0]) >= least:
        return f"NVIDIA driver {found}: new enough, {least} is needed"
    return f"WARNING: NVIDIA driver {found} is older than {least}: this image cannot use the GPUs of this node"


def differing(lock: Path) -> list[str]:
    """The packages that are missing or of another version than the lock says."""
    pinned = re.findall(r"^([\w.\-]+)==([^\s;\\]+)", lock.read_text(), re.MULTILINE)
    if not pinned:
        raise SystemExit(f"{lock} names no packages")
    there = {re.sub(r"[-_.]+", "-", item.name).lower(): item.version for item in metadata.distributions()}
    return [f"{name} {there.get(name, 'missing')}, locked {version}" for name, version in pinned
            if there.get(re.sub(r"[-_.]+", "-", name).lower()) != version]  # fmt: skip


def extract(folder: Path, encoder: str, settings: list[str]) -> int:
    """Make sounds, extract, merge and verify; the size of an embedding."""
    rng = np.random.default_rng(0)
    sounds = folder / "sounds"
    sounds.mkdir()
    for number, seconds in enumerate(SECONDS):
        soundfile.write(sounds / f"{number}.wav", rng.normal(0, 0.1, int(seconds * RATE)), RATE)
    features = folder / "features"
    for words in (
        ["prepare", "folder", str(sounds), "--out", str(folder / "manifest.parquet")],
        ["extract", str(folder / "manifest.parquet"), "--encoder", encoder, *settings, "--out", str(features),
         "--device", "cpu", "--workers", "1", "--shards", "2"],
        ["merge", str(features)],
        ["verify", str(features)],
    ):  # fmt: skip
        run = subprocess.run([sys.executable, "-m", "voxshard", *words], capture_output=True, text=True, check=False)
        if run.returncode != 0:
            raise SystemExit(f"voxshard {words[0]} ended with {run.returncode}:\n{run.stdout}{run.stderr}")
    with h5py.File(features / "features.h5", locking=False) as file:
        embeddings = file["embeddings"][:]
    if embeddings.shape[0] != len(SECONDS) or not np.isfinite(embeddings).all() or embeddings.std() == 0:
        raise SystemExit(f"embeddings of shape {embeddings.shape} are not what was asked for")
    return int(embeddings.shape[-1])


def wav2vec2(folder: Path) -> tuple[str, list[str]]:
    """A wav2vec 2.0 of random weights, as a folder."""
    from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2Model

    config = Wav2Vec2Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48, conv_dim=(16,) * 7,
        num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4,
    )  # fmt: skip
    Wav2Vec2Model(config).save_pretrained(folder)
    Wav2Vec2FeatureExtractor().save_pretrained(folder)
    return "hf", ["--set", f"weights={folder}"]


def trillsson(folder: Path) -> tuple[str, list[str]]:
    """A clip encoder with TRILLsson's inputs and outputs, as a SavedModel folder."""
    import tensorflow as tf

    class Model(tf.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.kernel = tf.Variable(np.random.default_rng(0).normal(0, 0.1, (257, 1024)).astype(np.float32))

        @tf.function(input_signature=[tf.TensorSpec((None, None), tf.float32, name="audio_samples")])  # type: ignore[untyped-decorator]
        def __call__(self, audio_samples: tf.Tensor) -> dict[str, tf.Tensor]:
            spectrum = tf.abs(tf.signal.stft(audio_samples, 400, 160, 512))
            return {"embedding": tf.matmul(tf.reduce_mean(spectrum, axis=1), self.kernel)}

    tf.saved_model.save(Model(), str(folder))
    return "trillsson3", ["--set", f"weights={folder}"]


MODELS: dict[str, Callable[[Path], tuple[str, list[str]]]] = {"torch": wav2vec2, "tensorflow": trillsson}

if __name__ == "__main__":
    sys.exit(main())
