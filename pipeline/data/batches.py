"""The order in which training sees the tokens, as a pure function of the step.

The one idea: cut every shard into non-overlapping sequences, permute them once per epoch with a generator seeded by
(seed, epoch), and let global sample number n be entry n mod S of epoch n div S. A batch then depends on its step
alone: resuming is starting at another step, and the global batch is the same however many ranks share it.

Axes: B sequences, T positions, N calibration sequences, S sequences of one epoch.
Source: own.
Differs: published loaders read the shards front to back from a per-rank offset, so their order depends on the ranks.
Checked by: tests/data/test_batches.py.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from pipeline.checks import require


class SequenceSampler:
    """Deterministic training batches from memory-mapped shards; see the module's docstring."""

    def __init__(self, shards: Sequence[np.ndarray], sequence_tokens: int, seed: int) -> None:
        """Index `shards` (1-D uint16 each); ValueError when none holds `sequence_tokens` + 1 tokens."""
        require(sequence_tokens >= 1, "sequence_tokens", sequence_tokens, "at least 1")
        require(seed >= 0, "seed", seed, "0 or more")
        self.shards = list(shards)
        self.sequence_tokens = sequence_tokens
        self.seed = seed
        # A sequence needs one token more than its inputs: the last target.
        per_shard = [max(len(shard) - 1, 0) // sequence_tokens for shard in self.shards]
        self._first_sequences = np.cumsum([0, *per_shard])
        self.num_sequences = int(self._first_sequences[-1])
        if not self.num_sequences:
            raise ValueError(
                f"training text: no shard holds a sequence of {sequence_tokens} tokens and its last target (longest: "
                f"{max((len(shard) for shard in self.shards), default=0)} tokens); add text or lower "
                "model.context_tokens"
            )
        self._cached_order: dict[int, np.ndarray] = {}

    def batch(self, step: int, batch_sequences: int, rank: int, world_size: int) -> Tensor:
        """Return this rank's share of a step's batch, int64 (batch_sequences / world_size, sequence_tokens + 1)."""
        require(step >= 0, "step", step, "0 or more")
        require(0 <= rank < world_size, "rank", rank, f"0 to {world_size - 1}")
        require(batch_sequences >= 1 and batch_sequences % world_size == 0, "batch_sequences", batch_sequences,
                f"a positive multiple of the number of processes ({world_size})")  # fmt: skip
        share = batch_sequences // world_size
        first = step * batch_sequences + rank * share
        return torch.from_numpy(np.stack([self._sequence(sample) for sample in range(first, first + share)]))

    def _sequence(self, sample: int) -> np.ndarray:
        """Return global sample number `sample`, int64 (sequence_tokens + 1,)."""
        epoch, position = divmod(sample, self.num_sequences)
        sequence = int(self._order(epoch)[position])
        shard = int(np.searchsorted(self._first_sequences, sequence, side="right")) - 1
        start = (sequence - int(self._first_sequences[shard])) * self.sequence_tokens
        return self.shards[shard][start : start + self.sequence_tokens + 1].astype(np.int64)

    def _order(self, epoch: int) -> np.ndarray:
        """Return the epoch's permutation of all sequences, kept while the epoch lasts."""
        if epoch not in self._cached_order:
            order = np.random.default_rng([self.seed, epoch]).permutation(self.num_sequences)
            self._cached_order = {epoch: order}
        return self._cached_order[epoch]


def calibration_sequences(shards: Sequence[np.ndarray], sequence_tokens: int, num_sequences: int) -> Tensor:
    """Return int64 (num_sequences, sequence_tokens), evenly spaced over all tokens and disjoint.

    ValueError when the shards hold fewer disjoint sequences.
    """
    require(sequence_tokens >= 1, "sequence_tokens", sequence_tokens, "at least 1")
    per_shard = [len(shard) // sequence_tokens for shard in shards]
    first_sequences = np.cumsum([0, *per_shard])
    available = int(first_sequences[-1])
    require(1 <= num_sequences <= available, "num_sequences", num_sequences,
            f"1 to {available}, the sequences of {sequence_tokens} tokens in the training text")  # fmt: skip
    # The middle of each of num_sequences equal parts.
    chosen = (2 * np.arange(num_sequences) + 1) * available // (2 * num_sequences)
    rows = []
    for sequence in chosen.tolist():
        shard = int(np.searchsorted(first_sequences, sequence, side="right")) - 1
        start = (sequence - int(first_sequences[shard])) * sequence_tokens
        rows.append(shards[shard][start : start + sequence_tokens].astype(np.int64))
    return torch.from_numpy(np.stack(rows))
