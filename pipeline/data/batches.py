"""The order in which training sees the tokens, as a pure function of the step.

The one idea: cut every shard into non-overlapping sequences, permute them once per epoch with a generator seeded by
(seed, epoch), and let global sample number n be entry n mod S of epoch n div S. A batch then depends on its step
alone: resuming is starting at another step, and the global batch is the same however many ranks share it.

With a `bos_id` the sampler is document-aware: a sequence that would start inside a document starts at the first
document start in its span instead, where there is one with room for a whole sequence before the shard ends. What
changes: a sequence rarely opens with half a document, so a model sees whole beginnings (of documents shorter than a
sequence, nearly always), and the tokens of an epoch are no longer read exactly once: moved sequences overlap their
successors or leave a gap before themselves. The whole grid is therefore shifted by a random number of tokens in each
epoch, so that every token is read in some epochs. What stays: number, length and order of the sequences, purity,
shares of the ranks; sequences still run on into the next document, and none crosses the end of its shard.

Axes: B sequences, T positions, N calibration sequences, S sequences of one epoch.
Source: own.
Differs: published loaders read the shards front to back from a per-rank offset, so their order depends on the ranks.
Checked by: tests/data/test_batches.py.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from pipeline.base.checks import require, require_always


class SequenceSampler:
    """Deterministic training batches from memory-mapped shards; see the module's docstring."""

    def __init__(
        self, shards: Sequence[np.ndarray], sequence_tokens: int, seed: int, bos_id: int | None = None
    ) -> None:
        """Index `shards` (1-D uint16 each); ValueError when none holds `sequence_tokens` + 1 tokens.

        `bos_id`: the token that starts a document, for document-aware sequences; None for the plain grid.
        """
        require(sequence_tokens >= 1, "sequence_tokens", sequence_tokens, "at least 1")
        require(seed >= 0, "seed", seed, "0 or more")
        self.shards = list(shards)
        self.sequence_tokens = sequence_tokens
        self.seed = seed
        self.bos_id = bos_id
        # A sequence needs one token more than its inputs: the last target.
        per_shard = [max(len(shard) - 1, 0) // sequence_tokens for shard in self.shards]
        self._first_sequences = np.cumsum([0, *per_shard])
        self.num_sequences = int(self._first_sequences[-1])
        if not self.num_sequences:
            raise ValueError(
                f"training text: no shard holds a sequence of {sequence_tokens} tokens and its last target (longest: "
                f"{max((len(shard) for shard in self.shards), default=0)} tokens); add text or "
                "shorten sequences: model.context_tokens, train.context_stages"
            )
        self._cached_order: dict[int, tuple[np.ndarray, int]] = {}

    def batch(
        self, step: int, batch_sequences: int, rank: int, world_size: int, out_BT: Tensor | None = None
    ) -> Tensor:
        """Return this rank's share of a step's batch, int64 (batch_sequences / world_size, sequence_tokens + 1).

        `out_BT`, of that shape, is filled and returned when given.
        """
        require(step >= 0, "step", step, "0 or more")
        require(0 <= rank < world_size, "rank", rank, f"0 to {world_size - 1}")
        require(
            batch_sequences >= 1 and batch_sequences % world_size == 0,
            "batch_sequences",
            batch_sequences,
            f"a positive multiple of the number of processes ({world_size})",
        )
        share = batch_sequences // world_size
        if out_BT is None:
            out_BT = torch.empty((share, self.sequence_tokens + 1), dtype=torch.int64)
        first = step * batch_sequences + rank * share
        for row, array_T in enumerate(out_BT.numpy()):
            array_T[:] = self._sequence(first + row)
        return out_BT

    def _sequence(self, sample: int) -> np.ndarray:
        """Return global sample number `sample`, uint16 (sequence_tokens + 1,), a view of its shard."""
        epoch, position = divmod(sample, self.num_sequences)
        order, shift = self._order(epoch)
        sequence = int(order[position])
        index = int(np.searchsorted(self._first_sequences, sequence, side="right")) - 1
        shard = self.shards[index]
        start = (sequence - int(self._first_sequences[index])) * self.sequence_tokens + shift
        if self.bos_id is not None:
            start = self._document_start(shard, start)
        return shard[start : start + self.sequence_tokens + 1]

    def _document_start(self, shard: np.ndarray, start: int) -> int:
        """Return where the sequence at `start` begins: at its span's first document start, else where it is."""
        last = len(shard) - self.sequence_tokens - 1  # the last start with room for a whole sequence
        start = min(start, last)
        if not start:  # a shard may open with the end of a document, which no document start leads to
            return 0
        starts = np.flatnonzero(shard[start : min(start + self.sequence_tokens, last + 1)] == self.bos_id)
        return start + int(starts[0]) if len(starts) else start

    def _order(self, epoch: int) -> tuple[np.ndarray, int]:
        """Return the epoch's permutation of all sequences and shift of the grid, kept while the epoch lasts."""
        cached = self._cached_order  # one reading: another thread may put the next epoch's there
        if epoch not in cached:
            generator = np.random.default_rng([self.seed, epoch])
            order = generator.permutation(self.num_sequences)
            shift = 0 if self.bos_id is None else int(generator.integers(self.sequence_tokens))
            cached = self._cached_order = {epoch: (order, shift)}
        return cached[epoch]


class BatchStream:
    """One rank's batches from a step on, the next one gathered by a thread while the present one is computed with.

    The same batches as `SequenceSampler.batch` gives, for `device`. The thread only fills memory: for CUDA the caller
    pins it, so that it can be copied from without waiting (the allocator keeps it until the copy is done) and no second
    thread meets a stream or a graph capture. From pages in memory, gathering is a negligible part of a step; the thread
    is for pages that come from a disk. An error in it is raised by `next`; it ends when the stream is dropped.
    """

    def __init__(
        self,
        sampler: SequenceSampler,
        first_step: int,
        batch_sequences: int,
        rank: int,
        world_size: int,
        device: torch.device,
    ) -> None:
        self._sampler = sampler
        self._step = first_step
        self._shares = batch_sequences, rank, world_size
        self._device = device
        self._thread = ThreadPoolExecutor(1)
        self._start_gathering()

    def next(self) -> Tensor:
        """Return the next step's batch on the CPU, int64 (batch_sequences / world_size, sequence_tokens + 1)."""
        batch_BT = self._gathering.result()
        self._step += 1
        self._start_gathering()
        return batch_BT

    def _start_gathering(self) -> None:
        batch_sequences, _, world_size = self._shares
        shape = batch_sequences // world_size, self._sampler.sequence_tokens + 1
        out_BT = torch.empty(shape, dtype=torch.int64, pin_memory=self._device.type == "cuda")
        self._gathering = self._thread.submit(self._sampler.batch, self._step, *self._shares, out_BT)


def shorter_sequences(batch_BT: Tensor, tokens: int | None) -> Tensor:
    """Return sequences (B, T + 1), whose last token is but a target, cut into as many of `tokens` + 1, in order.

    `tokens` divides T; the last target of a piece is the first input of the next.
    """
    assert tokens is not None, "the stages of a run hold at every step"
    cut_BT = batch_BT.unfold(1, tokens + 1, tokens).flatten(0, 1)
    return cut_BT.pin_memory() if batch_BT.is_pinned() else cut_BT


def calibration_sequences(shards: Sequence[np.ndarray], sequence_tokens: int, num_sequences: int) -> Tensor:
    """Return int64 (num_sequences, sequence_tokens), evenly spaced over all tokens and disjoint.

    ValueError when the shards hold fewer disjoint sequences.
    """
    require(sequence_tokens >= 1, "sequence_tokens", sequence_tokens, "at least 1")
    per_shard = [len(shard) // sequence_tokens for shard in shards]
    first_sequences = np.cumsum([0, *per_shard])
    available = int(first_sequences[-1])
    require_always(
        1 <= num_sequences <= available,
        "num_sequences",
        num_sequences,
        f"1 to {available}, the sequences of {sequence_tokens} tokens in the training text",
    )
    # The middle of each of num_sequences equal parts.
    chosen = (2 * np.arange(num_sequences) + 1) * available // (2 * num_sequences)
    rows = []
    for sequence in chosen.tolist():
        shard = int(np.searchsorted(first_sequences, sequence, side="right")) - 1
        start = (sequence - int(first_sequences[shard])) * sequence_tokens
        rows.append(shards[shard][start : start + sequence_tokens].astype(np.int64))
    return torch.from_numpy(np.stack(rows))
