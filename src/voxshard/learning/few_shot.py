"""Random selection of a few examples per class, so that runs can be repeated and compared.

Letters: U utterances.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from voxshard.errors import DataError

Ints = npt.NDArray[np.int64]


def draw(classes_U: Ints, num_shots: int, *, names: Sequence[str], seed: int, run: int) -> Ints:
    """Draw examples of each class without replacement.

    The examples of fewer shots are among those of more, within one run: a curve over the number of shots then shows
    what more examples bring, not other luck.

    Parameters
    ----------
    classes_U : (U,) class numbers; negative ones are never drawn.
    num_shots : examples per class.
    names : of the classes, for errors.

    Returns
    -------
    positions of the examples, rising.

    Raises
    ------
    DataError : a class has fewer examples.
    """
    chosen = []
    for number in np.unique(classes_U[classes_U >= 0]):
        there = np.flatnonzero(classes_U == number)
        if len(there) < num_shots:
            raise DataError(
                f"--n-shot {num_shots}: class {names[number]} has {len(there)} training examples; "
                f"give --n-shot {len(there)} or fewer"
            )
        chosen.append(np.random.default_rng([seed, run, int(number)]).permutation(there)[:num_shots])
    return np.sort(np.concatenate(chosen))
