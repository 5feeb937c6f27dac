"""What the attacks once found, each tried again by itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fuzz.attacks import make_set
from fuzz.crafted_hdf5 import with_facts
from voxshard import open_features
from voxshard.config import validated
from voxshard.errors import ConfigError, CorruptFileError, StaleShardError, VoxshardError
from voxshard.learning.train_config import TrainConfig
from voxshard.progress import Silent
from voxshard.store import merged
from voxshard.store.layout import FeatureDir
from voxshard.store.verify import verify

Change = Callable[[dict[str, Any]], Any]


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda facts: facts["datasets"].pop("shards/digest"), "/shards/digest is missing"),
        (lambda facts: facts["datasets"]["shards/name"].__setitem__(1, "<i8"), "/shards/name is of type int64"),
        (lambda facts: facts["datasets"]["id_text_offsets"].__setitem__(0, [True]), "/id_text_offsets has shape"),
        (lambda facts: facts["attributes"].pop("embeddings_dtype"), "attribute embeddings_dtype is missing"),
    ],
)
def test_a_sealed_file_that_describes_itself_wrongly_is_refused_by_name(
    change: Change, what: str, tmp_path: Path
) -> None:
    path = make_set(tmp_path / "set", "index")

    def changed(facts: dict[str, Any]) -> dict[str, Any]:
        change(facts)
        return facts

    with_facts(path / "features.h5", changed)
    with pytest.raises(CorruptFileError, match=what):
        open_features(path)
    assert verify(FeatureDir(path), Silent(), lambda: None).problems


def test_a_merged_file_without_its_table_of_shards_is_one_of_other_shards(tmp_path: Path) -> None:
    path = make_set(tmp_path / "set")

    def without_shards(facts: dict[str, Any]) -> dict[str, Any]:
        kept = {name: at for name, at in facts["datasets"].items() if not name.startswith("shards/")}
        return {**facts, "datasets": kept}

    with_facts(path / "features.h5", without_shards)
    problems = verify(FeatureDir(path), Silent(), lambda: None).problems
    assert [type(problem.error) for problem in problems] == [StaleShardError]


def test_whatever_bit_of_a_tables_footer_changes_is_no_bug(tmp_path: Path) -> None:
    """Some ask pyarrow for a type that does not exist, which is no ArrowInvalid."""
    path = make_set(tmp_path / "set") / "utterances.parquet"
    content = path.read_bytes()
    footer = int.from_bytes(content[-8:-4], "little")
    kinds = set()
    for at in range(len(content) - footer - 8, len(content)):
        for bit in range(8):
            changed = bytearray(content)
            changed[at] ^= 1 << bit
            path.write_bytes(changed)
            try:
                merged.merge_id_of_table(path)
            except VoxshardError as exc:
                kinds.add(type(exc.__cause__).__name__)
    assert "ArrowNotImplementedError" in kinds


@pytest.mark.parametrize("key", ["label", "features"])
@pytest.mark.parametrize("value", [1.5, {"a": 1}])
def test_names_of_another_kind_are_refused_by_their_key(key: str, value: Any) -> None:
    content = {"features": ["set"], "label": ["label"], "classifier": "logistic", key: value}
    with pytest.raises(ConfigError, match=key):
        validated(TrainConfig, content, where="config")
