"""Durations that a corpus states, compared with those of the headers: a manifest may be of other files."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pyarrow as pa

_TOLERANCE_S, _TOLERANCE = 0.1, 0.01
"""What manifests round, and what encoders of MP3 and AAC add."""


def comparison(ids: Sequence[str], stated_s: Sequence[float | None]) -> Callable[[pa.Table], pa.Table]:
    """Return a function that adds a warning to recordings whose header has another duration than was stated.

    Parameters
    ----------
    stated_s : of the complete recording of each utterance; None where nothing was stated, or the utterance is a span.
    """
    stated = dict(zip(ids, stated_s, strict=True))

    def compare(table: pa.Table) -> pa.Table:
        if "duration_s" not in table.column_names:  # nothing was probed
            return table
        before = table["warning"].to_pylist() if "warning" in table.column_names else [None] * len(table)
        warnings = []
        for name, found, warning in zip(
            table["utterance_id"].to_pylist(), table["duration_s"].to_pylist(), before, strict=True
        ):
            wanted = stated.get(name)
            if wanted is None or found is None or abs(wanted - found) <= max(_TOLERANCE_S, _TOLERANCE * wanted):
                warnings.append(warning)
            else:
                text = f"the corpus states {wanted:.2f} s, the recording has {found:.2f} s"
                warnings.append(f"{warning}; {text}" if warning else text)
        if warnings == before:
            return table
        column = pa.array(warnings, pa.string())
        if "warning" in table.column_names:
            return table.set_column(table.column_names.index("warning"), "warning", column)
        return table.append_column("warning", column)

    return compare
