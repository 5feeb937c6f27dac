#!/bin/bash
# TRILLsson embeddings (1024 numbers) of every utterance of a manifest.
# Any number of these may work on one OUT, at once or one after the other; run it again to go on.
#
#   sbatch --partition=gpu_a100 --array=0-7 slurm/trillsson_array.sh
#
# Settings, from the environment:
#   MANIFEST      what `voxshard prepare` wrote                           (manifest.parquet)
#   OUT           folder of the feature set                               (features/MODEL)
#   MODEL         trillsson1 .. trillsson5                                (trillsson3)
#   SPLIT         only this split                                         (all)
#   DEVICE        cuda, or cpu                                            (cuda)
#   VOXSHARD_WEIGHTS  folder that holds the weights' folders
#   IMAGE         Apptainer image                                         (voxshard-tensorflow.sif)
#   BINDS         folders the image must see beside this one and VOXSHARD_WEIGHTS, a,b,c; the audio's above all
#   VENV          virtual environment instead of an image; also where there is no image   (.venv-tf)
#   MAX_REQUEUES  how often a task that was told to stop goes back into the queue         (20)
#SBATCH --job-name=trillsson
#SBATCH --array=0-3
#SBATCH --gpus-per-node=1
#SBATCH --time=12:00:00
#SBATCH --signal=USR2@180
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%A_%a.out
set -euo pipefail

manifest=${MANIFEST:-manifest.parquet}
model=${MODEL:-trillsson3}
out=${OUT:-features/$model}
image=${IMAGE:-voxshard-tensorflow.sif}
options=(--encoder "$model" --out "$out" --device "${DEVICE:-cuda}")
[ -z "${SPLIT:-}" ] || options+=(--split "$SPLIT")

[ -z "${IMAGE:-}" ] || [ -e "$IMAGE" ] || { echo "no image $IMAGE" >&2; exit 4; }
if [ -z "${VENV:-}" ] && [ -e "$image" ]; then
  command -v apptainer >/dev/null || { echo "no apptainer on PATH on $(hostname)" >&2; exit 4; }
  # The image sees this folder, VOXSHARD_WEIGHTS and BINDS, also behind links; of our variables these alone pass.
  [ ! -e "$image.sha256" ] || VOXSHARD_IMAGE_DIGEST=sha256:$(cut -c-64 "$image.sha256")
  export VOXSHARD_IMAGE_DIGEST=${VOXSHARD_IMAGE_DIGEST:-unknown}
  for name in $(compgen -e); do
    case $name in
      SLURM_* | VOXSHARD_* | CUDA_VISIBLE_DEVICES | OMP_NUM_THREADS | HF_*) export "APPTAINERENV_$name=${!name}" ;;
    esac
  done
  cache=/voxshard-cache
  export APPTAINERENV_PYTHONNOUSERSITE=1 APPTAINERENV_XDG_CACHE_HOME=$cache APPTAINERENV_NUMBA_CACHE_DIR=$cache
  IFS=, read -ra folders <<<"$PWD,${VOXSHARD_WEIGHTS:+$VOXSHARD_WEIGHTS,}${BINDS:-}"
  for folder in "${folders[@]}"; do [ -e "$folder" ] || { echo "$folder: not there, so no image can see it" >&2; exit 4; }; done
  binds=$(for folder in "${folders[@]}"; do printf '%s\n' "$folder"; realpath -e "$folder"; done | sort -u | paste -sd,)
  gpu=()
  for device in /dev/nvidia[0-9]*; do [ ! -e "$device" ] || gpu=(--nv); done
  python=(apptainer exec --cleanenv --no-home --scratch "$cache" --pwd "$PWD" --bind "$binds" "${gpu[@]}" "$image" python)
else
  python=("${VENV:-.venv-tf}/bin/python")
  [ -x "${python[0]}" ] || { echo "no image $image and no ${python[0]}; set IMAGE or VENV" >&2; exit 4; }
fi

# SLURM tells the step to stop (USR2 before the time limit, TERM at preemption); it publishes what is whole, exits 75.
trap '' TERM USR1 USR2
code=0
srun --unbuffered "${python[@]}" -m voxshard extract "$manifest" "${options[@]}" \
  --task "$((SLURM_ARRAY_TASK_ID - SLURM_ARRAY_TASK_MIN))" --tasks "$SLURM_ARRAY_TASK_COUNT" || code=$?

# Back into the queue, unless it was cancelled: then SLURM does not call it running any more.
id=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID
if [ "$code" = 75 ] && [ "${SLURM_RESTART_COUNT:-0}" -lt "${MAX_REQUEUES:-20}" ] &&
  [ "$(squeue -h -j "$id" -o %T)" = RUNNING ]; then
  scontrol requeue "$id"
fi
exit "$code"
