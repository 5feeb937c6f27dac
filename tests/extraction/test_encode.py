from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from support.toy_encoder import ToyEncoder, ToySettings
from voxshard.encoders.base import Output
from voxshard.errors import DeviceMemoryError
from voxshard.extraction.decode import PreparedUtterance
from voxshard.extraction.encode import Budget, ShardEncoder, deviation_rms
from voxshard.extraction.telemetry import Timers
from voxshard.store.shard import Failure


def encode(
    encoder: ToyEncoder, waveforms: list[np.ndarray], budget_s: float, notes: list[str] | None = None
) -> ShardEncoder:
    notes = [] if notes is None else notes
    names = [f"u{n}" for n in range(len(waveforms))]
    shard = ShardEncoder(encoder, Budget(budget_s, notes.append), names, store_dtype="float32", timers=Timers())
    for position, waveform in enumerate(waveforms):
        shard.add(position, PreparedUtterance([waveform], len(waveform) / 16000))
    shard.finish()
    return shard


def noise(*lengths: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.standard_normal(length).astype(np.float32) for length in lengths]


@pytest.mark.parametrize("policy", ["padded", "windows", "equal_length", "single"])
def test_every_batch_policy_gives_each_utterance_its_own_numbers(policy: str) -> None:
    waveforms = noise(400, 1600, 1600, 3000, 500, 16000)
    shard = encode(ToyEncoder("toy", ToySettings(policy=policy), {}), waveforms, 1.0)
    for waveform, result in zip(waveforms, shard.results, strict=True):
        assert not isinstance(result, Failure)
        np.testing.assert_allclose(result["embedding"], [waveform.mean(), np.square(waveform).mean()], rtol=1e-5)


@pytest.mark.parametrize(("policy", "sizes"), [("equal_length", [3, 4, 3]), ("windows", [10])])
def test_short_clips_share_batches_across_a_shard(policy: str, sizes: list[int]) -> None:
    """Longest first, as a shard's recordings arrive: a batch for each length, or one for all windows."""
    encoder = ToyEncoder("toy", ToySettings(policy=policy), {})
    encode(encoder, noise(*[3200] * 3, *[1600] * 4, *[800] * 3), 2.0)
    assert encoder.batch_sizes == sizes


def test_like_lengths_share_batches_within_the_budget() -> None:
    encoder = ToyEncoder("toy", ToySettings(), {})
    encode(encoder, noise(*[1600] * 40), 1.0)  # ten tenths of a second fit in one second
    assert encoder.batch_sizes == [10] * 4


def test_the_self_check_measures_what_padding_does() -> None:
    sound = encode(ToyEncoder("toy", ToySettings(), {}), noise(400, 1600, 3000), 1.0)
    assert sound.check("float32") == pytest.approx(0, abs=1e-6)
    leaky = encode(ToyEncoder("toy", ToySettings(leak=1e-3), {}), noise(400, 1600, 3000), 1.0)
    deviation = leaky.check("float32")
    assert deviation is not None
    assert deviation > 1


def test_the_self_check_goes_where_batches_go_so_that_no_other_thread_needs_their_buffers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    encoder = ToyEncoder("toy", ToySettings(), {})
    started: list[int] = []

    def start(features: np.ndarray, lengths: np.ndarray) -> Callable[[], list[Output]]:
        started.append(len(lengths))
        return ToyEncoder.start(encoder, features, lengths)

    monkeypatch.setattr(encoder, "start", start)
    shard = encode(encoder, noise(400, 1600, 3000, 3200), 0.4)
    shard.check("float32")
    assert started == encoder.batch_sizes == [2, 2, 1, 1]


