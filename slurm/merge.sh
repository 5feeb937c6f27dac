#!/bin/bash
# Merge the shards of a feature set: features.h5, utterances.parquet, failures.csv, summary.json.
# If shards are missing, it reports them and ends with exit code 3: submit the array again, then this.
#
#   sbatch --partition=rome --dependency=afterany:JOB slurm/merge.sh
#
# Settings, from the environment or as NAME=VALUE after the script:
#   OUT           folder of the feature set; required
#   MODE          auto, packed or index                                   (auto)
#   IMAGE, VENV, BINDS, MAX_REQUEUES  where it runs: see step.sh          (voxshard-pytorch.sif, .venv)
#SBATCH --job-name=merge
#SBATCH --cpus-per-task=1
#SBATCH --time=02:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.out
set -euo pipefail

# sbatch runs a copy of this script: step.sh is next to the original, which the job's command names, or in slurm/.
job=$(scontrol show job "${SLURM_JOB_ID:-0}" 2>/dev/null | sed -n '0,/^ *Command=/s///p') || true
for here in "$(dirname "$0")" "$(dirname "${job%%.sh *}")" "${SLURM_SUBMIT_DIR:-.}/slurm" ''; do [ ! -e "$here/step.sh" ] || break; done
# shellcheck source=/dev/null
source "${here:?no step.sh next to the script or in slurm/: copy it, too}/step.sh" voxshard-pytorch.sif .venv
take_settings "$@"
run_voxshard merge "${OUT:?set OUT, the folder of the feature set}" --mode "${MODE:-auto}"
