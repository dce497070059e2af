"""This process among the processes of a run, and the few things that all of them do together.

The one idea: ranks are plain values; a world of one needs no process group and does nothing here.

Source: torch.distributed.
Checked by: tests/training/test_ranks.py, tests/training/test_sharded_muon.py,
tests/calibration/test_calibration_ranks.py, tests/quant/test_quantization_ranks.py,
tests/scoring/test_scoring_ranks.py.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor


class Ranks(NamedTuple):
    """This process among the processes of a run."""

    rank: int
    """Number of this process over all machines, from 0."""
    local_rank: int
    """Number of this process on its machine, from 0: its GPU."""
    world_size: int
    """Processes over all machines."""


ALONE = Ranks(0, 0, 1)
"""The only rank of a world of one."""


@torch.no_grad()
def share_from_rank_zero(tensors: Iterable[Tensor], ranks: Ranks) -> None:
    """Overwrite every rank's tensors with rank 0's."""
    if ranks.world_size > 1:
        for tensor in tensors:
            dist.broadcast(tensor, src=0)


def sum_over_ranks(tensors: Iterable[Tensor], ranks: Ranks) -> None:
    """Replace every tensor by its sum over ranks, the same bits on all of them."""
    if ranks.world_size > 1:
        for tensor in tensors:
            dist.all_reduce(tensor)


@torch.no_grad()
def average_over_ranks(tensors: Sequence[Tensor], ranks: Ranks) -> None:
    """Replace every tensor by its mean over ranks, with one fp32 all-reduce."""
    if ranks.world_size == 1:
        return
    flat = torch.cat([tensor.float().flatten() for tensor in tensors])
    dist.all_reduce(flat)
    flat /= ranks.world_size
    for tensor, mean in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(mean.view_as(tensor))


def gather_over_ranks(tensor: Tensor, ranks: Ranks) -> list[Tensor]:
    """Return every rank's tensor, by rank; all have one shape."""
    if ranks.world_size == 1:
        return [tensor]
    gathered = [torch.empty_like(tensor) for _ in range(ranks.world_size)]
    dist.all_gather(gathered, tensor)
    return gathered


def from_rank_zero(value: Any, ranks: Ranks) -> Any:
    """Return rank 0's value on every rank."""
    box = [value]
    if ranks.world_size > 1:
        dist.broadcast_object_list(box, src=0)
    return box[0]


def from_all_ranks(value: Any, ranks: Ranks) -> list[Any]:
    """Return every rank's value, in the order of ranks, on every rank."""
    values = [value] * ranks.world_size
    if ranks.world_size > 1:
        dist.all_gather_object(values, value)
    return values


@contextmanager
def errors_shared(ranks: Ranks) -> Iterator[None]:
    """Raise on every rank what the block raised on one: no rank waits for another that has given up."""
    caught = None
    try:
        yield
    except Exception as error:
        caught = error
    for each in from_all_ranks(caught, ranks):
        if each:
            raise caught or each


def share_of(costs: Mapping[str, int], ranks: Ranks) -> set[str]:
    """Return this rank's part of named work: dealt the costliest first, each to whoever has least to do so far."""
    loads, share = [0] * ranks.world_size, set()
    for name in sorted(costs, key=costs.__getitem__, reverse=True):
        rank = loads.index(min(loads))
        loads[rank] += costs[name]
        if rank == ranks.rank:
            share.add(name)
    return share
