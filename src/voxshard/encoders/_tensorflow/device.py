"""TensorFlow on the device that was asked for, with no more memory, threads or precision than that."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import tensorflow as tf

from voxshard.cpus import available_cpus
from voxshard.encoders.base import Precision
from voxshard.encoders.device_request import (
    check_allotted,
    device_fault,
    is_device_fault,
    is_out_of_memory,
    parse_device,
)
from voxshard.errors import DeviceFaultError, DeviceMemoryError, DeviceUnavailableError

INSTALL = "pip install 'tensorflow[and-cuda]'"


def choose(request: str) -> tuple[str, str]:
    """Turn a request into a device of this machine, with the reason.

    Parameters
    ----------
    request : "auto", "cpu", "cuda" or "cuda:N".

    Returns
    -------
    ("cpu" or "cuda:N", one clause for the log).

    Raises
    ------
    ConfigError : not one of these.
    DeviceUnavailableError : a GPU that TensorFlow does not see, with the likely cause and the remedy.
    """
    kind, index = parse_device(request)
    if kind == "cpu":
        return "cpu", "asked for"
    if kind == "auto":
        gpus = tf.config.list_physical_devices("GPU")
        if not gpus:
            check_allotted(f"TensorFlow {tf.__version__} sees none: {_why_no_gpu()}")
        return ("cuda:0", _name(gpus[0])) if gpus else ("cpu", f"TensorFlow sees no GPU: {_why_no_gpu()}")
    gpu = _gpu(request)
    return f"cuda:{index}", f"asked for, {_name(gpu)}"


def prepare(device: str, precision: Precision) -> None:
    """Make a device the only one TensorFlow uses in this process.

    A GPU's memory is taken as it is needed, not all at once: another process may share it. In float32, TensorFloat-32
    is switched off.

    Parameters
    ----------
    device : "cpu", "cuda" or "cuda:i".

    Raises
    ------
    DeviceUnavailableError : a GPU that TensorFlow does not see, with the likely cause and the remedy; or TensorFlow
        already runs on another device in this process.
    """
    tf.config.experimental.enable_tensor_float_32_execution(precision == "tf32")
    wanted = [] if device == "cpu" else [_gpu(device)]
    try:
        if tf.config.get_visible_devices("GPU") != wanted:
            tf.config.set_visible_devices(wanted, "GPU")
        for gpu in wanted:
            tf.config.experimental.set_memory_growth(gpu, True)
    except RuntimeError as exc:
        raise DeviceUnavailableError(
            f"{device}: TensorFlow already runs otherwise in this process; start one process per device"
        ) from exc
    _limit_threads(available_cpus())


def problem_of(exc: BaseException) -> DeviceMemoryError | DeviceFaultError | None:
    """Return what an error of TensorFlow stands for; None: neither of the two.

    CUDA's libraries report lack of memory as internal errors.
    """
    text = str(exc)
    first_line = (text or type(exc).__name__).splitlines()[0]
    if isinstance(exc, tf.errors.ResourceExhaustedError | MemoryError) or is_out_of_memory(text):
        return DeviceMemoryError(f"out of the device's memory: {first_line}")
    return device_fault("GPU", first_line) if isinstance(exc, tf.errors.OpError) and is_device_fault(text) else None


def _limit_threads(num_cpus: int) -> None:
    """Limit the threads: by default TensorFlow starts one for every CPU of the machine, also where the task was given
    two of 128."""
    threading = tf.config.threading
    if threading.get_intra_op_parallelism_threads() == 0:
        try:
            threading.set_intra_op_parallelism_threads(num_cpus)
            threading.set_inter_op_parallelism_threads(num_cpus)
        except RuntimeError:  # someone else's code has already started TensorFlow here; its threads are its choice
            return


def _gpu(device: str) -> tf.config.PhysicalDevice:
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        raise DeviceUnavailableError(f"{device}: TensorFlow {tf.__version__} sees no GPU: {_why_no_gpu()}")
    _, index = parse_device(device)
    if index >= len(gpus):
        raise DeviceUnavailableError(
            f"{device}: TensorFlow sees {len(gpus)} GPU(s), numbered from 0; CUDA_VISIBLE_DEVICES is"
            f" {os.environ.get('CUDA_VISIBLE_DEVICES', 'not set')}"
        )
    return gpus[index]


def _name(gpu: tf.config.PhysicalDevice) -> str:
    return str(tf.config.experimental.get_device_details(gpu).get("device_name", gpu.name))


def _why_no_gpu() -> str:
    if not tf.test.is_built_with_cuda():
        return f"this is the CPU package (tensorflow-cpu, or a build without CUDA); `{INSTALL}` in its place"
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if hidden is not None and hidden.strip() in ("", "-1", "NoDevFiles"):
        return f"CUDA_VISIBLE_DEVICES={hidden!r} hides them all; unset it, or ask SLURM for a GPU (`--gpus=1`)"
    if not Path("/proc/driver/nvidia/version").exists() and not Path("/dev/nvidiactl").exists():
        return (
            "there is no NVIDIA driver here; on a cluster ask for a GPU node, in a container start it with the GPU"
            " (`apptainer exec --nv`), or run with `--device cpu`"
        )
    if importlib.util.find_spec("nvidia") is None:
        return f"the driver is installed, the CUDA libraries are not (the package comes without them); `{INSTALL}`"
    return (
        "driver and CUDA packages are installed, but TensorFlow could not open them; "
        "`TF_CPP_MIN_LOG_LEVEL=0 python -c 'import tensorflow as tf; tf.config.list_physical_devices()'` names the"
        f" library that is missing or too old, `{INSTALL}` brings those it was built for"
    )
