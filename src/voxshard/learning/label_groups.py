"""Labels of networks as float targets: one class out of several, or groups of labels with one head each.

Letters: U utterances, C outputs of the network.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from voxshard import files
from voxshard.errors import ConfigError, DataError
from voxshard.learning.labels import MISSING, YES_NO, Labels, in_order, label_texts, learn_target, number_labels
from voxshard.learning.model import Target
from voxshard.networks.settings import LabelGroup

Texts = Sequence[Sequence[str | None]]


def read_groups(path: Path) -> list[list[str]]:
    """Read label groups from a file: one group per line, labels separated by commas; empty lines are skipped.

    Raises
    ------
    ConfigError : cannot be read, is empty, or names a label twice.
    """
    try:
        lines = files.read_text(path).splitlines()
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{path}: cannot be read as a labels file: {exc}") from exc
    groups = [[name.strip() for name in line.split(",") if name.strip()] for line in lines]
    groups = [group for group in groups if group]
    names = [name for group in groups for name in group]
    if not names:
        raise ConfigError(f"{path}: no labels in it; one group a line, labels separated by commas")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"{path}: label {twice[0]} is in it twice")
    return groups


def learn_groups(
    table: pa.Table, columns: Sequence[str], groups: Sequence[Sequence[str]] | None, chosen: npt.NDArray[np.bool_],
    positive: str | None,
) -> tuple[Target, list[LabelGroup]]:  # fmt: skip
    """Determine the target and the label groups from the training utterances.

    Parameters
    ----------
    columns : label columns of the manifest.
    groups : the same, group by group; None: one column is the classes of a single head, several yes-or-no columns
        share a head, and of other columns each has its own, with an output per value.
    chosen : (U,) the training utterances.

    Raises
    ------
    DataError : a column with fewer than two classes, or one that is not yes or no inside a group.
    ConfigError : `positive` is not one of two classes.
    """
    texts = label_texts(table, columns)
    if len(columns) == 1 and groups is None:
        target = learn_target(columns, texts, chosen, positive)
        return target, [LabelGroup(labels=tuple(target.classes), column=columns[0])]
    if positive is not None:
        raise ConfigError(f"positive={positive}: of several labels the positive class is 1, true or yes; leave it out")
    values = {
        name: {text for text, use in zip(column, chosen, strict=True) if use and text is not None}
        for name, column in zip(columns, texts, strict=True)
    }
    yes_no = {name for name, found in values.items() if any(found <= pair for pair in YES_NO)}
    if groups is None:
        alone = [[name] for name in columns if name not in yes_no]
        together = [name for name in columns if name in yes_no]
        groups = ([together] if together else []) + alone
    learned = [_group(group, yes_no, values) for group in groups]
    classes = [label for group in learned for label in group.labels]
    return Target(kind="multilabel", labels=list(columns), classes=classes), learned


def _group(names: Sequence[str], yes_no: set[str], values: dict[str, set[str]]) -> LabelGroup:
    if all(name in yes_no for name in names):
        return LabelGroup(labels=tuple(names))
    if len(names) > 1:
        odd = next(name for name in names if name not in yes_no)
        shown = ", ".join(in_order(values[odd])[:5])
        raise DataError(
            f"label {odd}: values {shown}; in a group of several labels each must be 0 and 1, false and true, or no and"
            " yes. Give it its own line: its values then become the labels"
        )
    found = in_order(values[names[0]])
    if len(found) < 2:
        raise DataError(f"label {names[0]}: the training utterances have only {found}; a network needs two classes")
    return LabelGroup(labels=tuple(f"{names[0]}={value}" for value in found), column=names[0])


def number_groups(table: pa.Table, target: Target, groups: Sequence[LabelGroup]) -> Labels:
    """Number the labels of a table; labels whose column is absent are missing."""
    there = [name for name in target.labels if name in table.column_names]
    texts = dict(zip(there, label_texts(table, there), strict=True)) if there else {}
    nothing: list[str | None] = [None] * table.num_rows
    if target.kind != "multilabel":
        return number_labels(target, [texts.get(target.labels[0], nothing)])
    outputs: list[Sequence[str | None]] = []
    for group in groups:
        if group.column is None:
            outputs += [texts.get(name, nothing) for name in group.labels]
            continue
        known = [label.removeprefix(f"{group.column}=") for label in group.labels]
        column = [text if text in known else None for text in texts.get(group.column, nothing)]
        outputs += [[None if text is None else str(int(text == value)) for text in column] for value in known]
    return number_labels(target, outputs)


def float_targets(labels: Labels) -> npt.NDArray[np.float32]:
    """Return the targets of the losses, (U, C), between 0 and 1; NaN if a label is missing."""
    numbers = labels.numbers
    if labels.target.kind != "multilabel":
        targets = np.eye(len(labels.target.classes), dtype=np.float32)[np.maximum(numbers, 0)]
        targets[numbers == MISSING] = np.nan
        return targets
    return np.where(numbers == MISSING, np.float32(np.nan), numbers.astype(np.float32))
