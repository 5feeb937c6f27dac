"""Change one byte at a time in all files of packed and index sets, and count what reading them does.

    PYTHONPATH=tests python tests/fuzz/flips.py [--count 600] [--seed 0]

Exit code 1 if a changed byte became another number, id or label, or a traceback.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from pathlib import Path

from support.flips import flip, made_set


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=600, help="changes in all")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    kinds = [(mode, granularity) for mode in ("packed", "index") for granularity in ("utterance", "frames")]
    total: Counter[str] = Counter()
    for number, (mode, granularity) in enumerate(kinds):
        with tempfile.TemporaryDirectory() as folder:
            source = made_set(Path(folder) / "intact", mode, granularity)
            outcomes = flip(source, Path(folder), arguments.count // len(kinds), arguments.seed + number)
        print(f"{mode}, {granularity}: " + ", ".join(f"{name} {times}" for name, times in sorted(outcomes.items())))
        total += outcomes
    bad = [name for name in total if not name.endswith((": found", ": right"))]
    print(f"{arguments.count} changes, {len(bad)} of them wrong")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
