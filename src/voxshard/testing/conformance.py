"""Tests that every encoder must pass; inherit them, and define the fixture `encoder` (loaded on the CPU)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from voxshard.encoders.base import Encoder, Output
from voxshard.encoders.batching import collate
from voxshard.encoders.plugin_checks import info_problem, output_problem


def encode_together(encoder: Encoder, waveforms: list[np.ndarray]) -> list[Output]:
    """Encode several utterances in one call if the batch policy allows it, otherwise one call per utterance or
    length."""
    features = [encoder.prepare(waveform) for waveform in waveforms]
    policy = encoder.info.batch_policy
    if policy in ("padded", "windows"):
        return _checked(encoder, collate(features, policy))
    outputs: list[Output | None] = [None] * len(features)
    by_length: dict[int, list[int]] = {}
    for row, item in enumerate(features):
        by_length.setdefault(len(item) if policy == "equal_length" else row, []).append(row)
    for rows in by_length.values():
        found = _checked(encoder, collate([features[row] for row in rows], policy))
        for row, output in zip(rows, found, strict=True):
            outputs[row] = output
    return [output for output in outputs if output is not None]


def _checked(encoder: Encoder, batch: tuple[npt.NDArray[Any], npt.NDArray[np.int64]]) -> list[Output]:
    """Encode a batch; an output that cannot be is a failed test that states what was returned and expected."""
    outputs = encoder.encode(*batch)
    problem = output_problem(encoder.info, outputs, len(batch[1]))
    assert problem is None, f"encode of {encoder.info.name} returned {problem}"
    return outputs


class EncoderConformance:
    """Tests of shape, dtype, finite values, independence of the batch, and reproducible bytes."""

    atol_rms = 1e-4
    """Maximum deviation between an utterance alone and in a batch, relative to the output's rms."""
    seconds = (0.45, 1.0, 1.7, 2.6)

    @pytest.fixture
    def waveforms(self, encoder: Encoder) -> list[np.ndarray]:
        rng = np.random.default_rng(7)
        rate = encoder.info.sample_rate
        waveforms = []
        for number, seconds in enumerate(self.seconds):
            time = np.arange(max(int(seconds * rate), encoder.info.min_samples)) / rate
            tone = np.sin(2 * np.pi * (150 + 90 * number) * time * (1 + 0.2 * time))
            waveforms.append((10.0**-number * (0.5 * tone + 0.05 * rng.standard_normal(len(time)))).astype(np.float32))
        return waveforms

    def test_outputs_have_the_shape_and_type_the_info_promises(
        self, encoder: Encoder, waveforms: list[np.ndarray]
    ) -> None:
        info = encoder.info
        assert info_problem(info) is None, f"the info of {info.name}: {info_problem(info)}"
        assert encoder.cost(1000) > 0, "cost is in seconds of audio, and above 0"
        for output in encode_together(encoder, waveforms):
            array = output["embedding" if info.granularity == "utterance" else "frames"]
            assert array.dtype == np.float32, f"encode of {info.name} returned {array.dtype}, expected float32"
            assert np.isfinite(array).all(), f"encode of {info.name} returned NaN or infinite values"
            if "codes" in output:
                assert output["codes"].dtype == np.int32
                assert len(output["codes"]) == len(array)

    def test_a_row_depends_on_its_own_waveform_alone(self, encoder: Encoder, waveforms: list[np.ndarray]) -> None:
        together = encode_together(encoder, waveforms)
        reordered = encode_together(encoder, waveforms[::-1])[::-1]
        for waveform, first, second in zip(waveforms, together, reordered, strict=True):
            alone = encode_together(encoder, [waveform])[0]
            for key, expected in alone.items():
                if key == "codes":
                    np.testing.assert_array_equal(first[key], expected)
                    np.testing.assert_array_equal(second[key], expected)
                    continue
                tolerance = self.atol_rms * float(np.sqrt(np.mean(np.square(expected, dtype=np.float64))))
                advice = (
                    f"{key} of an utterance depends on its batch (padding, the other rows, a buffer it returns again)"
                )
                np.testing.assert_allclose(first[key], expected, rtol=0, atol=tolerance, err_msg=advice)
                np.testing.assert_allclose(second[key], expected, rtol=0, atol=tolerance, err_msg=advice)

    def test_the_same_input_gives_the_same_bytes_twice(self, encoder: Encoder, waveforms: list[np.ndarray]) -> None:
        for first, second in zip(encode_together(encoder, waveforms), encode_together(encoder, waveforms), strict=True):
            for key, expected in first.items():
                assert second[key].tobytes() == expected.tobytes(), (
                    f"{key} differs when encoded again: random, or a state"
                )

    def test_silence_gives_finite_numbers(self, encoder: Encoder) -> None:
        silence = np.zeros(max(encoder.info.sample_rate, encoder.info.min_samples), np.float32)
        for array in encode_together(encoder, [silence])[0].values():
            assert np.isfinite(array).all()

    def test_the_preparer_survives_the_way_into_a_worker(self, encoder: Encoder, waveforms: list[np.ndarray]) -> None:
        import pickle

        if encoder.preparer is not None:
            copy = pickle.loads(pickle.dumps(encoder.preparer))  # noqa: S301  our own bytes
            np.testing.assert_array_equal(copy(waveforms[0]), encoder.prepare(waveforms[0]))
