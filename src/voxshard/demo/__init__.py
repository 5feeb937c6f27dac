"""Corpus and experiment config of `voxshard demo`."""
