#!/bin/bash
# Train an ECAPA-TDNN as one job, which goes back into the queue when its time is up and then continues.
#
#   sbatch --partition=gpu_a100 slurm/ecapa_train.sh [NAME=VALUE...] MANIFEST LABEL RUN [options of `voxshard train`]
#
# Settings, from the environment or as NAME=VALUE before MANIFEST:
#   IMAGE, VENV, BINDS, MAX_REQUEUES  where it runs: see step.sh  (voxshard-pytorch.sif, .venv-torch)
#SBATCH --job-name=ecapa
#SBATCH --gpus-per-node=1
#SBATCH --time=08:00:00
#SBATCH --signal=USR1@180
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.out
set -euo pipefail

settings=()
while [[ ${1:-} =~ ^[A-Z][A-Z0-9_]*= ]]; do settings+=("$1") && shift; done
if (($# < 3)); then
  echo "usage: sbatch $0 [NAME=VALUE...] MANIFEST LABEL RUN [options of voxshard train]" >&2
  exit 2
fi
MANIFEST=$1 LABEL=$2 OUT=$3
shift 3

# sbatch runs a copy of this script: step.sh is next to the original, which the job's command names, or in slurm/.
job=$(scontrol show job "${SLURM_JOB_ID:-0}" 2>/dev/null | sed -n '0,/^ *Command=/s///p') || true
for here in "$(dirname "$0")" "$(dirname "${job%%.sh *}")" "${SLURM_SUBMIT_DIR:-.}/slurm" ''; do [ ! -e "$here/step.sh" ] || break; done
# shellcheck source=/dev/null
source "${here:?no step.sh next to the script or in slurm/: copy it, too}/step.sh" voxshard-pytorch.sif .venv-torch
take_settings "${settings[@]}"
run_voxshard train "$MANIFEST" --network ecapa --label "$LABEL" --out "$OUT" "$@"
