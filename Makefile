# voxshard. `make help` lists the targets.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
BASE := .venv/.installed
TORCH := .venv-torch/.installed
TF := .venv-tf/.installed
PIP := pip --disable-pip-version-check

.PHONY: help
help: ## Show this help
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 18

.PHONY: demo
demo: $(BASE) ## A corpus, features, classifiers and a report in a few minutes; no framework, no network beyond pip
	.venv/bin/voxshard demo

.PHONY: setup setup-torch setup-tf
setup: $(BASE) ## The base environment, .venv: encoders without a framework, classifiers, reports
setup-torch: $(TORCH) ## The PyTorch environment, .venv-torch (about 5 GB)
setup-tf: $(TF) ## The TensorFlow environment, .venv-tf (about 2 GB)

$(BASE): EXTRAS := learn,report,opensmile,onnx,slurm,buckets,weights,tracking,dev
$(TORCH): EXTRAS := torch,learn,report,buckets,weights,tracking,dev
$(TF): EXTRAS := tensorflow,learn,buckets,weights,tracking,dev
$(BASE) $(TORCH) $(TF): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "voxshard needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) -V). Use make PYTHON=python3.11 ..."; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || \
	  { echo "Python's venv is not installed; on Debian and Ubuntu: sudo apt install python3-venv"; exit 1; }
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/$(PIP) install -q -e '.[$(EXTRAS)]'
	@# What numba compiles for librosa, so that the first `--set trim=true` or cqt need not.
	@$(@D)/bin/python -c 'import numpy; from librosa.effects import trim; trim(numpy.ones(4096, numpy.float32))'
	@touch $@

# make extract-trillsson SPLIT=train MODEL=trillsson3 OUT=data/features/trillsson RUNTIME=venv
SPLIT ?= train
MODEL ?= trillsson3
OUT ?= data/features/trillsson
RUNTIME ?= venv
TF_IMAGE ?= voxshard-tensorflow.sif
.PHONY: extract-trillsson
ifdef SITE
extract-trillsson: $(BASE)
	$(MAKE) --no-print-directory setup-tf
	.venv/bin/voxshard submit configs/trillsson.yaml --site $(SITE) --set train=null --set extract.trillsson3.encoder=$(MODEL)
else
extract-trillsson: $(BASE) ## ASVspoof 5 -> OUT/SPLIT.npy and OUT/SPLIT_metadata.csv (MODEL, SPLIT, OUT, RUNTIME=image; $$ASVSPOOF5_ROOT, $$VOXSHARD_WEIGHTS)
	@[ -d "$${ASVSPOOF5_ROOT:-}" ] || { echo "ASVSPOOF5_ROOT is '$${ASVSPOOF5_ROOT:-}': set it to the folder that holds flac_T, flac_D, flac_E_eval and the protocols"; exit 4; }
	@[ -d "$${VOXSHARD_WEIGHTS:-}/$(MODEL)" ] || { echo "no $(MODEL) in VOXSHARD_WEIGHTS ('$${VOXSHARD_WEIGHTS:-}'): on a machine with internet, .venv/bin/voxshard weights fetch $(MODEL)"; exit 4; }
	@case "$(RUNTIME)" in venv) $(MAKE) --no-print-directory setup-tf ;; \
	  image) [ -e $(TF_IMAGE) ] || { echo "no $(TF_IMAGE): \`make image-tensorflow\` builds it (docs/images.md)"; exit 4; } ;; \
	  *) echo "RUNTIME=$(RUNTIME): venv or image"; exit 2 ;; esac
	.venv/bin/voxshard run configs/trillsson.yaml --set out=$(OUT)/$(MODEL) --set train=null \
	  --set extract.trillsson3.encoder=$(MODEL) --set 'extract.trillsson3.splits=[$(SPLIT)]' \
	  --set extract.trillsson3.runtime=$(if $(filter image,$(RUNTIME)),image:$(TF_IMAGE),venv:.venv-tf)
	.venv/bin/voxshard export $(OUT)/$(MODEL)/features/trillsson3 --format npy --split $(SPLIT) --out $(OUT)
endif

.PHONY: extract-metis extract-hf
extract-metis: CONFIG = configs/metis.yaml$(if $(DEVICE), --set extract.metis8d.device=$(DEVICE))
extract-metis: $(BASE) ## Metis-8d latents of $$CORPUS_ROOT on a GPU (DEVICE=cpu: without), here or (SITE=snellius) as SLURM jobs
extract-hf: CONFIG = configs/wav2vec2.yaml --set train=null$(if $(DEVICE), --set extract.wav2vec2.device=$(DEVICE))
extract-hf: $(BASE) ## wav2vec 2.0 embeddings of $$STUDY_ROOT, here or (SITE=snellius) as SLURM jobs
extract-metis extract-hf:
	$(MAKE) --no-print-directory setup-torch
	.venv/bin/voxshard $(if $(SITE),submit,run) $(CONFIG) $(if $(SITE),--site $(SITE))

