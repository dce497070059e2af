"""What the network knows about a token before any block runs: token table, bigram hash, smear.

Axes: B batch, T position, D model width, W embedding width.
Source: the crawler programs of Parameter Golf (pull requests 1140, 1308, 1535, 1579); the smear by token is that of
modded-nanogpt (pull request 1667), shut at document starts as in pull request 1855.
Differs: bucket numbers are computed in 64 bits, so that no vocabulary overflows them.
Checked by: tests/model/test_network.py, tests/interop/test_interop.py
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.model.parts.config import BigramConfig, ChannelSmear, TokenSmear


def bigram_bucket(input_ids_BT: Tensor, num_buckets: int) -> Tensor:
    """Hash every token with its predecessor to a bucket; the last bucket is the first position's own."""
    ids_BT = input_ids_BT.long()
    hashed = (36313 * ids_BT[:, 1:]) ^ (27191 * ids_BT[:, :-1])
    return F.pad(hashed % (num_buckets - 1), (1, 0), value=num_buckets - 1)


def linear_bigram_bucket(input_ids_BT: Tensor, num_buckets: int) -> Tensor:
    """Hash every token with its predecessor to a bucket; the first position's predecessor counts as token 0."""
    ids_BT = input_ids_BT.long()
    previous_BT = F.pad(ids_BT[:, :-1], (1, 0))
    return (previous_BT * 92821 + ids_BT) % num_buckets


def projection_between(in_dim: int, out_dim: int) -> nn.Module:
    """Return a matrix from one width to another, or nothing to do where they are equal."""
    return nn.Identity() if in_dim == out_dim else nn.Linear(in_dim, out_dim, bias=False)


def lookup_table(num_rows: int, dim: int) -> nn.Embedding:
    """Return a table whose rows hold anything: `initialise` sets them, and drawing them first would load a compiler."""
    return nn.Embedding.from_pretrained(torch.empty(num_rows, dim), freeze=False)


class BigramHash(nn.Module):
    """A small hashed table of token pairs, projected to the embedding width."""

    INITIAL_SCALE = 0.05

    def __init__(self, config: BigramConfig, embedding_dim: int) -> None:
        super().__init__()
        self.bucket_of = bigram_bucket if config.hash == "xor" else linear_bigram_bucket
        self.table = lookup_table(config.buckets, config.dim)
        self.projection = projection_between(config.dim, embedding_dim)
        self.scale = nn.Parameter(torch.tensor(self.INITIAL_SCALE)) if config.scaled else None

    def forward(self, input_ids_BT: Tensor) -> Tensor:
        """Return the (B, T, W) embedding of every position's pair."""
        pairs_BTW = self.projection(self.table(self.bucket_of(input_ids_BT, self.table.num_embeddings)))
        return pairs_BTW if self.scale is None else self.scale * pairs_BTW


class Smear(nn.Module):
    """Mix every embedding with its predecessor's through one gate per channel; before the first is zero."""

    def __init__(self, model_dim: int) -> None:
        super().__init__()
        self.gate = nn.Parameter(torch.zeros(model_dim))

    def forward(self, x_BTD: Tensor, input_ids_BT: Tensor) -> Tensor:
        """Return `(1 - g) * x + g * x_prev`."""
        gate_D = torch.sigmoid(self.gate)
        previous_BTD = F.pad(x_BTD[:, :-1], (0, 0, 1, 0))
        return (1 - gate_D) * x_BTD + gate_D * previous_BTD


class DocumentSmear(nn.Module):
    """Add the predecessor's embedding through a gate that each token opens, never across a document's start.

    As published it reads and mixes embeddings before they are normed, where `Smear` mixes normed ones.
    """

    def __init__(self, config: TokenSmear) -> None:
        super().__init__()
        self.width, self.bos_id = config.width, config.bos_id
        self.open = nn.Linear(config.width, 1, bias=False)
        self.strength = nn.Parameter(torch.zeros(1))

    def writers(self) -> list[nn.Module]:
        """Return the matrices that open a gate: zero in a fresh network."""
        return [self.open]

    def forward(self, x_BTW: Tensor, input_ids_BT: Tensor) -> Tensor:
        """Return `x + strength * g * x_prev`, and x itself where a document begins."""
        gate_BT1 = self.strength * torch.sigmoid(self.open(x_BTW[..., : self.width]))
        inside_BT1 = (input_ids_BT != self.bos_id).unsqueeze(-1)
        previous_BTW = F.pad(x_BTW[:, :-1], (0, 0, 1, 0))
        return x_BTW + (gate_BT1 * inside_BT1).to(x_BTW.dtype) * previous_BTW


def smear_of(config: ChannelSmear | TokenSmear | None, model_dim: int) -> Smear | DocumentSmear | None:
    """Return the smear that a configuration asks for."""
    if config is None:
        return None
    return DocumentSmear(config) if isinstance(config, TokenSmear) else Smear(model_dim)
