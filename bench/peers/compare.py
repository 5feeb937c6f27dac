"""Compare voxshard with other programs that compute embeddings: the table in README.md.

    python bench/peers/compare.py PEER...            voxshard transformers speechbrain lhotse nkululeko

Each is used as its documentation shows, by the script of its name next to this one, on the same 240 recordings of 0.4
to 1.5 s and on models of random weights that are made here. Measured are:

- exact: the largest difference between a batch of 8 and one recording at a time, relative to the rms of the values;
- corrupt: what happens when 3 of 243 files are empty, truncated or text;
- kill: the part of the recordings that is opened again by a second run, if only for the header, after `kill -9` when
  half of them were opened;
- files: how many there are on disk afterwards;
- lines: of code or commands that a user writes for it.

It needs strace, and the packages of the peers (transformers, speechbrain, lhotse, nkululeko with torchcodec) next to
voxshard's extra `torch`. NeMo Curator is not among them: it needs Ray, NeMo and a GPU to start.
"""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile

HERE = Path(__file__).parent
SCRIPTS = {
    "voxshard": "voxshard_commands.py",
    "transformers": "transformers_pipeline.py",
    "speechbrain": "speechbrain_encoder.py",
    "lhotse": "lhotse_features.py",
    "nkululeko": "nkululeko_features.py",
}
COUNT = 240
RATE = 16_000


def make_corpus(folder: Path) -> tuple[list[str], list[str]]:
    """Paths of good recordings, and of bad files."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    good = []
    for number in range(COUNT):
        seconds = rng.uniform(0.4, 1.5)
        samples = 0.1 * rng.standard_normal(int(seconds * RATE))
        soundfile.write(folder / f"{number:03d}.wav", samples, RATE)
        good.append(str(folder / f"{number:03d}.wav"))
    (folder / "empty.wav").write_bytes(b"")
    (folder / "text.wav").write_text("this is no recording\n" * 20)
    (folder / "truncated.wav").write_bytes((folder / "000.wav").read_bytes()[:30])
    return good, [str(folder / f"{name}.wav") for name in ("empty", "text", "truncated")]


def make_models(folder: Path) -> dict[str, Path]:
    """Small models of random weights: a wav2vec 2.0 for those that read transformers' folders, an ECAPA-TDNN."""
    import torch
    from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN
    from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2ForSequenceClassification

    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
    convolutions = {"conv_dim": [32] * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4}
    wav2vec2 = Wav2Vec2ForSequenceClassification(
        Wav2Vec2Config(**sizes, **convolutions, num_labels=8, classifier_proj_size=32, vocab_size=32)
    )
    wav2vec2.save_pretrained(folder / "wav2vec2")
    Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=False).save_pretrained(folder / "wav2vec2")
    ecapa = folder / "ecapa"
    ecapa.mkdir()
    network = ECAPA_TDNN(80, lin_neurons=192, channels=[64, 64, 64, 64, 192], attention_channels=32)
    torch.save(network.state_dict(), ecapa / "embedding_model.ckpt")
    (ecapa / "hyperparams.yaml").write_text(_HYPERPARAMS.format(folder=ecapa))
    return {"speechbrain": ecapa}


_HYPERPARAMS = """
compute_features: !new:speechbrain.lobes.features.Fbank
  n_mels: 80
mean_var_norm: !new:speechbrain.processing.features.InputNormalization
  norm_type: sentence
  std_norm: False
embedding_model: !new:speechbrain.lobes.models.ECAPA_TDNN.ECAPA_TDNN
  input_size: 80
  channels: [64, 64, 64, 64, 192]
  attention_channels: 32
  lin_neurons: 192
mean_var_norm_emb: !new:speechbrain.processing.features.InputNormalization
  norm_type: global
  std_norm: False
classifier: !new:speechbrain.nnet.linear.Linear
  input_size: 192
  n_neurons: 2
modules:
  compute_features: !ref <compute_features>
  mean_var_norm: !ref <mean_var_norm>
  embedding_model: !ref <embedding_model>
  mean_var_norm_emb: !ref <mean_var_norm_emb>
  classifier: !ref <classifier>
pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer
  loadables:
    embedding_model: !ref <embedding_model>
  paths:
    embedding_model: {folder}/embedding_model.ckpt
"""


def command(peer: str, model: Path, out: Path, batch: int, paths: list[str]) -> list[str]:
    return [sys.executable, str(HERE / SCRIPTS[peer]), str(model), str(out), str(batch), *paths]


