#!/bin/bash
# Both images, built on a compute node; the wheels come before, where there is internet:
#
#   make image-wheels && sbatch --partition=cbuild slurm/build_images.sh
#
# Run it from the repository; the images come to lie there. Without a subuid range of your own (`grep $USER /etc/subuid`),
# build from a registry's base and not from a local image, or build elsewhere and copy.
#
# Settings, from the environment (and those of containers/build.sh):
#   IMAGES        which; tensorflow-cpu is the one without CUDA                 (pytorch tensorflow)
#   SCRATCH_DIR   room for the unpacked image, up to 12 GB                      (/dev/shm, the node's memory)
#SBATCH --job-name=build-images
#SBATCH --cpus-per-task=16
#SBATCH --time=01:00:00
#SBATCH --output=%x-%j.out
set -euo pipefail

[ -x containers/build.sh ] || { echo "no containers/build.sh in $PWD; submit this from the repository" >&2; exit 2; }
scratch=${SCRATCH_DIR:-/dev/shm}/voxshard-build-$SLURM_JOB_ID
mkdir -p "$scratch/tmp" "$scratch/cache"
trap 'rm -rf "$scratch"' EXIT
export APPTAINER_TMPDIR=$scratch/tmp APPTAINER_CACHEDIR=$scratch/cache
for image in ${IMAGES:-pytorch tensorflow}; do
  containers/build.sh "$image"
done
