"""What users of transformers write: a pipeline over all files, and one file at the end.

python transformers_pipeline.py MODEL OUT BATCH FILE...
"""

import sys

import numpy as np
from transformers import pipeline

model, out, batch, *paths = sys.argv[1:]
classify = pipeline("audio-classification", model=model, device=-1, top_k=None)
results = classify(paths, batch_size=int(batch))
rows = [[score["score"] for score in sorted(result, key=lambda score: score["label"])] for result in results]
np.savez(out, ids=paths, X=np.array(rows))
