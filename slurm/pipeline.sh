#!/bin/bash
# Extracts with several encoders and merges each, without a submitter: run it on a login node, it returns at once.
#
#   PARTITION=gpu_a100 MERGE_PARTITION=rome TASKS=8 bash slurm/pipeline.sh metis trillsson
#
# Arguments: metis, trillsson, hf; each stands for slurm/NAME_array.sh and takes its settings (see there).
# Settings, from the environment:
#   MANIFEST         what `voxshard prepare` wrote                        (manifest.parquet)
#   OUT_ROOT         the feature sets go to OUT_ROOT/NAME                 (features)
#   TASKS            array elements of each extraction                    (4)
#   PARTITION        of the extractions                                   (the cluster's default)
#   MERGE_PARTITION  of the merges                                        (PARTITION)
#   TIME             of one extraction task, e.g. 12:00:00                (what the script says)
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=slurm/step.sh
source "$here/step.sh" '' ''
forget_options
unset "${!SLURM_ARRAY_@}" SLURM_RESTART_COUNT # of an array that this terminal was opened in
[ $# -gt 0 ] || { sed -n '2,14s/^# \{0,1\}//p' "$0"; exit 2; }
[ -e "${MANIFEST:-manifest.parquet}" ] || { echo "no manifest ${MANIFEST:-manifest.parquet}; see voxshard prepare" >&2; exit 4; }

for name in "$@"; do
  [ -e "$here/${name}_array.sh" ] || { echo "no ${name}_array.sh in $here" >&2; exit 2; }
done
submit() { # prints the job's id, whatever the site prints around it
  local printed
  printed=$(sbatch --parsable --export=ALL "$@")
  sed -n 's/^\([0-9][0-9]*\)\(;[^ ]*\)\{0,1\}$/\1/p' <<<"$printed" | tail -n 1 | grep . ||
    fail "sbatch printed no job id: $printed"
}

for name in "$@"; do
  export OUT="${OUT_ROOT:-features}/$name"
  array=$(submit ${PARTITION:+--partition="$PARTITION"} ${TIME:+--time="$TIME"} \
    --array="0-$((${TASKS:-4} - 1))" "$here/${name}_array.sh")
  partition=${MERGE_PARTITION:-${PARTITION:-}}
  # afterany, not afterok: merge itself looks whether all shards are there.
  merge=$(submit ${partition:+--partition="$partition"} --dependency="afterany:$array" "$here/merge.sh")
  echo "$name: extraction $array, then merge $merge; voxshard status $OUT"
done
