#!/bin/bash
# containers/build.sh pytorch|tensorflow|tensorflow-cpu [wheels]: build voxshard-pytorch.sif or voxshard-tensorflow.sif here.
#
# The wheels of the lock come first, into build/wheels, by this machine's pip; with `wheels` nothing more is done. The
# build itself then needs no network, unless it has to bring the base.
#
# Settings, from the environment:
#   APPTAINER      apptainer or singularity                                     (apptainer)
#   BASE_IMAGE     a local image with Python 3.11 as the base                   (the one pinned in containers/base.txt)
#   BUILD_OPTIONS  further options of `apptainer build`                         (--fakeroot)
#   SQUASH         how the image is compressed; every start reads it            (-comp zstd -Xcompression-level 3)
#   PYTHON         a Python with pip, for the wheels                            (.venv/bin/python)
#   APPTAINER_TMPDIR  room for the unpacked image, up to 12 GB: on a cluster scratch, never /tmp in memory
set -euo pipefail
cd "$(dirname "$0")/.."
name=${1:?pytorch, tensorflow or tensorflow-cpu}
python=${PYTHON:-.venv/bin/python}
apptainer=${APPTAINER:-apptainer}
lock=containers/$name.lock
wheels=$PWD/build/wheels/$name
since=$SECONDS

case $name in
  pytorch) framework=torch without="tensorflow keras" ;;
  tensorflow | tensorflow-cpu) framework=tensorflow without="torch torchaudio transformers" ;;
  *) echo "no image $name; there are pytorch, tensorflow, tensorflow-cpu" >&2; exit 2 ;;
esac

"$python" containers/wheels.py download "$name" "$wheels"
rm -f "$wheels"/voxshard-*.whl
"$python" -m pip --disable-pip-version-check wheel --quiet --no-deps --wheel-dir "$wheels" .
version=$(basename "$wheels"/voxshard-*.whl | cut -d- -f2)
echo "$name: $(find "$wheels" -name '*.whl' | wc -l) wheels, $(du -sh "$wheels" | cut -f1), after $((SECONDS - since)) s"
[ "${2:-}" != wheels ] || exit 0

command -v "$apptainer" >/dev/null || { echo "no $apptainer here; set APPTAINER, or build elsewhere and copy the image" >&2; exit 4; }
if [ -n "${BASE_IMAGE:-}" ]; then
  base=(--build-arg bootstrap=localimage --build-arg from="$BASE_IMAGE")
elif [ -s containers/base.txt ]; then
  base=(--build-arg bootstrap=docker --build-arg from="$(cat containers/base.txt)")
else
  echo "no base: \`make pin-base\` on a machine with internet records one, or name an image with Python 3.11: BASE_IMAGE=base.sif" >&2
  exit 4
fi
revision=$(git rev-parse HEAD 2>/dev/null || echo unknown)
[ -z "$(git status --porcelain 2>/dev/null)" ] || revision+=-modified
image=voxshard-${name%-cpu}.sif
read -ra options <<<"${BUILD_OPTIONS---fakeroot}"
"$apptainer" build --force "${options[@]}" --bind "$wheels:/mnt" --mksquashfs-args="${SQUASH:--comp zstd -Xcompression-level 3}" \
  "${base[@]}" --build-arg title="${image%.sif}" --build-arg framework="$framework" --build-arg without="$without" --build-arg version="$version" \
  --build-arg revision="$revision" --build-arg lock="$lock" --build-arg lock_sha256="$(sha256sum "$lock" | cut -c-64)" \
  "$image.building" containers/voxshard.def
mv "$image.building" "$image"
sha256sum "$image" >"$image.sha256"
echo "$image: $(du -h "$image" | cut -f1), built in $((SECONDS - since)) s"
