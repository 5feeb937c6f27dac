"""Files of a trained network, without pickle.

network.yaml        all that building it takes: family, settings, label groups, loss; clips; target; fingerprint
model.safetensors   its weights, the pretrained ones among them
backbone/           small files of the pretrained model (config.json ...), where there is one
model.json          what it predicts, for reports
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from voxshard import __version__, files, software
from voxshard.config import Settings, dump_yaml, parse_yaml, validated
from voxshard.errors import BackendUnavailableError, ConfigError, CorruptFileError, FormatVersionError, IncompleteError
from voxshard.networks.network import Network
from voxshard.networks.settings import NetworkSpec

FORMAT_VERSION = 1
_PACKAGE_OF = {"wav2vec2": ("transformers",), "ecapa": ("speechbrain",)}
DESCRIPTION, TENSORS, ASSETS, SUMMARY = "network.yaml", "model.safetensors", "backbone", "model.json"


class TargetDescription(Settings):
    """Meaning of the outputs; see `voxshard.learning.model.Target`."""

    kind: str
    labels: tuple[str, ...]
    classes: tuple[str, ...]
    positive: int | None = None


class Description(Settings):
    """Content of network.yaml."""

    format_version: int
    network: NetworkSpec
    target: TargetDescription
    clip: dict[str, Any] = Field(default_factory=dict)
    """How recordings are cropped and padded in evaluation."""
    fingerprint: str
    """SHA-256 of the weights and of all fields above."""
    software: dict[str, str]


@dataclass(frozen=True)
class Checkpoint:
    """The description of a checkpoint, with its folder."""

    folder: Path
    about: Description

    @classmethod
    def read(cls, folder: Path) -> Checkpoint:
        """Read a description; `folder` is a run directory or its folder `model`.

        Raises
        ------
        IncompleteError : no network here.
        FormatVersionError : written by a newer voxshard.
        CorruptFileError : not what voxshard writes.
        """
        if (folder / "model" / DESCRIPTION).is_file():
            folder = folder / "model"
        path = folder / DESCRIPTION
        if not path.is_file():
            raise IncompleteError(
                f"{folder}: no trained network here (no {DESCRIPTION}); give the RUN that `voxshard train --network`"
                " wrote"
            )
        content = parse_yaml(files.read_text(path), where=str(path))
        found = content.get("format_version") if isinstance(content, dict) else None
        if isinstance(found, int) and found > FORMAT_VERSION:
            raise FormatVersionError(f"{path}: format {found}, this voxshard reads up to {FORMAT_VERSION}; update it")
        try:
            about = validated(Description, content if isinstance(content, dict) else {}, where=str(path))
        except ConfigError as exc:
            raise CorruptFileError(f"{exc}; not what voxshard writes: train the network again") from exc
        return cls(folder.resolve(), about)

    @property
    def file_names(self) -> list[str]:
        """Names of the files that `load` opens."""
        assets = sorted(path.name for path in (self.folder / ASSETS).glob("*"))
        return [DESCRIPTION, TENSORS, *(f"{ASSETS}/{name}" for name in assets)]

    @property
    def packages(self) -> list[str]:
        """Packages that the network's code needs."""
        return ["torch", *_PACKAGE_OF.get(self.about.network.family, ())]

    def build(self) -> Network:
        """Build the network without its weights, in evaluation mode.

        Raises
        ------
        BackendUnavailableError : made with another major version of a package that it needs.
        """
        software.check_release(self.folder, self.about.software, dict.fromkeys(self.packages, 1))
        network = Network(self.about.network, self.folder / ASSETS)
        network.eval()
        return network

    def load(self) -> Network:
        """Load the network with its weights, in evaluation mode, on the CPU.

        Raises
        ------
        CorruptFileError : weights that cannot be read, or of another network.
        BackendUnavailableError : made with other versions of the packages it needs, with which the weights do not fit.
        """
        network = self.build()
        path = self.folder / TENSORS
        try:
            files.check_readable(path)
            network.load_state_dict(load_file(path), strict=True)
        except FileNotFoundError as exc:
            raise IncompleteError(f"{path}: missing; train the network again") from exc
        except (SafetensorError, RuntimeError, ValueError) as exc:
            others = software.differences(self.about.software, self.packages)
            if others and not isinstance(exc, SafetensorError):
                raise BackendUnavailableError(
                    f"{path}: its weights do not fit the network as it is built here, and it was made with "
                    f"{', '.join(others)}; use the environment or image that made it, or train it again: "
                    f"{str(exc).splitlines()[0]}"
                ) from exc
            raise CorruptFileError(
                f"{path}: does not hold the weights that {DESCRIPTION} describes: {str(exc).splitlines()[0]}"
            ) from exc
        return network


def write_checkpoint(
    folder: Path, network: Network, *, target: Mapping[str, Any], clip: Mapping[str, Any]
) -> Description:
    """Write a network into an existing folder."""
    (folder / ASSETS).mkdir(exist_ok=True)
    network.backbone.describe_to(folder / ASSETS)
    tensors = save(contiguous(network.state_dict()))
    files.publish_bytes(folder / TENSORS, tensors)
    content: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "network": network.spec.model_dump(mode="json"),
        "target": dict(target),
        "clip": dict(clip),
    }
    content["fingerprint"] = files.digest_of({**content, "weights": files.sha256_of(folder / TENSORS)})
    packages = ("torch", "lightning", "transformers", "speechbrain")
    content["software"] = {"voxshard": __version__, **{name: version(name) for name in packages}}
    about = validated(Description, content, where=DESCRIPTION)
    files.publish_bytes(folder / DESCRIPTION, dump_yaml(content).encode())
    summary = {"format_version": FORMAT_VERSION, "classifier": network.spec.family, "target": dict(target)}
    files.publish_json(folder / SUMMARY, {**summary, "fingerprint": about.fingerprint, "software": content["software"]})
    return about


def contiguous(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return tensors as safetensors needs them: on the CPU, each with its own memory."""
    return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in state.items()}
