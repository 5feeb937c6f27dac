"""Run every attack completely, or those named, and print a table of what held.

    PYTHONPATH=tests python -m fuzz [--seed 0] [ATTACK ...]

Exit code 1 if anything broke.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from fuzz.attacks import ATTACKS
from fuzz.harness import report, run_attack


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("attacks", nargs="*", metavar="ATTACK", help=f"among {', '.join(ATTACKS)}")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    tallies = []
    for name in arguments.attacks or ATTACKS:
        with tempfile.TemporaryDirectory() as folder:
            sandbox = Path(folder) / "sandbox"
            tallies.append(run_attack(name, ATTACKS[name], sandbox, complete=True, seed=arguments.seed))
        for line in tallies[-1].broke:
            print(line, flush=True)
    print(report(tallies))
    sys.exit(any(tally.broke for tally in tallies))


if __name__ == "__main__":
    main()
