"""The position-conditional bigram: pairs that begin a word and pairs inside one never share a bucket.

    H = (buckets - 1) // 2
    bucket = (36313 * cur XOR 27191 * prev) mod H    plus H where cur has no leading space; the first position: the last

Which tokens have one is the tokenizer's to say. Training is told once; from then on checkpoint and artifact hold it as
a tensor of ones and zeros, which passes through quantization exactly.

Axes: B batch, T position, V vocabulary.
Source: Parameter Golf pull request 1501.
Differs: there the projection starts at zero like the table: then neither would ever get a gradient. Here it starts
orthogonal, as every bigram's.
Checked by: tests/model/test_position_bigram.py, tests/model/test_network.py
"""

import torch
from torch import Tensor

from pipeline.model.embedding import BigramHash, bigram_bucket
from pipeline.model.parts.config import BigramConfig


class PositionBigram(BigramHash):
    """A bigram hash of two halves, all one half until `learn_spaces`."""

    inside_V: Tensor
    """1 for tokens without a leading space, 0 for others."""

    def __init__(self, config: BigramConfig, embedding_dim: int, vocab_size: int) -> None:
        super().__init__(config, embedding_dim)
        self.bucket_of = self._bucket
        self.register_buffer("inside_V", torch.zeros(vocab_size))

    def learn_spaces(self, leading_space_V: Tensor) -> None:
        """Take from the tokenizer which tokens have a leading space, a bool each."""
        self.inside_V.copy_(~leading_space_V)

    def _bucket(self, input_ids_BT: Tensor, num_buckets: int) -> Tensor:
        half = (num_buckets - 1) // 2
        bucket_BT = bigram_bucket(input_ids_BT, half + 1) + half * self.inside_V[input_ids_BT.long()].long()
        bucket_BT[:, 0] = num_buckets - 1
        return bucket_BT
