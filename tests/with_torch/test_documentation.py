"""Code blocks of the documentation that need PyTorch and nothing else run."""

from __future__ import annotations

from pathlib import Path

import pytest

from support import doc_sandbox

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return doc_sandbox.make(tmp_path_factory.mktemp("made"))


@pytest.mark.parametrize("page", doc_sandbox.pages_with("PyTorch"), ids=lambda page: page.name)
def test_the_blocks_of_a_page_run_one_after_the_other(page: Path, made: Path, tmp_path: Path) -> None:
    doc_sandbox.run_page(page, "PyTorch", made, tmp_path)
