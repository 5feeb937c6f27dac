"""Every exception voxshard raises on purpose, and the exit code each becomes.

VoxshardError                       1   our own fault: please report it
├── ConfigError                     2   a setting, an option or a config file
├── DataError                       3   what is on disk is not what was asked for
│   ├── ManifestError                   a manifest or a corpus that cannot be used
│   ├── EmptyCorpusError                prepare found nothing
│   ├── DuplicateIdError                two utterances claim one id
│   ├── IdentityError                   a feature set made with other settings, weights or another manifest
│   ├── CorruptFileError                truncated, or bytes that no longer match their SHA-256
│   ├── FormatVersionError              written by a newer voxshard
│   ├── StaleShardError                 a shard of another fingerprint or plan
│   ├── IncompleteError                 shards or rows are missing
│   ├── TooManyFailuresError            over max_failure_fraction
│   ├── MissingObjectError              a bucket holds no such object
│   ├── ChangedObjectError              an object was replaced while it was used
│   ├── ObjectExistsError               an object of another content is in the way of an upload
│   ├── ScoreError                      scores and keys that do not fit together
│   └── FeatureMismatchError            a model and features that do not belong together
├── EnvironmentProblemError         4   the machine, not the data
│   ├── BackendUnavailableError         a framework or an optional package is not installed here
│   ├── BrokenPluginError               an encoder, corpus or classifier of another package does not do what it promises
│   ├── MissingWeightsError             weights are not where they should be
│   ├── DeviceUnavailableError          a GPU was asked for and is missing
│   ├── DeviceMemoryError               not even one utterance fits in the device's memory
│   ├── DeviceFaultError                a GPU or its driver fails: another machine can do the work
│   ├── AccessDeniedError               a bucket refuses these credentials, or has got none
│   ├── NoSuchBucketError               there is no bucket of this name
│   ├── TransientFaultError             I/O errors, time-outs, dead workers, after every retry
│   ├── UnexpectedFaultError            decoding met an error that is no verdict on the recording
│   ├── InexactBatchError               the self-check found numbers that depend on the batch
│   ├── StorageFaultError               storage does not give one of our own files, after every retry
│   ├── StorageFullError                disk or quota is full
│   ├── ReadOnlyError                   a folder that may not be written to, or that an image is not shown
│   └── SchedulerError                  SLURM is missing, does not answer, or refuses a job
├── StoppedError                   75   asked to stop (signal); finished work was published; run again to continue
└── UtteranceError                      a verdict on one recording's content: becomes a row of `failures`, never an exit
    ├── EmptyAudioError
    ├── UnreadableAudioError            not audio, or damaged
    ├── TruncatedAudioError
    ├── MissingRecordingError           gone, though its folder exists
    ├── ChangedRecordingError           replaced in its bucket since it was prepared
    ├── NonFiniteAudioError
    ├── TooShortError
    ├── NonFiniteEmbeddingError
    └── WorkerCrashedError              its decoding kills the process, twice, alone
"""

from __future__ import annotations


class VoxshardError(Exception):
    """Base class of all errors; ``str(error)`` reports where, what was found, what was wanted, and what to do next."""

    exit_code = 1


class ConfigError(VoxshardError, ValueError):
    exit_code = 2


class DataError(VoxshardError):
    exit_code = 3


class ManifestError(DataError, ValueError):
    pass


class EmptyCorpusError(DataError):
    pass


class DuplicateIdError(DataError, ValueError):
    pass


class IdentityError(DataError):
    pass


class CorruptFileError(DataError, OSError):
    pass


class FormatVersionError(DataError):
    pass


class StaleShardError(DataError):
    pass


class IncompleteError(DataError):
    pass


class TooManyFailuresError(DataError):
    pass


class MissingObjectError(DataError, FileNotFoundError):
    pass


class ChangedObjectError(DataError):
    pass


class ObjectExistsError(DataError):
    pass


class ScoreError(DataError, ValueError):
    pass


class FeatureMismatchError(DataError, ValueError):
    pass


class EnvironmentProblemError(VoxshardError):
    exit_code = 4


class BackendUnavailableError(EnvironmentProblemError, ImportError):
    pass


class BrokenPluginError(EnvironmentProblemError):
    pass


class MissingWeightsError(EnvironmentProblemError, FileNotFoundError):
    pass


class DeviceUnavailableError(EnvironmentProblemError):
    pass


class DeviceMemoryError(EnvironmentProblemError, MemoryError):
    pass


class DeviceFaultError(EnvironmentProblemError):
    pass


class AccessDeniedError(EnvironmentProblemError):
    pass


class NoSuchBucketError(EnvironmentProblemError):
    pass


class TransientFaultError(EnvironmentProblemError, OSError):
    pass


class UnexpectedFaultError(EnvironmentProblemError):
    pass


class InexactBatchError(EnvironmentProblemError):
    pass


class StorageFaultError(EnvironmentProblemError):
    """Storage failed. It is no OSError, because readers take those for damaged files."""


class StorageFullError(EnvironmentProblemError, OSError):
    pass


class ReadOnlyError(EnvironmentProblemError, OSError):
    pass


class SchedulerError(EnvironmentProblemError):
    pass


class StoppedError(VoxshardError):
    exit_code = 75


class UtteranceError(VoxshardError):
    """The recording itself is at fault; its class name and message are stored in `failures`."""


class EmptyAudioError(UtteranceError):
    pass


class UnreadableAudioError(UtteranceError):
    pass


class TruncatedAudioError(UtteranceError):
    pass


class MissingRecordingError(UtteranceError):
    pass


class ChangedRecordingError(UtteranceError):
    pass


class NonFiniteAudioError(UtteranceError):
    pass


class TooShortError(UtteranceError):
    pass


class NonFiniteEmbeddingError(UtteranceError):
    pass


class WorkerCrashedError(UtteranceError):
    pass
