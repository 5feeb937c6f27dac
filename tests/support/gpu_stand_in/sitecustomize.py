"""A stand-in for the GPU of a SLURM job, for every Python that has this folder in PYTHONPATH.

A job that SLURM gave a GPU computes on the CPU as if it were one. GPU_STAND_IN_LOG gets a line for every network that
is scored: step, GPUs of the job, number of recordings. The GPU fails on the nodes that GPU_STAND_IN_BROKEN names; while
that file is empty, the first node that computes becomes the only one.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def _gpu_is_a_cpu(module: Any) -> None:
    resolve = module.resolve_device

    def stand_in(request: str) -> tuple[str, str]:
        gpus = os.environ.get("SLURM_JOB_GPUS")
        return ("cpu", f"GPU {gpus} of the job, a stand-in") if gpus and request != "cpu" else resolve(request)

    module.resolve_device = stand_in


def _scoring_is_noted(module: Any) -> None:
    run = module.Predictor._run

    def noted(self: Any, network: Any, forward: Any, rows: Any) -> Any:
        with open(os.environ["GPU_STAND_IN_LOG"], "a") as log:
            log.write(f"{os.environ['SLURM_JOB_NAME']} gpus={os.environ.get('SLURM_JOB_GPUS', '')} {len(rows)}\n")
        return run(self, network, forward, rows)

    module.Predictor._run = noted


def _gpu_fails(module: Any) -> None:
    forward = module.HfEncoder.forward

    def failing(self: Any, *arguments: Any) -> Any:
        import torch

        broken, node = Path(os.environ["GPU_STAND_IN_BROKEN"]), os.environ["SLURMD_NODENAME"]
        if not broken.read_text():
            broken.write_text(node)
        if node in broken.read_text().split():
            raise torch.AcceleratorError("CUDA error: uncorrectable ECC error encountered")
        return forward(self, *arguments)

    module.HfEncoder.forward = failing


_CHANGES: dict[str, Callable[[Any], None]] = {"voxshard.encoders._torch.device": _gpu_is_a_cpu}
if "GPU_STAND_IN_LOG" in os.environ:
    _CHANGES["voxshard.learning._torch.prediction"] = _scoring_is_noted
if "GPU_STAND_IN_BROKEN" in os.environ:
    _CHANGES["voxshard.encoders._torch.hf"] = _gpu_fails


class _Changing(importlib.abc.MetaPathFinder):
    """Finds the modules to change as usual, and changes them once they were executed."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        change = _CHANGES.pop(name, None)
        if change is None:
            return None
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.loader is not None
        execute = spec.loader.exec_module

        def changed(module: Any) -> None:
            execute(module)
            change(module)

        spec.loader.exec_module = changed  # type: ignore[method-assign]
        return spec


sys.meta_path.insert(0, _Changing())
