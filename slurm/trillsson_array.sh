#!/bin/bash
# TRILLsson embeddings (1024 numbers) of every utterance of a manifest.
# Any number of these may work on one OUT, at once or one after the other; submit it again to continue.
#
#   sbatch --partition=gpu_a100 --array=0-7 slurm/trillsson_array.sh
#
# Settings, from the environment or as NAME=VALUE after the script (step.sh has the others):
#   OUT           folder of the feature set                               (features/MODEL)
#   MODEL         trillsson1 .. trillsson5                                (trillsson3)
#   IMAGE, VENV   where it runs                                           (voxshard-tensorflow.sif, .venv-tf)
#SBATCH --job-name=trillsson
#SBATCH --array=0-3
#SBATCH --gpus-per-node=1
#SBATCH --time=12:00:00
#SBATCH --signal=USR2@180
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%A_%a.out
set -euo pipefail

# sbatch runs a copy of this script: step.sh is next to the original, which the job's command names, or in slurm/.
job=$(scontrol show job "${SLURM_JOB_ID:-0}" 2>/dev/null | sed -n '0,/^ *Command=/s///p') || true
for here in "$(dirname "$0")" "$(dirname "${job%%.sh *}")" "${SLURM_SUBMIT_DIR:-.}/slurm" ''; do [ ! -e "$here/step.sh" ] || break; done
# shellcheck source=/dev/null
source "${here:?no step.sh next to the script or in slurm/: copy it, too}/step.sh" voxshard-tensorflow.sif .venv-tf
take_settings "$@"
MODEL=${MODEL:-trillsson3}
OUT=${OUT:-features/$MODEL}
run_extract --encoder "$MODEL"
