"""`PYTHONPATH=tests python -m fuzz`: every attack, complete, as a table; the names of attacks select some."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from fuzz.attacks import ATTACKS
from fuzz.harness import report, run_attack

if __name__ == "__main__":
    tallies = []
    for name in sys.argv[1:] or ATTACKS:
        with tempfile.TemporaryDirectory() as folder:
            tallies.append(run_attack(name, ATTACKS[name], Path(folder) / "sandbox", complete=True))
        for line in tallies[-1].broke:
            print(line, flush=True)
    print(report(tallies))
    sys.exit(any(tally.broke for tally in tallies))