def vectors(peer: str, model: Path, out: Path, batch: int, paths: list[str]) -> dict[str, np.ndarray] | None:
    """Run a peer to its end; None where it ends with an error."""
    done = subprocess.run(command(peer, model, out, batch, paths), capture_output=True, text=True, check=False)
    out.with_suffix(".log").write_text(done.stdout + done.stderr)
    if done.returncode or not out.exists():
        return None
    with np.load(out) as stored:
        ids = [str(name) for name in stored["ids"]]
        return dict(zip(ids, stored["X"], strict=True))


def opened(log: Path, corpus: Path) -> set[str]:
    """Recordings that were opened, by what strace has noted."""
    pattern = re.compile(rf'open(?:at)?\(.*"({re.escape(str(corpus))}/\d+\.wav)".*= \d')
    return set(pattern.findall(log.read_text(errors="replace")))


def traced(log: Path, words: list[str]) -> subprocess.Popen[bytes]:
    trace = ["strace", "-f", "-qq", "-e", "trace=open,openat", "-o", str(log)]
    return subprocess.Popen(
        [*trace, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )


def again_after_kill(peer: str, model: Path, place: Path, corpus: Path, paths: list[str]) -> str:
    """The part of the recordings that a second run opens, after a kill in the middle of the first."""
    out = place / "killed.npz"
    if peer == "voxshard":  # it looks at every header before it computes anything; the kill is meant for the computing
        subprocess.run(command(peer, model, out, 0, paths), capture_output=True, check=True)
    process = traced(place / "first.log", command(peer, model, out, 4, paths))
    half = False
    while process.poll() is None and not half:
        time.sleep(0.02)
        half = (place / "first.log").exists() and len(opened(place / "first.log", corpus)) >= COUNT // 2
    subprocess.run(["pkill", "-9", "-s", str(process.pid)], check=False)
    process.send_signal(signal.SIGKILL)
    process.wait()
    traced(place / "second.log", command(peer, model, out, 4, paths)).wait()
    return f"{len(opened(place / 'second.log', corpus)) / COUNT:.0%}" if out.exists() else "does not run again"


def row(peer: str, model: Path, place: Path, corpus: Path, good: list[str], bad: list[str]) -> list[str]:
    place.mkdir()
    together = vectors(peer, model, place / "together.npz", 8, good)
    files = sum(path.is_file() for path in place.rglob("*")) - 1
    alone = vectors(peer, model, place / "alone.npz", 1, good)
    if together is None or alone is None:
        return [
            peer,
            f"does not run: {(place / 'together.log').read_text().strip().splitlines()[-1][:80]}",
            "",
            "",
            "",
            "",
        ]
    rms = np.sqrt(np.mean([np.square(vector) for vector in alone.values()]))
    deviation = max(np.abs(together[name] - vector).max() for name, vector in alone.items()) / rms
    mixed = vectors(peer, model, place / "mixed.npz", 8, sorted([*good, *bad]))
    log = (place / "mixed.log").read_text()
    if mixed is None:
        corrupt = "ends with an error"
    else:
        kept, invented = sum(name in mixed for name in good), sum(name in mixed for name in bad)
        named = sum(Path(name).name in log for name in bad)
        corrupt = f"{kept} of {COUNT} embedded, {invented} of 3 bad ones too, {named} named"
    kill = again_after_kill(peer, model, place, corpus, good)
    lines = (HERE / SCRIPTS[peer]).read_text().split('"""', 2)[2].strip().splitlines()
    typed = "4" if peer == "voxshard" else str(sum(bool(line.strip()) for line in lines))
    return [peer, f"{deviation:.0e}", corrupt, kill, str(files), typed]


def main(peers: list[str]) -> None:
    place = Path(tempfile.mkdtemp())
    try:
        corpus = place / "corpus"
        good, bad = make_corpus(corpus)
        models = make_models(place / "models")
        print("| | exact in batches | corrupt files | opened again after a kill | files | lines |")
        print("| --- | --- | --- | --- | --- | --- |")
        for peer in peers:
            model = models.get(peer, place / "models" / "wav2vec2")
            print(f"| {' | '.join(row(peer, model, place / peer, corpus, good, bad))} |", flush=True)
    finally:
        shutil.rmtree(place)


if __name__ == "__main__":
    main(sys.argv[1:] or list(SCRIPTS))
