"""ge2e: exact in any batch, Resemblyzer's numbers on its real weights, and a reader that executes nothing."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from voxshard.encoders import ge2e, ge2e_weights
from voxshard.encoders.base import Encoder
from voxshard.encoders.registry import create
from voxshard.errors import CorruptFileError, MissingWeightsError
from voxshard.testing import EncoderConformance, encode_together
from voxshard.weights import packages
from voxshard.weights.catalogue import weight_set
from voxshard.weights.fetch import fetch, verify

REFERENCE = Path(__file__).parents[2] / "../shared/reference_more"


@pytest.fixture(scope="module")
def random_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ge2e")
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {
        name: (rng.standard_normal(shape) / shape[-1] ** 0.5).astype(np.float32)
        for name, shape in ge2e_weights.SHAPES.items()
    }
    np.savez(folder / ge2e_weights.CONVERTED, **arrays)
    return folder


@pytest.fixture(scope="module")
def real_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The published weights, where pip reaches an index that has them."""
    try:
        return fetch(weight_set("ge2e"), tmp_path_factory.mktemp("weights"))
    except MissingWeightsError as exc:
        pytest.skip(f"the published weights cannot be fetched here: {exc}")


def loaded(folder: Path) -> Encoder:
    encoder = create("ge2e", {"weights": str(folder)})
    encoder.load("cpu")
    return encoder


class TestConformance(EncoderConformance):
    @pytest.fixture
    def encoder(self, random_folder: Path) -> Encoder:
        return loaded(random_folder)


class TestPublishedWeights:
    def test_they_are_fetched_once_and_verified(self, real_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(packages, "download_wheel", lambda *_: pytest.fail("fetched a second time"))
        assert fetch(weight_set("ge2e"), real_folder.parent) == real_folder
        assert [finding.state for finding in verify(real_folder.parent, [])] == ["ok"]

    @pytest.mark.skipif(not REFERENCE.is_dir(), reason=f"no reference vectors at {REFERENCE}")
    def test_they_give_what_resemblyzer_gives_alone_and_in_one_batch(self, real_folder: Path) -> None:
        expected = np.load(REFERENCE / "ge2e_ref.npz")
        paths = [*(REFERENCE / "../reference/wav").glob("*.wav"), REFERENCE / "wav/long_40s.flac"]
        recordings = [soundfile.read(path, dtype="float32", always_2d=True)[0].mean(axis=1) for path in paths]
        encoder = loaded(real_folder)
        together = encode_together(encoder, recordings)
        alone = [encode_together(encoder, [recording])[0] for recording in recordings]
        for how, outputs in (("alone", alone), ("in one batch", together)):
            worst = max(
                float(np.abs(output["embedding"] - expected[f"raw/{path.stem}"]).max())
                for path, output in zip(paths, outputs, strict=True)
            )
            print(f"ge2e {how}: {len(outputs)} recordings, largest deviation from Resemblyzer {worst:.2g}")
            assert worst <= 1e-4


@pytest.mark.parametrize(
    ("num_samples", "starts"),
    [
        (1, [0]),
        (25_600, [0]),
        (31_519, [0]),
        (31_520, [0, 77]),
        (44_000, [0, 77, 154]),
    ],
)
def test_a_last_window_is_kept_where_three_quarters_are_audio(num_samples: int, starts: list[int]) -> None:
    assert ge2e.window_starts(num_samples) == starts


class TestReadingPretrained:
    def refuses(self, content: bytes, reason: str) -> None:
        with pytest.raises(CorruptFileError, match=f"^x: not Resemblyzer's pretrained\\.pt: {reason}"):
            ge2e_weights.read_published(io.BytesIO(content), where="x")

    def test_a_file_that_would_run_a_command_is_refused(self, tmp_path: Path) -> None:
        class Command:
            def __reduce__(self) -> tuple[Any, ...]:
                return Path.touch, (tmp_path / "executed",)

        head = pickle.dumps(ge2e_weights._MAGIC, 2) + pickle.dumps(1001, 2) + pickle.dumps({}, 2)
        self.refuses(head + pickle.dumps(Command(), 2), r"it refers to (pathlib|__builtin__)")
        self.refuses(pickle.dumps(Command(), 2), "it refers to")
        assert not (tmp_path / "executed").exists()

    @pytest.mark.parametrize("content", [b"", b"PK\x03\x04", pickle.dumps(1)])
    def test_another_file_is_refused(self, content: bytes) -> None:
        self.refuses(content, "")

    def test_a_wheel_of_another_version_is_refused(self, tmp_path: Path) -> None:
        wheel = tmp_path / "Resemblyzer-0.1.3-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr(ge2e_weights.PUBLISHED, b"other")
        with pytest.raises(CorruptFileError, match=r"has SHA-256 .*, published is 39373b86"):
            ge2e_weights.convert_wheel(wheel, tmp_path / "ge2e.npz")
        assert not (tmp_path / "ge2e.npz").exists()


def test_weights_that_are_not_there_name_the_command(tmp_path: Path) -> None:
    with pytest.raises(MissingWeightsError, match="`voxshard weights fetch ge2e`"):
        create("ge2e", {"weights": str(tmp_path)})


def test_an_index_that_is_not_reached_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS"):
        monkeypatch.setenv(name, (tmp_path / "nowhere").as_uri())
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    with pytest.raises(MissingWeightsError, match=r"^pip cannot download Resemblyzer==0\.1\.4: .*copy the folder$"):
        fetch(weight_set("ge2e"), tmp_path)


def test_an_array_of_another_shape_is_named(random_folder: Path, tmp_path: Path) -> None:
    with np.load(random_folder / ge2e_weights.CONVERTED) as stored:
        arrays: dict[str, Any] = {name: stored[name] for name in stored.files}
    np.savez(tmp_path / ge2e_weights.CONVERTED, **{**arrays, "linear.bias": np.zeros(3, np.float32)})
    with pytest.raises(CorruptFileError, match=r"linear\.bias is float32 \(3,\); expected float32 \(256,\)"):
        loaded(tmp_path)
