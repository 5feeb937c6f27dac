"""The script that `voxshard extract` replaces, as people write it: one file at a time, one JSON file at the end.

    python bench/plain_loop.py FOLDER MODEL OUT.json [DEVICE]

Prints the time (seconds since 1970) at which the model was loaded, for `bench/extraction.py`.
"""

import json
import sys
import time
from pathlib import Path

import librosa
import torch
from transformers import AutoFeatureExtractor, AutoModel

folder, weights, out, device = (*sys.argv[1:], "cpu")[:4]
extractor = AutoFeatureExtractor.from_pretrained(weights)
model = AutoModel.from_pretrained(weights).to(device).eval()
print(time.time())
vectors = {}
for path in sorted(Path(folder).rglob("*.wav")):
    samples, rate = librosa.load(path, sr=16000)
    inputs = extractor(samples, sampling_rate=rate, return_tensors="pt").to(device)
    with torch.no_grad():
        hidden = model(**inputs).last_hidden_state
    vectors[path.name] = hidden.mean(dim=1)[0].cpu().numpy().tolist()
with open(out, "w") as stream:
    json.dump(vectors, stream)
