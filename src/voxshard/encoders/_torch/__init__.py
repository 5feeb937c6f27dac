"""Encoders that need PyTorch."""

import os

# All are read once, when PyTorch first computes.
# Large tensors in large pages: else the kernel spends a tenth of a forward pass on a CPU mapping fresh small ones.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
# oneDNN keeps what it compiled for a shape, 1024 operations by default, and PyTorch on top of it the plans of 1024
# convolutions in each thread. With a new shape in every few batches that is memory which grows for hours and is hardly
# ever used again. A forward pass of wav2vec 2.0 on one shape takes 35 of the former, 8 of the latter; both are ordered
# by last use, and batches come longest first, so that like shapes meet.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
os.environ.setdefault("LRU_CACHE_CAPACITY", "32")
