#!/bin/bash
# Sourced by the scripts in this folder, with the default image and the default virtual environment as arguments:
# `take_settings NAME=VALUE...` reads settings, `run_voxshard WORDS...` is the job's step, `run_extract OPTIONS...` that of
# an element of an array. The step runs in the image if it exists, else in the environment. The job ends as the step
# does, or goes back into the queue if the step was asked to stop.
#
# Settings of every script, from the environment or as words after the script, which also works where the environment
# does not reach the job (`--export=NONE`): sbatch slurm/merge.sh OUT=features/hf VENV=.venv
#   IMAGE         Apptainer or SingularityCE image: a file, or an unpacked folder
#   BINDS         further folders that the image needs, the audio's above all: a,b,c. The current folder, those of
#                 VOXSHARD_WEIGHTS, TMPDIR and HF_HOME, MANIFEST and OUT are bound anyway (docs/images.md)
#   VENV          virtual environment instead of an image
#   MAX_REQUEUES  how often a job that was asked to stop goes back into the queue        (20)
# Settings of extractions:
#   MANIFEST      written by `voxshard prepare`                                          (manifest.parquet)
#   OUT           folder of the feature set
#   SPLIT         extract only this split                                                (all)
#   DEVICE        cuda, or cpu                                                           (cuda)
#   VOXSHARD_WEIGHTS  folder that contains a folder of weights for each encoder
default_image=$1
default_venv=$2
slurm=$(dirname "${BASH_SOURCE[0]}")

fail() {
  echo "$1" >&2
  exit 4
}

take_settings() {
  local word
  for word in "$@"; do
    [[ $word =~ ^[A-Z][A-Z0-9_]*= ]] || { echo "$word: expected NAME=VALUE, a setting" >&2 && exit 2; }
    export "${word?}"
  done
  if [ "${SLURM_EXPORT_ENV:-}" = NONE ] && [ $# = 0 ]; then
    echo "submitted with --export=NONE, so no setting reaches this job; give them as NAME=VALUE after the script" >&2
  fi
}

# What a script states decides, not variables of the terminal it was submitted from, be they of an earlier allocation or
# of a login script: SLURM's commands take options from them. Kept: what this job was given, how the controller is
# reached, and who pays. `voxshard submit` decides the same (src/voxshard/slurm/environment.py).
forget_options() {
  local name
  for name in ${!SLURM_*} ${!SRUN_*} ${!SBATCH_*} ${!SQUEUE_*} ${!SCONTROL_*}; do
    case $name in
    SLURM_JOB_* | SLURM_JOBID | SLURM_ARRAY_* | SLURM_RESTART_COUNT | SLURM_SUBMIT_* | SLURM_CLUSTER*) ;;
    SLURM_CONF* | SLURM_JWT | SLURM_TMPDIR) ;;
    SBATCH_ACCOUNT | SBATCH_QOS | SBATCH_RESERVATION | SBATCH_CONSTRAINT | SBATCH_WCKEY) ;;
    *) unset "$name" ;;
    esac
  done
}

run_extract() {
  run_voxshard extract "${MANIFEST:=manifest.parquet}" "$@" --out "$OUT" --device "${DEVICE:-cuda}" \
    ${SPLIT:+--split "$SPLIT"} --task $((SLURM_ARRAY_TASK_ID - SLURM_ARRAY_TASK_MIN)) --tasks "$SLURM_ARRAY_TASK_COUNT"
}

run_voxshard() {
  local image=${IMAGE:-$default_image} venv=${VENV:-$default_venv} code=0 all cpus id
  local python=("$venv/bin/python" -P)
  [ -z "${IMAGE:-}" ] || [ -e "$IMAGE" ] || fail "no image $IMAGE on $(hostname)"
  if [ -z "${VENV:-}" ] && [ -e "$image" ]; then
    use_image
  else
    [ -x "${python[0]}" ] || fail "no image $image and no ${python[0]}; set IMAGE or VENV"
  fi
  # SLURM signals the step (--signal before the time limit, TERM at preemption); it keeps finished work and exits with 75.
  trap '' TERM USR1 USR2
  # SLURM 22.05 to 23.02 do not hand the CPUs on to the step. A number that is not this job's is larger than all it has.
  cpus=${SLURM_CPUS_PER_TASK:-${SLURM_JOB_CPUS_PER_NODE:-}} all=${SLURM_JOB_CPUS_PER_NODE:-$cpus}
  all=${all%%[(,]*} cpus=${cpus%%[(,]*}
  [ -z "$cpus" ] || [ "$cpus" -le "$all" ] || cpus=$all
  forget_options
  # One task, whatever SLURM makes of two threads per core or --exclusive. -P: nothing is imported from this folder.
  srun --unbuffered --nodes=1 --ntasks=1 ${cpus:+--cpus-per-task="$cpus"} --export=ALL "${python[@]}" -m voxshard "$@" ||
    code=$?
  # Back into the queue, unless the job was cancelled: then SLURM no longer calls it running.
  id=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}
  id=${id:-${SLURM_JOB_ID:-}}
  if [ "$code" = 75 ] && [ -n "$id" ] && [ "${SLURM_RESTART_COUNT:-0}" -lt "${MAX_REQUEUES:-20}" ] &&
    [[ $'\n'$(patiently squeue -h -j "$id" -o %T)$'\n' == *$'\n'RUNNING$'\n'* ]]; then
    patiently scontrol requeue "$id"
  fi
  exit "$code"
}

patiently() { # a controller that is busy is asked again for two minutes
  local try
  for ((try = 0; try < 24; try++)); do
    ! "$@" || return 0
    sleep 5
  done
  return 1
}

use_image() { # sets python: the image's, started as `voxshard submit` starts it
  local launcher=$slurm/image_command.py folders=() name
  [ -e "$launcher" ] || launcher=$slurm/../src/voxshard/runtime/image_command.py
  [ -e "$launcher" ] || fail "no image_command.py next to step.sh: copy src/voxshard/runtime/image_command.py, too"
  command -v python3 >/dev/null || fail "no python3 on PATH on $(hostname), which starts images; load a module of it"
  IFS=, read -ra folders <<<"${BINDS:-}"
  python=(python3 "$launcher" "$image" --result "${MANIFEST:-.}" --result "${OUT:-.}")
  for name in "${folders[@]}"; do python+=(--folder "$name"); done
  python+=(--)
}
