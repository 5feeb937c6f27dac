"""Digest of the results that a report shows, stored in the page; file times are not used."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from voxshard import files

_RESULTS = ("metrics.json", "summary.json", "runs/*/metrics.json", "features/*/summary.json")
_HEAD_BYTES = 64 << 10
_RECORDED = re.compile(rb'<meta name="voxshard-inputs" content="([0-9a-f]{64})">')


def inputs_digest(paths: Sequence[Path]) -> str:
    """Return the SHA-256 (hex) of the results of runs, experiments and feature sets, wherever they are stored."""
    return files.digest_of(
        [
            [
                [str(item.relative_to(path)), files.sha256_of(item)]
                for name in _RESULTS
                for item in sorted(path.glob(name))
            ]
            for path in paths
        ]
    )


def recorded_inputs(report: Path) -> str | None:
    """Return the digest of the results that a report shows; None for a page of an earlier version."""
    with open(report, "rb") as stream:
        match = _RECORDED.search(stream.read(_HEAD_BYTES))
    return None if match is None else match[1].decode()
