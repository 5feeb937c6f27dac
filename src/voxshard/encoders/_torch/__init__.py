"""Encoders that need PyTorch."""

import os

# Both are read once, when PyTorch first computes.
# Large tensors in large pages: else the kernel spends a tenth of a forward pass on a CPU mapping fresh small ones.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
# Convolutions compiled for a shape are kept, 1024 by default: with a new length in almost every batch that is memory
# which grows for hours and is hardly ever used again.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "256")
