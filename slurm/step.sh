#!/bin/bash
# Sourced by the scripts beside it, with the image and the virtual environment that are meant where nothing is said:
# `run_voxshard WORDS...` is the job's step. It runs in the image where that is there, else in the environment, and the
# job ends as it does; told to stop, the job goes back into the queue.
#
# Settings, from the environment:
#   IMAGE         Apptainer or SingularityCE image: a file, or an unpacked folder
#   BINDS         folders the image must see beside the current one, VOXSHARD_WEIGHTS, MANIFEST and OUT: a,b,c; the
#                 audio's above all
#   VENV          virtual environment instead of an image
#   MAX_REQUEUES  how often a job that was told to stop goes back into the queue         (20)
#
# Each folder is shown by its name and, behind links, by every name on the way to its real one. Of our variables those
# of SLURM, GPUs, threads and model hubs pass; any other as APPTAINERENV_NAME (SINGULARITYENV_NAME).
image=${IMAGE:-$1}
venv=${VENV:-$2}

fail() {
  echo "$1" >&2
  exit 4
}

run_voxshard() {
  local python=("$venv/bin/python") code=0 id
  [ -z "${IMAGE:-}" ] || [ -e "$IMAGE" ] || fail "no image $IMAGE on $(hostname)"
  if [ -z "${VENV:-}" ] && [ -e "$image" ]; then
    start_in_image
  else
    [ -x "${python[0]}" ] || fail "no image $image and no ${python[0]}; set IMAGE or VENV"
  fi
  # SLURM 22.05 to 23.02 do not hand it on to the step.
  [ -z "${SLURM_CPUS_PER_TASK:-}" ] || export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK
  # SLURM tells the step to stop (--signal before the time limit, TERM at preemption); it keeps what is whole, exits 75.
  trap '' TERM USR1 USR2
  srun --unbuffered "${python[@]}" -m voxshard "$@" || code=$?
  # Back into the queue, unless it was cancelled: then SLURM does not call it running any more.
  id=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}
  id=${id:-${SLURM_JOB_ID:-}}
  if [ "$code" = 75 ] && [ -n "$id" ] && [ "${SLURM_RESTART_COUNT:-0}" -lt "${MAX_REQUEUES:-20}" ] &&
    [ "$(squeue -h -j "$id" -o %T)" = RUNNING ]; then
    scontrol requeue "$id"
  fi
  exit "$code"
}

start_in_image() { # sets python: the image's, and what it is started with
  local program=apptainer cache=/voxshard-cache gpu=() folders=() names=() shown=() name prefix
  command -v "$program" >/dev/null || program=singularity
  command -v "$program" >/dev/null || fail "no apptainer and no singularity on PATH on $(hostname); load its module"
  prefix=${program^^}ENV_
  VOXSHARD_IMAGE_DIGEST=sha256:$(digest)
  export VOXSHARD_IMAGE_DIGEST
  for name in $(compgen -e); do
    case $name in
      SLURM_* | VOXSHARD_* | CUDA_* | ROCR_* | HIP_* | OMP_* | HF_* | TORCH_* | TF_*) export "$prefix$name=${!name}" ;;
    esac
  done
  export "${prefix}PYTHONNOUSERSITE=1" "${prefix}XDG_CACHE_HOME=$cache" "${prefix}NUMBA_CACHE_DIR=$cache"

  IFS=, read -ra folders <<<"$PWD,${VOXSHARD_WEIGHTS:+$VOXSHARD_WEIGHTS,}${BINDS:-}"
  for name in "${folders[@]}"; do [ -e "$name" ] || fail "$name: not there on $(hostname), so no image can see it"; done
  for name in "${MANIFEST:-.}" "${OUT:-.}"; do
    until [ -e "$name" ]; do name=$(dirname "$name"); done
    [ "$name" = / ] || folders+=("$name")
  done
  mapfile -t names < <(for name in "${folders[@]}"; do names_of "$(realpath -ms "$name")"; done | LC_ALL=C sort -u)
  # Real folders before the links to them, an outer folder before what lies in it.
  for name in "${names[@]}"; do [ "$name" != "$(realpath "$name")" ] || show "$name"; done
  for name in "${names[@]}"; do show "$name"; done

  for name in /dev/nvidia[0-9]*; do [ ! -e "$name" ] || gpu=(--nv); done
  [ ! -e /dev/kfd ] || gpu=(--rocm)
  python=("$program" exec --cleanenv --no-home --scratch "$cache" --pwd "$PWD" "${shown[@]}" "${gpu[@]}" "$image" python)
}

digest() { # of the image, as every shard notes it: from the note beside it, unless that is older
  local file=$image
  [ ! -d "$image" ] || file=$image/.singularity.d/labels.json
  if [ -e "$image.sha256" ] && [ ! "$image" -nt "$image.sha256" ]; then file=; fi
  if [ -n "$file" ]; then sha256sum "$file"; else cat "$image.sha256"; fi | cut -c-64
}

names_of() { # PATH: itself, then where each link on the way leads, its real name last
  local folder=/ rest=${1#/} part
  echo "$1"
  while [ -n "$rest" ]; do
    part=${rest%%/*}
    rest=${rest#"$part"} rest=${rest#/}
    if [ -L "$folder$part" ]; then
      names_of "$(cd "$folder" && realpath -ms "$(readlink "$part")/$rest")"
      return
    fi
    folder+=$part/
  done
}

show() { # PATH: bind it, unless a folder that is bound holds it
  local other
  for other in "${shown[@]}"; do [[ $1/ != "$other"/* ]] || return 0; done
  shown+=(--bind "$1")
}
