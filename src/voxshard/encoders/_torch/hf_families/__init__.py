"""The kinds of models that the encoder `hf` runs, one small adapter each."""
