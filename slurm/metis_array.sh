#!/bin/bash
# Metis-8d semantic features (8 numbers per frame, 50 frames a second) of every utterance of a manifest.
# Any number of these may work on one OUT, at once or one after the other; run it again to go on.
#
#   sbatch --partition=gpu_a100 --array=0-7 slurm/metis_array.sh
#
# Settings, from the environment:
#   MANIFEST      what `voxshard prepare` wrote                           (manifest.parquet)
#   OUT           folder of the feature set                               (features/metis8d)
#   CODES         true: also the codes of the semantic codec                (false)
#   SPLIT         only this split                                         (all)
#   DEVICE        cuda, or cpu                                            (cuda)
#   VOXSHARD_WEIGHTS  folder that holds the weights' folders
#   IMAGE, VENV, BINDS, MAX_REQUEUES  where it runs: see step.sh  (voxshard-pytorch.sif, .venv-torch)
#SBATCH --job-name=metis
#SBATCH --array=0-3
#SBATCH --gpus-per-node=1
#SBATCH --time=12:00:00
#SBATCH --signal=USR2@180
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%A_%a.out
set -euo pipefail

manifest=${MANIFEST:-manifest.parquet}
out=${OUT:-features/metis8d}
options=(--encoder metis8d --out "$out" --device "${DEVICE:-cuda}")
[ "${CODES:-false}" = false ] || options+=(--set "codes=$CODES")
[ -z "${SPLIT:-}" ] || options+=(--split "$SPLIT")

# sbatch runs a copy of this script: step.sh lies beside the original, which the job's command names, or in slurm/.
job=$(scontrol show job "${SLURM_JOB_ID:-0}" 2>/dev/null | sed -n '0,/^ *Command=/s///p') || true
for here in "$(dirname "$0")" "$(dirname "${job%%.sh *}")" "${SLURM_SUBMIT_DIR:-.}/slurm" ''; do [ ! -e "$here/step.sh" ] || break; done
# shellcheck source=/dev/null
source "${here:?no step.sh beside the script or in slurm/: copy it, too}/step.sh" voxshard-pytorch.sif .venv-torch
run_voxshard extract "$manifest" "${options[@]}" \
  --task "$((SLURM_ARRAY_TASK_ID - SLURM_ARRAY_TASK_MIN))" --tasks "$SLURM_ARRAY_TASK_COUNT"