.PHONY: images image-pytorch image-tensorflow image-wheels
images: image-pytorch image-tensorflow ## Both Apptainer images (containers/build.sh says what can be set)
image-pytorch: $(BASE) ## voxshard-pytorch.sif
	containers/build.sh pytorch
image-tensorflow: $(BASE) ## voxshard-tensorflow.sif; VARIANT=cpu: without CUDA, a quarter of the size
	containers/build.sh tensorflow$(if $(VARIANT),-$(VARIANT))
image-wheels: $(BASE) ## What the images are made of, on a machine with internet; then they can be built on one without
	containers/build.sh pytorch wheels
	containers/build.sh tensorflow$(if $(VARIANT),-$(VARIANT)) wheels

.PHONY: pin-base locks
BASE_TAG ?= python:3.11-slim-bookworm
pin-base: ## Record the digest that the images' base has today, in containers/base.txt; needs internet and skopeo
	@command -v skopeo >/dev/null || { echo "no skopeo here (Debian, Ubuntu: apt install skopeo); or write IMAGE@sha256:... into containers/base.txt"; exit 4; }
	tag=$(BASE_TAG); digest=$$(skopeo inspect --format '{{.Digest}}' "docker://$$tag"); \
	  echo "$${tag%:*}@$$digest" > containers/base.txt
	@cat containers/base.txt
locks: $(BASE) ## Choose the newest packages that fit together for the images: containers/*.lock
	for name in pytorch tensorflow tensorflow-cpu; do .venv/bin/python containers/wheels.py lock $$name; done

.PHONY: check lint
check: lint ## What CI checks before the tests: formatting, lint, types, layers
lint: $(BASE)
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy
	.venv/bin/lint-imports

PYTEST := -m pytest -q -p no:cacheprovider
.PHONY: test test-base test-torch test-tf test-across
test: check test-base test-torch test-tf test-across ## Lint, then the tests of all three environments, alone and together
test-base: $(BASE) ## The tests that need no framework, and the share of src/ that they cover
	.venv/bin/python $(PYTEST) -n 2 --cov --cov-report=term:skip-covered $(patsubst %,--ignore=tests/%,with_torch with_tensorflow across on_slurm on_images)
test-torch: $(TORCH)
	REQUIRE_FRAMEWORK=torch .venv-torch/bin/python $(PYTEST) -n 2 tests/with_torch
test-tf: $(TF)
	REQUIRE_FRAMEWORK=tensorflow .venv-tf/bin/python $(PYTEST) -n 2 tests/with_tensorflow
test-across: $(BASE) $(TORCH) $(TF)
	.venv/bin/python $(PYTEST) tests/across

.PHONY: test-slurm
test-slurm: $(BASE) ## Faults and submissions on a SLURM cluster started for it; REQUIRE_SLURM=1: fail where there is none
	.venv/bin/python $(PYTEST) -n 4 --dist loadfile -o faulthandler_timeout=2900 tests/on_slurm

.PHONY: test-images
test-images: $(BASE) ## The two images at work, alone and on a SLURM cluster started for it; REQUIRE_APPTAINER=1: fail where there is none
	@for image in voxshard-pytorch.sif voxshard-tensorflow.sif; do \
	  [ -e "$${VOXSHARD_IMAGES:-.}/$$image" ] || { echo "no $$image in $${VOXSHARD_IMAGES:-.}; \`make images\` builds it"; exit 4; }; done
	.venv/bin/python $(PYTEST) tests/on_images

.PHONY: package
package: $(BASE) ## Build dist/ (wheel and sdist), check both, and use the wheel in a fresh environment
	rm -rf dist
	.venv/bin/python -m build --outdir dist . >/dev/null
	.venv/bin/twine check --strict dist/*
	tests/tools/use-wheel.sh dist/*.whl

DOCS := .venv/.docs
$(DOCS): $(BASE)
	.venv/bin/$(PIP) install -q -e '.[docs]'
	@touch $@
.PHONY: docs
docs: $(DOCS) ## The site, in build/site; no network
	NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --strict --quiet

.PHONY: docs-commands
docs-commands: $(BASE) ## Write docs/commands.md again, from the commands' own help
	.venv/bin/python docs/write_commands.py

.PHONY: bench
bench: $(BASE) ## Speed and memory, each figure beside something it is compared with
	for script in acoustic prepare store scoring handover; do echo "== $$script"; .venv/bin/python bench/$$script.py; done
	$(MAKE) --no-print-directory setup-torch setup-tf
	.venv-torch/bin/python bench/extraction.py
	.venv-torch/bin/python bench/training.py
	.venv-tf/bin/python bench/trillsson.py

.PHONY: clean
clean: ## Remove the demo and caches (environments stay)
	rm -rf demo build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .coverage
