"""What users of lhotse write: a cut per recording, and features in batches with a manifest that can be resumed.

python lhotse_features.py MODEL OUT BATCH FILE...            (MODEL is not used: the features are filter banks)
"""

import sys
from pathlib import Path

import numpy as np
from lhotse import CutSet, Fbank, FbankConfig, NumpyHdf5Writer, Recording, RecordingSet

model, out, batch, *paths = sys.argv[1:]
recordings = RecordingSet.from_recordings(Recording.from_file(path, recording_id=path) for path in paths)
cuts = CutSet.from_manifests(recordings=recordings)
folder = Path(out).with_suffix("")
folder.mkdir(exist_ok=True)
stored = cuts.compute_and_store_features_batch(
    extractor=Fbank(FbankConfig(sampling_rate=16000)), storage_path=folder / "features", storage_type=NumpyHdf5Writer,
    manifest_path=folder / "cuts.jsonl.gz", batch_duration=1.5 * int(batch), num_workers=0, overwrite=False,
)  # fmt: skip
found = {cut.recording.id: cut.load_features().mean(axis=0) for cut in stored}
np.savez(out, ids=list(found), X=np.array(list(found.values())))
