"""Self-attention with relative positions in less memory than transformers' own, and through PyTorch's fused kernels.

Both modules replace a stock one, share its weights and give its numbers to float32 rounding.
Suffixes: B utterances, H heads, T frames, P relative positions, D size of a head.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

LEAN_TYPES = ("wavlm", "wav2vec2-bert")
"""The values of `model_type` whose attention is replaced here."""


class RelativeKeyAttention(nn.Module):  # type: ignore[misc]  # torch is Any where it is not installed
    """Replacement for transformers' Wav2Vec2BertSelfAttention with `position_embeddings_type` "relative_key".

    The stock layer looks up an embedding for every pair of frames, (T, T, D) floats, 0.9 GB for a minute; there are
    only P = left + right + 1 different ones. Here queries are multiplied with those P, and the products are gathered.
    """

    def __init__(self, stock: Any) -> None:
        super().__init__()
        self.linear_q, self.linear_k, self.linear_v = stock.linear_q, stock.linear_k, stock.linear_v
        self.linear_out, self.distance_embedding = stock.linear_out, stock.distance_embedding
        self.head_size = int(stock.head_size)
        self.left, self.right = int(stock.left_max_position_embeddings), int(stock.right_max_position_embeddings)

    def forward(
        self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None = None, **_: Any
    ) -> tuple[torch.Tensor, None]:
        """Attend.

        Parameters
        ----------
        hidden_states : (B, T, H * D).
        attention_mask : None, or float (B, 1, T, T) to be added, as transformers makes it for "eager" attention.

        Returns
        -------
        (B, T, H * D), and None in place of the weights.
        """
        batch, frames, _ = hidden_states.shape
        heads = (batch, frames, -1, self.head_size)
        query_BHTD = self.linear_q(hidden_states).view(heads).transpose(1, 2)
        key_BHTD = self.linear_k(hidden_states).view(heads).transpose(1, 2)
        value_BHTD = self.linear_v(hidden_states).view(heads).transpose(1, 2)

        scale = self.head_size**-0.5
        positions = torch.arange(frames, device=hidden_states.device)
        index_TT = (positions - positions[:, None]).clamp(-self.left, self.right) + self.left
        products_BHTP = torch.matmul(query_BHTD, self.distance_embedding.weight.T) * scale
        bias_BHTT = products_BHTP.gather(3, index_TT.expand(*products_BHTP.shape[:3], frames))
        if attention_mask is not None:
            bias_BHTT = bias_BHTT + attention_mask
        attended_BHTD = nn.functional.scaled_dot_product_attention(
            query_BHTD, key_BHTD, value_BHTD, attn_mask=bias_BHTT.to(query_BHTD.dtype), scale=scale
        )
        return self.linear_out(attended_BHTD.transpose(1, 2).reshape(batch, frames, -1)), None


class GatedBiasAttention(nn.Module):  # type: ignore[misc]  # torch is Any where it is not installed
    """Replacement for transformers' WavLMAttention.

    The stock layer keeps the position bias once per utterance of the batch, and always computes the weights it does
    not need. Here the bias is one (H, T, T) for the complete batch, and only its gated form is per utterance.
    """

    def __init__(self, stock: Any) -> None:
        super().__init__()
        self.stock = stock

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_bias: torch.Tensor | None = None,
        **_: Any,
    ) -> tuple[torch.Tensor, None, torch.Tensor]:
        """Attend.

        Parameters
        ----------
        hidden_states : (B, T, H * D).
        attention_mask : None, or (B, T), 1 where a frame is valid.
        position_bias : (H, T, T) from the layer before; None in the first layer, which computes it.

        Returns
        -------
        (B, T, H * D), None in place of the weights, and the position bias for the next layer.
        """
        stock = self.stock
        batch, frames, _ = hidden_states.shape
        heads = (batch, frames, stock.num_heads, stock.head_dim)
        if position_bias is None:
            position_bias = stock.compute_bias(frames, frames)
        gates = stock.gru_rel_pos_linear(hidden_states.view(heads).transpose(1, 2))
        gate_a, gate_b = torch.sigmoid(gates.view(*gates.shape[:-1], 2, 4).sum(-1)).chunk(2, dim=-1)
        gate_BHT1 = gate_a * (gate_b * stock.gru_rel_pos_const - 1.0) + 2.0
        bias_BHTT = gate_BHT1 * position_bias
        if attention_mask is not None:
            bias_BHTT.masked_fill_(attention_mask[:, None, None].ne(1), -torch.inf)
        query_BHTD, key_BHTD, value_BHTD = (
            project(hidden_states).view(heads).transpose(1, 2) for project in (stock.q_proj, stock.k_proj, stock.v_proj)
        )
        attended_BHTD = nn.functional.scaled_dot_product_attention(
            query_BHTD, key_BHTD, value_BHTD, attn_mask=bias_BHTT.to(query_BHTD.dtype)
        )
        output = stock.out_proj(attended_BHTD.transpose(1, 2).reshape(hidden_states.shape))
        return output, None, position_bias


def make_attention_lean(model: Any) -> None:
    """Replace the attention of a w2v-BERT or WavLM model by the forms above; other models keep theirs."""
    for layer in model.encoder.layers:
        if model.config.model_type == "wavlm":
            layer.attention = GatedBiasAttention(layer.attention)
        elif model.config.model_type == "wav2vec2-bert" and model.config.position_embeddings_type == "relative_key":
            layer.self_attn = RelativeKeyAttention(layer.self_attn)
