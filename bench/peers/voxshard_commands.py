"""What users of voxshard write: four commands, of which the last three are repeated after a kill.

python voxshard_commands.py MODEL OUT BATCH FILE...
"""

import subprocess
import sys
from pathlib import Path

model, out, batch, *paths = sys.argv[1:]
folder = Path(out).with_suffix("")
folder.mkdir(exist_ok=True)
(folder / "files.csv").write_text("path\n" + "\n".join(paths) + "\n")
if not (folder / "manifest.parquet").exists():
    prepare = f"prepare table {folder}/files.csv --out {folder}/manifest.parquet"
    subprocess.run([sys.executable, "-m", "voxshard", *prepare.split()], check=True)
if int(batch) == 0:  # list the corpus, and no more
    sys.exit()
for command in (
    f"extract {folder}/manifest.parquet --encoder hf --set weights={model} --batch-seconds {1.5 * int(batch)} "
    f"--workers 1 --out {folder}/set --max-failure-fraction 0.5",
    f"merge {folder}/set",
    f"export {folder}/set --format npz --out {out}",
):
    subprocess.run([sys.executable, "-m", "voxshard", *command.split()], check=True)
