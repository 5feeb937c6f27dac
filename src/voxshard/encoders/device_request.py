"""What `--device` asks for, in any framework."""

from __future__ import annotations

import re

from voxshard.errors import ConfigError


def parse_device(request: str) -> tuple[str, int]:
    """Take `--device` apart.

    Parameters
    ----------
    request : "auto", "cpu", "cuda" or "cuda:N".

    Returns
    -------
    "auto", "cpu" or "cuda", and the number of the GPU, 0 where none is named.

    Raises
    ------
    ConfigError : not one of these.
    """
    found = re.fullmatch(r"(auto|cpu|cuda)(?:(?<=cuda):(\d+))?", request)
    if found is None:
        raise ConfigError(f"--device {request}: expected auto, cpu, cuda or cuda:N")
    return found[1], int(found[2] or 0)
