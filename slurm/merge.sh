#!/bin/bash
# Joins the shards of a feature set: features.h5, utterances.parquet, failures.csv, summary.json.
# With shards missing it ends with exit code 3 and says so: submit the array again, then this.
#
#   sbatch --partition=rome --dependency=afterany:JOB slurm/merge.sh
#
# Settings, from the environment:
#   OUT           folder of the feature set; required
#   MODE          auto, packed or index                                   (auto)
#   IMAGE         Apptainer image                                         (voxshard-pytorch.sif)
#   BINDS         folders the image must see beside this one and VOXSHARD_WEIGHTS, a,b,c; the audio's above all
#   VENV          virtual environment instead of an image; also where there is no image   (.venv)
#SBATCH --job-name=merge
#SBATCH --cpus-per-task=1
#SBATCH --time=02:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.out
set -euo pipefail

image=${IMAGE:-voxshard-pytorch.sif}
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
  python=(apptainer exec --cleanenv --no-home --scratch "$cache" --pwd "$PWD" --bind "$binds" "$image" python)
else
  python=("${VENV:-.venv}/bin/python")
  [ -x "${python[0]}" ] || { echo "no image $image and no ${python[0]}; set IMAGE or VENV" >&2; exit 4; }
fi

exec srun --unbuffered "${python[@]}" -m voxshard merge "${OUT:?set OUT, the folder of the feature set}" --mode "${MODE:-auto}"
