"""The commands of docs/coming-from, from bucket to bucket, as they are written there."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from support.bucket_corpora import uid_corpus
from support.object_stores import ObjectStore
from voxshard.cli import main
from voxshard.locations import MARKER

DOCS = Path(__file__).parents[2] / "docs" / "coming-from"


def commands(page: str) -> list[str]:
    """The lines of the block below the heading of a page that is about buckets."""
    text = (DOCS / page).read_text().partition("## From bucket to bucket\n")[2]
    block = re.search(r"```\n(.*?)```", text, re.DOTALL)
    assert block is not None, page
    return block[1].splitlines()


def test_both_pages_show_the_same_commands() -> None:
    def without_encoder(page: str) -> list[str]:
        return [re.sub(r"--encoder \S+ --set \S+", "", line) for line in commands(page)]

    assert without_encoder("wav2vec2.md") == without_encoder("ecapa.md")


@pytest.mark.parametrize("page", ["wav2vec2.md", "ecapa.md"])
def test_the_documented_commands_go_from_bucket_to_bucket(
    page: str, store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    uid_corpus(tmp_path / "corpus", study="uds")
    place = f"clinic-{page}"
    store.put(tmp_path / "corpus", store.url(place, "speech"))
    for line in commands(page):
        line = re.sub(r"--encoder \S+ --set \S+", "--encoder mfcc --workers 1", line)
        main(shlex.split(line.replace("gs://clinic", store.url(place)))[1:])
    names = store.names(place, "results")
    expected = {"embeddings/train.npy", "embeddings/test.npy", "run/metrics.json", "evaluated/metrics.json"}
    assert {*expected, "report.html", "features/features.h5", f"features/{MARKER}"} <= set(names)
    metrics = json.loads(store.read(place, "results", "evaluated", "metrics.json"))["metrics"]
    assert metrics["test"]["accuracy"]["value"] is not None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "corpus", "work"]
