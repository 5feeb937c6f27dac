"""What users of nkululeko write: an INI file and a table, and one command.

python nkululeko_features.py MODEL OUT BATCH FILE...
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
from nkululeko.nkululeko import doit

model, out, batch, *paths = sys.argv[1:]
folder = Path(out).with_suffix("")
folder.mkdir(exist_ok=True)
labels = ["ab"[number % 2] for number in range(len(paths))]
speakers = [f"s{number // 2 % 6}" for number in range(len(paths))]
pd.DataFrame({"file": paths, "emotion": labels, "speaker": speakers}).to_csv(folder / "data.csv", index=False)
(folder / "exp.ini").write_text(f"""[EXP]
root = {folder}
name = results
[DATA]
databases = ['data']
data = {folder / "data.csv"}
data.type = csv
data.absolute_path = True
data.split_strategy = random
target = emotion
labels = ['a', 'b']
[FEATS]
type = ['wav2vec2']
wav2vec2.model = {model}
store_format = csv
[MODEL]
type = knn
device = cpu
""")
doit(str(folder / "exp.ini"))
stored = [pd.read_csv(path, index_col=0) for path in sorted((folder / "results" / "store").glob("*.csv"))]
table = pd.concat([part.select_dtypes("number") for part in stored if part.shape[1] > 8])
np.savez(out, ids=[str(name) for name in table.index], X=table.to_numpy())
