"""Conversion of models of the clinical speech programs into run directories; see
`voxshard.networks.clinical_models`."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from voxshard import __version__, files
from voxshard.encoders import hf
from voxshard.encoders._torch.torch_files import read_tensors
from voxshard.errors import CorruptFileError, MissingWeightsError
from voxshard.learning import results
from voxshard.learning.label_groups import number_groups
from voxshard.learning.model import Target
from voxshard.networks.clinical_models import ClinicalModel, arguments_file, describe
from voxshard.networks.network import Network
from voxshard.networks.network_files import write_checkpoint
from voxshard.store.runs import check_is_run, publish_run

State = Mapping[str, torch.Tensor]
_NOT_USED = re.compile(r"model\.(projector|classifier|layer_weights)\b")
"""Parts of transformers' classifier above the model that the programs never run."""
_OPTIONAL = ("masked_spec_embed", "standardize.")
"""Tensors of ours that a model need not have: SpeechAugment's vector, which only training reads, and what settings
decide."""


def convert_clinical_model(source: Path, out: Path, base: str | None) -> Path:
    """Write a run directory with the network in `source`, a MODEL.pt with its args.pkl.

    Parameters
    ----------
    base : folder or `org/name` of the model that a wav2vec 2.0 model began as; None: found by args.pkl.

    Returns
    -------
    `out`: for `evaluate --on` and the encoder `checkpoint`.

    Raises
    ------
    CorruptFileError : tensors or arguments that cannot be read, that hold anything else, or do not fit together.
    MissingWeightsError : the configuration of the model it began as is not found.
    """
    check_is_run(out)
    arguments = arguments_file(source)
    state = read_tensors(source)
    model = describe(arguments, {name: tensor.shape for name, tensor in state.items()})
    with tempfile.TemporaryDirectory() as folder:
        assets = Path(folder)
        if model.checkpoint is not None:
            _copy_configuration(_base_folder(model.checkpoint, base, source), assets)
        network = Network(model.spec, assets)
    _load(network, state, source)
    _publish(out, network.eval(), model, [source, arguments])
    return out


def _base_folder(checkpoint: str, base: str | None, source: Path) -> Path:
    """Return the folder with the configuration of the pretrained model that was fine-tuned."""
    if base is not None:
        return hf.folder_of(base, wanted_by="--base")
    for place in (Path(checkpoint), source.with_name(Path(checkpoint).name)):
        if (place / hf.CONFIG).is_file():
            return place
    name = checkpoint if "/" in checkpoint else f"facebook/{checkpoint}"
    try:
        return hf.folder_of(name, wanted_by=str(source))
    except MissingWeightsError as exc:
        raise MissingWeightsError(
            f"{source} began as {checkpoint}, whose {hf.CONFIG} is not here; give --base FOLDER or --base org/name "
            f"(`voxshard weights fetch hf/{name}`)"
        ) from exc


def _copy_configuration(folder: Path, assets: Path) -> None:
    (assets / hf.CONFIG).write_bytes((folder / hf.CONFIG).read_bytes())
    name = hf.preprocessor_file(folder)
    (assets / name).write_bytes((folder / name).read_bytes())


def _load(network: Network, state: State, source: Path) -> None:
    """Load a state dict of the programs into our network, under our tensor names.

    Raises
    ------
    CorruptFileError : tensors are missing, or of other shapes.
    """
    ours = network.state_dict()
    spelled = {name.replace(".stock.", "."): name for name in ours}  # norms that know which frames are valid
    renamed = {}
    for name, tensor in state.items():
        if not _NOT_USED.match(name):
            plain = _our_name(name, ours)
            renamed[spelled.get(plain, plain)] = tensor
    missing = [name for name in ours if name not in renamed and not any(part in name for part in _OPTIONAL)]
    wrong = [name for name, tensor in renamed.items() if name in ours and tensor.shape != ours[name].shape]
    for names, what in ((missing, "has no tensor for"), (wrong, "has a tensor of another shape for")):
        if names:
            raise CorruptFileError(
                f"{source}: {what} {names[0]} ({len(names)} in all); do its args.pkl and the model it began as belong "
                "to it?"
            )
    network.load_state_dict({**ours, **{name: tensor for name, tensor in renamed.items() if name in ours}})


def _our_name(name: str, ours: State) -> str:
    """Return a tensor's name in `Network`; names of layers above the trained one have no match there."""
    if name == "weightsum":
        return "backbone.layer_weights"
    if name.startswith("dense.dense."):
        return name.replace("dense.dense", "shared")
    if found := re.fullmatch(r"classifiers\.(\d+)\.head\.(dense|norm|outproj)\.(\w+)", name):
        part = {"dense": "dense", "norm": "rest.0", "outproj": "output"}[found[2]]
        return f"heads.heads.{found[1]}.{part}.{found[3]}"
    inner = name.removeprefix("model.")
    if f"backbone.network.{inner}" in ours:
        return f"backbone.network.{inner}"
    inner = inner.partition(".")[2]  # wav2vec2., hubert., wavlm.
    inner = re.sub(r"\.weight_g$", ".parametrizations.weight.original0", inner)  # torch before 2.1
    inner = re.sub(r"\.weight_v$", ".parametrizations.weight.original1", inner)
    return f"backbone.model.{inner}"


def _publish(out: Path, network: Network, model: ClinicalModel, sources: list[Path]) -> None:
    target = Target(kind="multilabel", labels=model.labels, classes=model.labels)
    nothing = pa.table({"utterance_id": pa.array([], pa.string())})
    num_labels = len(model.labels)
    trials = results.trials_table(
        nothing, number_groups(nothing, target, model.spec.groups), "", np.empty((0, num_labels)),
        np.empty((0, num_labels), np.int64),
    )  # fmt: skip
    with publish_run(out) as run:
        about = write_checkpoint(run.model, network, target=asdict(target), clip=model.clip)
        run.write_inputs({"converted": {path.name: files.sha256_of(path) for path in sources}})
        run.write_trials(trials)
        run.write_scores(results.scores_table(trials, target))
        run.write_metrics({**results.summarize(trials, target, replicates=0, seed=0), "notes": []})
        run.write_config(
            {
                "features": [],
                "manifest": None,
                "converted": str(sources[0]),
                "label": list(target.labels),
                "kind": target.kind,
                "classes": list(target.classes),
                "classifier": model.spec.family,
                "settings": model.spec.settings,
                "clip": model.clip,
                "loss": model.spec.loss,
                "seed": 0,
                "precision": "float32",
                "split": None,
                "splits": [],
                "fingerprint": about.fingerprint,
                "created": datetime.now(UTC).isoformat(timespec="seconds"),
                "software": {"voxshard": __version__},
            }
        )
