"""The one way in: a path or a URL becomes float32 mono at the rate an encoder wants.

What is wrong with a recording's content is an `UtteranceError` whose message describes what, without the path: it
is next to the utterance's id in `failures` and in the manifest's `problem`, and equal reasons can be counted. What
is wrong with the storage is an `OSError`, never mistaken for a bad recording.
"""

from voxshard.audio.clip import ClipPolicy, first_of_crop, fit
from voxshard.audio.reading import AudioHeader, Clip, clip_samples, probe, read, read_clip
from voxshard.audio.retry import RETRY_DELAYS_S, read_with_retries
from voxshard.audio.sources import ReadAhead, resolve
from voxshard.urls import is_url

__all__ = [
    "RETRY_DELAYS_S",
    "AudioHeader",
    "Clip",
    "ClipPolicy",
    "ReadAhead",
    "clip_samples",
    "first_of_crop",
    "fit",
    "is_url",
    "probe",
    "read",
    "read_clip",
    "read_with_retries",
    "resolve",
]  # fmt: skip
