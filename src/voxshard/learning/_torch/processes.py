"""The processes that train one network together, within and outside SLURM, and their devices."""

from __future__ import annotations

import os
import zlib
from collections.abc import Mapping
from typing import Any

import torch
from lightning.fabric.plugins.environments import LightningEnvironment, SLURMEnvironment

from voxshard.encoders._torch.device import resolve_device
from voxshard.errors import ConfigError, DeviceUnavailableError
from voxshard.learning.network_config import NetworkConfig
from voxshard.progress import counted

_FIRST_PORT, _NUM_PORTS = 15_000, 10_000
"""Above what services use, below the ports that Linux gives out by itself (32,768 on)."""


def environment_of(devices: int, variables: Mapping[str, str] = os.environ) -> list[Any]:
    """Return Lightning's plugin for the program that starts the training processes; empty outside of SLURM jobs.

    `srun` with one task, as our jobs have, and a script without `srun` start one process; Lightning starts the others.
    `srun` with as many tasks as devices starts all of them. Lightning's own test, SLURM_NTASKS, has the number that the
    job asked for in scripts, too, where it would wait for processes that no command starts.

    Raises
    ------
    ConfigError : `srun` starts another number of processes, or on several nodes.
    """
    if "SLURM_JOB_ID" not in variables:
        return []
    started = int(variables.get("SLURM_STEP_NUM_TASKS", 1))
    if started == 1:
        return [LightningEnvironment()]
    nodes = int(variables.get("SLURM_STEP_NUM_NODES", 1))
    if started != devices or nodes != 1:
        raise ConfigError(
            f"devices: {devices}, but srun started {started} processes on {counted(nodes, 'node')}; "
            f"start one, which starts the others (srun --ntasks=1), or {devices} on one node"
        )
    return [_StepEnvironment(auto_requeue=False)]


class _StepEnvironment(SLURMEnvironment):  # type: ignore[misc]  # lightning is Any where it is not installed
    """Processes of one `srun`. Lightning's requeue is off: it calls scontrol, which an image may lack."""

    @staticmethod
    def _validate_srun_used() -> None:
        """Do nothing: `environment_of` validates the environment."""

    @staticmethod
    def _validate_srun_variables() -> None:
        """Do nothing: Lightning would refuse `srun --ntasks=2`; `environment_of` checks the number of processes."""

    @property
    def main_port(self) -> int:
        """Port of this step, so that two trainings in one job use different ports."""
        given = os.environ.get("MASTER_PORT")
        return int(given) if given else port_of(os.environ)

    def world_size(self) -> int:
        return int(os.environ["SLURM_STEP_NUM_TASKS"])

    def validate_settings(self, num_devices: int, num_nodes: int) -> None:
        """Do nothing: `environment_of` validates the settings."""


def port_of(variables: Mapping[str, str]) -> int:
    """Return the port on which the processes of a SLURM step meet; each step has its own."""
    step = f"{variables['SLURM_JOB_ID']}.{variables.get('SLURM_STEP_ID', '')}"
    return _FIRST_PORT + zlib.crc32(step.encode()) % _NUM_PORTS


def accelerator_of(config: NetworkConfig) -> dict[str, Any]:
    """Return Lightning's `accelerator` and `devices` for a training.

    Raises
    ------
    DeviceUnavailableError : this process sees fewer GPUs than the training takes.
    """
    device = torch.device(resolve_device(config.device)[0])
    if device.type == "cpu":
        return {"accelerator": "cpu", "devices": config.devices}
    if config.devices == 1:
        return {"accelerator": "gpu", "devices": [device.index or 0]}
    count = torch.cuda.device_count()
    if count < config.devices:
        shown = os.environ.get("CUDA_VISIBLE_DEVICES", "not set")
        raise DeviceUnavailableError(
            f"devices: {config.devices}: this process sees {counted(count, 'GPU')} "
            f"(CUDA_VISIBLE_DEVICES={shown}); ask for {config.devices} on one node "
            "(--gpus-per-node, not --gpus-per-task, which shows each process one), or give a smaller number"
        )
    return {"accelerator": "gpu", "devices": config.devices}
