"""Encoders that need PyTorch."""

import os

# Read once, when PyTorch first takes memory: large tensors in large pages. Without it the kernel spends a tenth of a
# forward pass on a CPU mapping fresh pages for the activations.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
