"""Corpus layouts: one adapter each turns what is on disk into rows; see base.py for what an adapter is."""
