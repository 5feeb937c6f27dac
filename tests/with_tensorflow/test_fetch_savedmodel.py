"""SavedModels by Hub address or Kaggle handle, with both services played by local folders."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from voxshard.encoders._tensorflow.hub import fetch_savedmodel
from voxshard.errors import BackendUnavailableError, ConfigError, MissingWeightsError, TransientFaultError


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[str, str]]:
    """Who was asked for what; both services answer with the folder `cache`."""
    calls: list[tuple[str, str]] = []
    cache = tmp_path / "cache"
    (cache / "variables").mkdir(parents=True)
    (cache / "saved_model.pb").write_bytes(b"graph")
    (cache / "variables" / "variables.index").write_bytes(b"index")
    for module, function in (("tensorflow_hub", "resolve"), ("kagglehub", "model_download")):
        service = ModuleType(module)

        def answer(handle: str, module: str = module) -> str:
            calls.append((module, handle))
            return str(cache)

        setattr(service, function, answer)
        monkeypatch.setitem(sys.modules, module, service)
    return calls


@pytest.mark.parametrize(
    ("given", "service", "handle"),
    [
        ("https://tfhub.dev/google/trillsson5/1", "tensorflow_hub", "https://tfhub.dev/google/trillsson5/1"),
        ("google/trillsson/tensorFlow2/3", "kagglehub", "google/trillsson/tensorFlow2/3"),
        ("google/trillsson/tensorFlow2/3/1", "kagglehub", "google/trillsson/tensorFlow2/3/1"),
        (
            "https://www.kaggle.com/models/google/trillsson/frameworks/TensorFlow2/variations/3/versions/1",
            "kagglehub",
            "google/trillsson/TensorFlow2/3/1",
        ),
        ("https://kaggle.com/models/google/trillsson/tensorFlow2/3", "kagglehub", "google/trillsson/tensorFlow2/3"),
    ],
)
def test_a_handle_is_resolved_by_its_own_service(
    asked: list[tuple[str, str]], tmp_path: Path, given: str, service: str, handle: str
) -> None:
    target = tmp_path / "weights" / "trillsson3"
    assert fetch_savedmodel(given, target) == target
    assert asked == [(service, handle)]
    assert (target / "saved_model.pb").read_bytes() == b"graph"
    assert (target / "variables" / "variables.index").read_bytes() == b"index"
    assert [path.name for path in target.parent.iterdir()] == ["trillsson3"]


def test_what_is_there_is_not_fetched_again(asked: list[tuple[str, str]], tmp_path: Path) -> None:
    for _ in range(2):
        fetch_savedmodel("google/trillsson/tensorFlow2/3", tmp_path / "target")
    assert len(asked) == 1


def test_a_folder_with_something_else_is_left_alone(asked: list[tuple[str, str]], tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "thesis.tex").touch()
    expected = (
        f"{tmp_path / 'target'}: holds something else than a SavedModel; give a folder that is empty or not there"
    )
    with pytest.raises(ConfigError, match=f"^{re.escape(expected)}$"):
        fetch_savedmodel("google/trillsson/tensorFlow2/3", tmp_path / "target")
    assert asked == []


@pytest.mark.usefixtures("asked")
def test_something_that_is_no_savedmodel_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "cache" / "saved_model.pb").unlink()
    expected = "google/yamnet/tfLite/tflite: is no SavedModel: no saved_model.pb in it, but variables"
    with pytest.raises(MissingWeightsError, match=f"^{re.escape(expected)}$"):
        fetch_savedmodel("google/yamnet/tfLite/tflite", tmp_path / "target")
    assert not (tmp_path / "target").exists()


@pytest.mark.usefixtures("asked")
def test_without_internet_it_says_where_to_fetch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(handle: str) -> str:
        raise ConnectionError("Name or service not known")

    monkeypatch.setattr(sys.modules["kagglehub"], "model_download", unreachable)
    expected = (
        "google/trillsson/tensorFlow2/3: could not be fetched: Name or service not known; check that this machine has "
        "internet access; compute nodes often have none: fetch on a login node or elsewhere, and copy the folder"
    )
    with pytest.raises(TransientFaultError, match=f"^{re.escape(expected)}$"):
        fetch_savedmodel("google/trillsson/tensorFlow2/3", tmp_path / "target")


def test_a_broken_hub_package_says_what_would_help(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorflow_hub", None)
    with pytest.raises(BackendUnavailableError, match=r"`import tensorflow_hub` fails .*`pip install 'voxshard\["):
        fetch_savedmodel("https://tfhub.dev/google/trillsson5/1", tmp_path / "target")


@pytest.mark.parametrize("given", ["trillsson", "http://tfhub.dev/google/trillsson5/1", "a/b/c"])
def test_anything_else_is_refused(given: str, tmp_path: Path) -> None:
    expected = f"{given!r}: neither an address https://... nor a Kaggle handle owner/model/framework/variation"
    with pytest.raises(ConfigError, match=f"^{re.escape(expected)}$"):
        fetch_savedmodel(given, tmp_path / "target")