def test_running_out_of_memory_halves_the_budget_says_so_and_loses_nothing() -> None:
    encoder = ToyEncoder("toy", ToySettings(max_batch_samples=5 * 1600), {})
    notes: list[str] = []
    waveforms = noise(*[1600] * 64)
    shard = encode(encoder, waveforms, 1.6, notes)
    assert len(notes) == 2
    assert all(note.startswith("out of device memory: batches are now at most 0.") for note in notes)
    assert max(encoder.batch_sizes) <= 5
    assert sum(encoder.batch_sizes) == 64
    for waveform, result in zip(waveforms, shard.results, strict=True):
        assert not isinstance(result, Failure)
        np.testing.assert_allclose(result["embedding"][1], np.square(waveform).mean(), rtol=1e-5)


def test_a_long_utterance_is_computed_with_no_other_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = ToyEncoder("toy", ToySettings(), {})
    encoder.in_flight = 3
    under_way: list[int] = []
    seen: dict[int, int] = {}

    def encode_all(features: np.ndarray, lengths: np.ndarray) -> list[Output]:
        seen[features.shape[1]] = len(under_way)
        return ToyEncoder.encode(encoder, features, lengths)

    def start(features: np.ndarray, lengths: np.ndarray) -> Callable[[], list[Output]]:
        outputs = encode_all(features, lengths)
        under_way.append(1)

        def wait() -> list[Output]:
            under_way.pop()
            return outputs

        return wait

    monkeypatch.setattr(encoder, "encode", encode_all)
    monkeypatch.setattr(encoder, "start", start)
    waveforms = noise(1600, 1599, 1598, 1597, 1596, 40000)  # a budget of 0.1 s: 1600 samples
    shard = encode(encoder, waveforms, 0.1)
    assert seen == {1600: 0, 1599: 1, 1598: 2, 1597: 2, 40000: 0, 1596: 0}
    for waveform, result in zip(waveforms, shard.results, strict=True):
        assert not isinstance(result, Failure)
        np.testing.assert_allclose(result["embedding"][1], np.square(waveform).mean(), rtol=1e-5)


def test_one_utterance_too_large_for_the_memory_is_named_with_the_mend() -> None:
    encoder = ToyEncoder("toy", ToySettings(max_batch_samples=1000), {})
    with pytest.raises(DeviceMemoryError, match=r"u1: not even this one utterance .* `--set chunk_seconds=30`"):
        encode(encoder, noise(500, 1600), 1.0)


def test_a_non_finite_embedding_is_a_failure_of_its_utterance_alone() -> None:
    waveforms = noise(1600, 1600)
    waveforms[0][:] = 1e25  # finite, its square is not
    shard = encode(ToyEncoder("toy", ToySettings(), {}), waveforms, 1.0)
    assert isinstance(shard.results[0], Failure)
    assert shard.results[0].error == "NonFiniteEmbeddingError"
    assert not isinstance(shard.results[1], Failure)


def test_chunks_of_a_long_clip_come_back_as_one_utterance() -> None:
    encoder = ToyEncoder("toy", ToySettings(granularity="frames"), {})
    (long,) = noise(16000)
    shard = ShardEncoder(encoder, Budget(1.0, print), ["u"], store_dtype="float32", timers=Timers())
    shard.add(0, PreparedUtterance([long[:8000], long[8000:]], 1.0))
    (result,) = shard.finish()
    assert not isinstance(result, Failure)
    frames = long.reshape(-1, 160)
    np.testing.assert_allclose(result["frames"][:, 0], frames.mean(1), atol=1e-6)


def test_frames_in_sixteen_bits_are_compared_by_their_mean() -> None:
    rng = np.random.default_rng(0)
    frames = rng.standard_normal((500, 16)).astype(np.float32) + 1
    rounded = frames + np.float32(0.02) * rng.choice([-1, 1], frames.shape).astype(np.float32)
    leaking = frames + np.float32(0.2)
    assert deviation_rms({"frames": rounded}, {"frames": frames}, "float32") > 0.01
    assert deviation_rms({"frames": rounded}, {"frames": frames}, "bf16") < 0.01
    assert deviation_rms({"frames": leaking}, {"frames": frames}, "bf16") > 0.1
