"""An encoder of another package that is incomplete, one with a bug in its preparer, and a correct one."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import voxshard
from conftest import MakeCorpus
from voxshard.cli import main
from voxshard.encoders import registry
from voxshard.errors import BrokenPluginError

Install = Callable[..., None]

CODE = """
import dataclasses
import functools
import numpy as np
from voxshard.encoders.base import Encoder, EncoderSettings, describe


class BandSettings(EncoderSettings):
    num_bands: int = 8


def bands(waveform, num_bands):
    return np.abs(waveform[:800]).reshape(num_bands, -1).mean(axis=1, keepdims=True)


class Bands(Encoder):
    settings_model = BandSettings

    def __init__(self, name, settings, known_hashes):
        self.preparer = functools.partial(bands, num_bands=settings.num_bands)
        self.info = describe(
            name=name, settings=settings, code_version=1, libraries=("numpy",), sample_rate=16000, dim=1,
            granularity="utterance", batch_policy="padded", min_samples=800,
        )

    def encode(self, features, lengths):
        return [{"embedding": rows[:length].mean(axis=0)} for rows, length in zip(features, lengths)]


class NoEncode(Encoder):
    def __init__(self, name, settings, known_hashes):
        pass


class NoInfo(Encoder):
    def __init__(self, name, settings, known_hashes):
        pass

    def encode(self, features, lengths):
        return []


class Unpicklable(Bands):
    def __init__(self, name, settings, known_hashes):
        super().__init__(name, settings, known_hashes)
        self.preparer = lambda waveform: waveform


class Elsewhere(Bands):
    def __init__(self, name, settings, known_hashes):
        super().__init__(name, settings, known_hashes)
        self.preparer = only_here


def only_here(waveform):
    return waveform


class ShortList(Bands):
    def encode(self, features, lengths):
        return super().encode(features, lengths)[1:]


class AnArray(Bands):
    def encode(self, features, lengths):
        return np.stack([output["embedding"] for output in super().encode(features, lengths)])


class Nothing(Bands):
    def encode(self, features, lengths):
        pass


class WrongKey(Bands):
    def encode(self, features, lengths):
        return [{"frames": output["embedding"]} for output in super().encode(features, lengths)]


class WrongShape(Bands):
    def encode(self, features, lengths):
        return [{"embedding": output["embedding"][None]} for output in super().encode(features, lengths)]


class Lists(Bands):
    def encode(self, features, lengths):
        return [{"embedding": output["embedding"].tolist()} for output in super().encode(features, lengths)]


class Raises(Bands):
    def encode(self, features, lengths):
        raise RuntimeError("no such layer")


class LoadFails(Bands):
    def load(self, device):
        raise KeyError("model.pt")


class NoCost(Bands):
    def cost(self, length):
        pass


class Rate(Bands):
    def __init__(self, name, settings, known_hashes):
        super().__init__(name, settings, known_hashes)
        self.info = dataclasses.replace(self.info, sample_rate="16k")


class Policy(Bands):
    def __init__(self, name, settings, known_hashes):
        super().__init__(name, settings, known_hashes)
        self.info = dataclasses.replace(self.info, batch_policy="pad")


class FramesWithoutRate(Bands):
    def __init__(self, name, settings, known_hashes):
        super().__init__(name, settings, known_hashes)
        self.info = dataclasses.replace(self.info, granularity="frames")


def nothing(waveform):
    pass


class PreparesNothing(Bands):
    def __init__(self, name, settings, known_hashes):
        super().__init__(name, settings, known_hashes)
        self.preparer = nothing


NotAnEncoder = 3
"""
AT_WORK = {
    "ShortList": r"encode returned 1 outputs for 2 utterances",
    "AnArray": r"encode returned an array of float32, expected a list with one dict per utterance",
    "Nothing": r"encode returned NoneType, expected a list",
    "WrongKey": r"encode returned keys frames, expected 'embedding': float32 of shape \(1,\)",
    "WrongShape": r"encode returned 'embedding' of shape \(1, 1\), expected 'embedding': float32 of shape \(1,\)",
    "Lists": r"encode returned list as 'embedding'",
    "Raises": r"encode fails: RuntimeError: no such layer \(.*theirs.py, line \d+\)",
    "LoadFails": r"load fails: KeyError: 'model.pt' \(.*theirs.py, line \d+\)",
    "NoCost": r"cost\(\d+\) returned None, expected seconds above 0",
    "Rate": r"its info: sample_rate is '16k', expected a whole number from 1",
    "Policy": r"its info: batch_policy is 'pad', expected one of padded, windows, equal_length, single",
    "FramesWithoutRate": r"its info: granularity frames needs frame_rate_hz",
}
"""Encoder -> what is wrong with it once it is constructed or works."""
POINTS = (
    *AT_WORK,
    "PreparesNothing",
    "Bands",
    "NoEncode",
    "NoInfo",
    "Unpicklable",
    "Elsewhere",
    "NotAnEncoder",
    "Gone",
)


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package with these encoders, as pip would install it, also for the decode workers."""
    folder = tmp_path / "site"
    facts = folder / "theirs-1.0.dist-info"
    facts.mkdir(parents=True)
    (folder / "theirs.py").write_text(CODE)
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    entries = "".join(f"{name.lower()} = theirs:{name}\n" for name in POINTS)
    (facts / "entry_points.txt").write_text(f"[voxshard.encoders]\n{entries}")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", str(folder), prepend=":")
    monkeypatch.delitem(sys.modules, "theirs", raising=False)
    return folder


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("noencode", "constructing it fails: TypeError: .*abstract.*encode"),
        ("noinfo", "constructing it fails: TypeError: theirs.NoInfo: its constructor sets no `info`"),
        ("notanencoder", "expected a subclass of voxshard.encoders.base.Encoder"),
        ("gone", "AttributeError: .*Gone"),
    ],
)
@pytest.mark.usefixtures("installed")
def test_an_incomplete_encoder_is_one_error_when_it_is_constructed(name: str, problem: str) -> None:
    with pytest.raises(BrokenPluginError, match=rf"^encoder {name} \(theirs:\w+, from theirs\): {problem}"):
        registry.create(name, {})


