"""ge2e's reader and network against PyTorch's own, on a file that PyTorch writes in its old format."""

from __future__ import annotations

import io

import numpy as np
import torch

from voxshard.encoders import ge2e, ge2e_weights


def test_an_old_checkpoint_is_read_and_computed_as_pytorch_does() -> None:
    torch.manual_seed(0)
    lstm = torch.nn.LSTM(ge2e_weights.NUM_MELS, ge2e_weights.HIDDEN, ge2e_weights.NUM_LAYERS, batch_first=True)
    linear = torch.nn.Linear(ge2e_weights.HIDDEN, ge2e_weights.HIDDEN)
    state = {f"lstm.{name}": tensor for name, tensor in lstm.state_dict().items()}
    state |= {f"linear.{name}": tensor for name, tensor in linear.state_dict().items()}
    state["similarity_weight"] = torch.tensor([10.0])
    content = {"step": 7, "model_state": state, "optimizer_state": {"state": {0: {"step": torch.tensor(3)}}}}
    stream = io.BytesIO()
    torch.save(content, stream, _use_new_zipfile_serialization=False)
    stream.seek(0)

    weights = ge2e_weights.read_published(stream, where="old.pt")

    assert set(weights) == set(ge2e_weights.SHAPES)
    for name, found in weights.items():
        np.testing.assert_array_equal(found, state[name].numpy())
    windows = torch.rand(3, 50, ge2e_weights.NUM_MELS)
    with torch.inference_mode():
        raw = torch.relu(linear(lstm(windows)[1][0][-1]))
        expected = (raw / raw.norm(dim=1, keepdim=True)).numpy()
    np.testing.assert_allclose(ge2e.Ge2eNetwork(weights)(windows.numpy()), expected, rtol=0, atol=1e-6)
