#!/bin/bash
# use-wheel.sh WHEEL: install a wheel into a fresh environment, far from any checkout, and use it as its users do.
set -euo pipefail
wheel=$(realpath "$1")
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
cd "$place"
"${PYTHON:-python3}" -m venv environment
environment/bin/pip --disable-pip-version-check install -q "${wheel}[learn,report,weights,slurm]" pytest
export PATH=$place/environment/bin:$PATH

pip --disable-pip-version-check check
voxshard --version
voxshard doctor
voxshard demo
test -s demo/experiment/report.html
voxshard encoders mfcc >/dev/null
python - <<'END'
import voxshard
from voxshard.testing import EncoderConformance

features = voxshard.open_features("demo/experiment/features/mfcc")
print(f"{len(features)} utterances of {features.dim} values; {EncoderConformance.__name__} is in the wheel")
END