@pytest.mark.parametrize("name", AT_WORK)
@pytest.mark.usefixtures("installed")
def test_what_an_encoder_returns_or_raises_is_one_error_that_blames_no_recording(
    name: str, make_corpus: MakeCorpus, tmp_path: Path
) -> None:
    with pytest.raises(
        BrokenPluginError, match=rf"^encoder {name.lower()} \(theirs:{name}, from theirs\): {AT_WORK[name]}"
    ):
        voxshard.extract(make_corpus([0.2, 0.2]), encoder=name.lower(), out=tmp_path / "out", workers=1)
    assert not list((tmp_path / "out").glob("shards/*.h5"))


@pytest.mark.usefixtures("installed")
def test_a_preparer_that_returns_nothing_is_one_error() -> None:
    with pytest.raises(
        BrokenPluginError, match=r"^encoder preparesnothing: its preparer returns NoneType for 16000 samples"
    ):
        voxshard.load_encoder("preparesnothing")


def test_a_name_that_is_taken_is_listed_as_not_used(installed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (installed / "theirs-1.0.dist-info/entry_points.txt").write_text(
        "[voxshard.encoders]\nmfcc = theirs:Bands\nbands = theirs:Bands\n[voxshard.classifiers]\nknn = theirs:KNN\n"
    )
    another = installed / "others-1.0.dist-info"
    another.mkdir()
    (another / "METADATA").write_text("Metadata-Version: 2.1\nName: others\nVersion: 1.0\n")
    (another / "entry_points.txt").write_text("[voxshard.encoders]\nbands = others:Bands\n")
    main(["encoders"])
    printed = capsys.readouterr().out
    ends = "has one of that name; register it under another"
    assert f"encoder mfcc of theirs (theirs:Bands) is not used: voxshard {ends}" in printed
    assert f"encoder bands of theirs (theirs:Bands) is not used: others {ends}" in printed
    main(["classifiers"])
    assert f"classifier knn of theirs (theirs:KNN) is not used: voxshard {ends}" in capsys.readouterr().out


@pytest.mark.usefixtures("installed")
def test_an_incomplete_encoder_cannot_be_constructed_directly_either() -> None:
    import theirs  # type: ignore[import-not-found]

    with pytest.raises(TypeError, match="abstract"):
        theirs.NoEncode("x", None, {})
    with pytest.raises(TypeError, match="sets no `info`"):
        theirs.NoInfo("x", None, {})


@pytest.mark.usefixtures("installed")
def test_a_bug_in_a_preparer_is_one_message_with_encoder_and_setting(
    make_corpus: MakeCorpus, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    manifest, out = make_corpus([0.2, 0.3]), tmp_path / "out"
    with pytest.raises(SystemExit) as ended:
        main(["extract", str(manifest), "--encoder", "bands", "--set", "num_bands=7", "--out", str(out)])
    assert ended.value.code == 4
    printed = capfd.readouterr().err
    assert "Traceback" not in printed
    assert printed.count("cannot reshape") == 1
    assert "voxshard: encoder bands with num_bands=7: its preparer fails on 16000 samples of noise: " in printed
    assert "theirs.py, line " in printed
    assert not list(out.glob("shards/*.h5"))


@pytest.mark.usefixtures("installed")
def test_load_encoder_reports_the_bug_before_any_recording() -> None:
    with pytest.raises(BrokenPluginError, match="encoder bands with num_bands=7: its preparer fails"):
        voxshard.load_encoder("bands", num_bands=7)


def test_preparers_that_cannot_reach_a_worker_are_one_error(
    installed: Path, make_corpus: MakeCorpus, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    manifest = make_corpus([0.2])
    with pytest.raises(BrokenPluginError, match=r"^encoder unpicklable: its preparer cannot be sent to decode workers"):
        voxshard.extract(manifest, encoder="unpicklable", out=tmp_path / "a", workers=1)
    registry.create("elsewhere", {})
    text = (installed / "theirs.py").read_text()
    (installed / "theirs.py").write_text(text.replace("def only_here", "def not_there").replace("only_here", "max"))
    with pytest.raises(
        BrokenPluginError, match=r"^encoder elsewhere: its preparer cannot be imported in a decode worker: Attribute"
    ):
        voxshard.extract(manifest, encoder="elsewhere", out=tmp_path / "b", workers=2)
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.usefixtures("installed")
def test_a_correct_encoder_extracts(make_corpus: MakeCorpus, tmp_path: Path) -> None:
    features = voxshard.extract(make_corpus([0.2, 0.3]), encoder="bands", out=tmp_path / "out", workers=1)
    found = voxshard.load_encoder("bands").embed(tmp_path / "corpus" / "u0000.wav")
    np.testing.assert_array_equal(found, features["u0000"])
