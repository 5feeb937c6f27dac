"""What users of SpeechBrain write: padded batches with relative lengths, and one file at the end.

python speechbrain_encoder.py MODEL OUT BATCH FILE...
"""

import sys

import numpy as np
import torch
from speechbrain.dataio.dataio import read_audio
from speechbrain.inference.classifiers import EncoderClassifier

model, out, batch, *paths = sys.argv[1:]
classifier = EncoderClassifier.from_hparams(source=model, savedir=model)
rows = []
for start in range(0, len(paths), int(batch)):
    signals = [read_audio(path) for path in paths[start : start + int(batch)]]
    padded = torch.nn.utils.rnn.pad_sequence(signals, batch_first=True)
    lengths = torch.tensor([len(signal) / padded.shape[1] for signal in signals])
    rows += classifier.encode_batch(padded, lengths).squeeze(1).numpy().tolist()
np.savez(out, ids=paths, X=np.array(rows))
