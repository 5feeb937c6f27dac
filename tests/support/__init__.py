"""Helpers that several tests share: stand-ins, small corpora and sets, and toy encoders."""
