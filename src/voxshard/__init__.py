"""voxshard: embeddings of large audio corpora on HPC clusters, and classifiers trained on them."""

from __future__ import annotations

from voxshard.safe_path import leave_out_working_folder

leave_out_working_folder()

from typing import TYPE_CHECKING, Any  # noqa: E402 (a file of the working folder could be imported instead)

if TYPE_CHECKING:
    __version__: str
    from voxshard.api import (
        FeatureSet,
        LoadedEncoder,
        Manifest,
        TrainedRun,
        evaluate,
        extract,
        load_encoder,
        merge,
        open_features,
        prepare,
        read_scores,
        report,
        train,
    )

__all__ = [
    "FeatureSet", "LoadedEncoder", "Manifest", "TrainedRun", "evaluate", "extract", "load_encoder", "merge",
    "open_features", "prepare", "read_scores", "report", "train",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import the API and the version at their first use, so that importing voxshard stays cheap."""
    if name == "__version__":
        from importlib.metadata import version

        return version("voxshard")
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from voxshard import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return sorted([*(name for name in globals() if name.startswith("__")), *__all__, "__version__"])
