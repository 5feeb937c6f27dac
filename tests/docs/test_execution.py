"""Every code block of the documentation that can run here runs; the others are listed with the reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from support import doc_sandbox
from support.doc_blocks import PAGES, ROOT, blocks

LISTED = [  # page, begin of a block, what it needs and the base environment does not have
    ("CONTRIBUTING.md", "make setup", "make, pipx"),
    ("README.md", "pip install 'voxshard[learn,report]'", "pip"),
    ("README.md", "make check", "make"),
    ("docs/augmentation.md", "voxshard train digits.parquet --network ecapa --label digit", "PyTorch"),
    ("docs/buckets.md", "voxshard prepare uid-folders gs://clinic/speech --study uds", "PyTorch, a network, weights"),
    ("docs/buckets.md", "voxshard publish features/wavlm gs://clinic/results/features", "a network"),
    (
        "docs/coming-from/sklearn-transfer.md",
        "voxshard prepare file-lists data/index/GTZAN --out gtzan.par",
        "TensorFlow, weights",
    ),
    (
        "docs/coming-from/trillsson.md",
        "voxshard prepare asvspoof5 $ASVSPOOF5_ROOT --out manifest.pa",
        "TensorFlow, weights",
    ),
    ("docs/encoders/hear.md", "voxshard extract manifest.parquet --encoder hear --set modul", "PyTorch, weights"),
    ("docs/encoders/onnx.md", "voxshard weights fetch onnx/voxceleb_resnet34_LM", "a network, weights"),
    ("docs/encoders/onnx.md", "voxshard weights fetch ge2e", "a network, weights"),
    ("docs/encoders/onnx.md", "voxshard weights fetch musicnn", "a network, weights"),
    ("docs/encoders/tensorflow.md", "voxshard weights fetch trillsson3", "TensorFlow, a network, weights"),
    ("docs/encoders/tensorflow.md", "voxshard weights fetch vggish", "TensorFlow, a network, weights"),
    ("docs/encoders/tensorflow.md", "voxshard weights convert $VOXSHARD_WEIGHTS/vggish/vggish_mod", "weights"),
    ("docs/encoders/torch.md", "voxshard weights fetch hf/facebook/wav2vec2-base", "PyTorch, a network, weights"),
    ("docs/feature-sets.md", "import torch", "PyTorch"),
    ("docs/gpu.md", "python bench/gpu.py --device cuda --budget 480 --out gpu-res", "python"),
    ("docs/images.md", "git clone URL voxshard && cd voxshard", "cd, git, make"),
    ("docs/images.md", "make image-wheels", "make, sbatch"),
    ("docs/images.md", "export VOXSHARD_WEIGHTS=/projects/0/ours/weights ASVSPOOF5_R", "SLURM, a network, sed"),
    ("docs/index.md", "pip install 'voxshard[learn,report]'", "pip"),
    ("docs/networks.md", "voxshard prepare folder recordings --out digits.parquet \\", "PyTorch"),
    ("docs/networks.md", "voxshard extract digits.parquet --encoder logmel --set sampl", "PyTorch"),
    ("docs/networks.md", "voxshard weights convert experiments/old_mdl.pt runs/old", "PyTorch, weights"),
    (
        "docs/networks.md",
        "voxshard extract fsdd.parquet --encoder mfcc --out mfcc && v",
        "PyTorch, the configs of the repository",
    ),
    ("docs/sites.md", "voxshard submit demo/demo.yaml --site snellius --set site.ac", "SLURM"),
    ("docs/slurm.md", "voxshard submit demo/demo.yaml --site snellius --dry-run", "SLURM"),
    ("docs/tutorials/cluster.md", "export VOXSHARD_WEIGHTS=$HOME/weights", "a network"),
    ("docs/tutorials/cluster.md", "voxshard doctor digits.yaml --site snellius", "SLURM"),
    ("docs/tutorials/cluster.md", "voxshard submit digits.yaml --site snellius --dry-run --set", "SLURM"),
    ("docs/tutorials/cluster.md", "voxshard submit digits.yaml --site snellius --set site.accou", "SLURM"),
    ("docs/tutorials/cluster.md", "voxshard logs /scratch-shared/me/digits --failed", "SLURM"),
    ("docs/tutorials/cluster.md", "voxshard retry /scratch-shared/me/digits --set jobs.extract.", "SLURM"),
    ("docs/tutorials/cluster.md", "voxshard retry /scratch-shared/me/digits --failed", "SLURM"),
    ("docs/weights.md", "export VOXSHARD_WEIGHTS=/projects/speech/weights", "a network, weights"),
]


def test_every_block_that_does_not_run_here_is_listed_with_what_it_needs() -> None:
    found = [block for page in PAGES for block in doc_sandbox.executable_blocks(page)]
    assert [(block.page, block.start, need) for block in found if (need := doc_sandbox.needs(block))] == LISTED


@pytest.mark.parametrize(("page", "language"), doc_sandbox.ELSEWHERE)
def test_the_test_that_runs_a_block_elsewhere_exists(page: str, language: str) -> None:
    assert any(block.is_shell or language == "python" for block in blocks(ROOT / page, language))
    assert Path(page).name in (ROOT / doc_sandbox.ELSEWHERE[page, language]).read_text()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return doc_sandbox.make(tmp_path_factory.mktemp("made"))


@pytest.mark.parametrize("page", doc_sandbox.pages_with(""), ids=lambda page: page.name)
def test_the_blocks_of_a_page_run_one_after_the_other(page: Path, made: Path, tmp_path: Path) -> None:
    doc_sandbox.run_page(page, "", made, tmp_path)
