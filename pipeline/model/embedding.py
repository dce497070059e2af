"""What the network knows about a token before any block runs: bigram hash, smear, value embedding.

The token table itself sits in the network, where the tied head reads it as well.

Axes: B batch, T position, D model width.
Source: the crawler programs of Parameter Golf (pull requests 1140, 1308, 1535).
Differs: bucket numbers are computed in 64 bits, so that no vocabulary overflows them.
Checked by: tests/model/test_network.py
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def bigram_bucket(input_ids_BT: Tensor, num_buckets: int) -> Tensor:
    """Hash every token with its predecessor to a bucket; the last bucket is the first position's own."""
    ids_BT = input_ids_BT.long()
    hashed = (36313 * ids_BT[:, 1:]) ^ (27191 * ids_BT[:, :-1])
    return F.pad(hashed % (num_buckets - 1), (1, 0), value=num_buckets - 1)


def _projection(in_dim: int, out_dim: int) -> nn.Module:
    return nn.Identity() if in_dim == out_dim else nn.Linear(in_dim, out_dim, bias=False)


class BigramHash(nn.Module):
    """A small hashed table of token pairs, projected to the model width."""

    INITIAL_SCALE = 0.05

    def __init__(self, num_buckets: int, bigram_dim: int, model_dim: int) -> None:
        super().__init__()
        self.table = nn.Embedding(num_buckets, bigram_dim)
        self.projection = _projection(bigram_dim, model_dim)
        self.scale = nn.Parameter(torch.tensor(self.INITIAL_SCALE))

    def forward(self, input_ids_BT: Tensor) -> Tensor:
        """Return the (B, T, D) embedding of every position's pair."""
        bucket_BT = bigram_bucket(input_ids_BT, self.table.num_embeddings)
        return self.scale * self.projection(self.table(bucket_BT))


class Smear(nn.Module):
    """Mix every embedding with its predecessor's through one gate per channel; before the first is zero."""

    def __init__(self, model_dim: int) -> None:
        super().__init__()
        self.gate = nn.Parameter(torch.zeros(model_dim))

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Return `(1 - g) * x + g * x_prev`."""
        gate_D = torch.sigmoid(self.gate)
        previous_BTD = F.pad(x_BTD[:, :-1], (0, 0, 1, 0))
        return (1 - gate_D) * x_BTD + gate_D * previous_BTD


class ValueEmbedding(nn.Module):
    """A token table added to the attention values of some looped blocks, each with a scale of its own."""

    INITIAL_SCALE = 0.1
    INITIAL_STD = 0.01

    def __init__(self, vocab_size: int, table_dim: int, kv_dim: int, num_readers: int) -> None:
        super().__init__()
        self.table = nn.Embedding(vocab_size, table_dim)
        self.projection = _projection(table_dim, kv_dim)
        self.scale = nn.Parameter(torch.tensor(self.INITIAL_SCALE))
        self.reader_scales = nn.ParameterList(torch.ones(1) for _ in range(num_readers))

    def forward(self, input_ids_BT: Tensor) -> list[Tensor]:
        """Return one (B, T, kv_dim) addend per reading block."""
        value = self.scale * self.projection(self.table(input_ids_BT))
        return [reader_scale * value for reader_scale in self.reader_scales]
