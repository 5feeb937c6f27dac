"""Tests that encoders of other packages inherit: `from voxshard.testing import EncoderConformance` (needs pytest)."""

from voxshard.testing.conformance import EncoderConformance, encode_together

__all__ = ["EncoderConformance", "encode_together"]
