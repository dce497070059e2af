"""Muon over ranks: every rank averages, orthogonalises and remembers the momentum of its share of the matrices only.

The one idea: the matrices of one shape are dealt out in consecutive, equal shares, padded at the end, so that one
reduce-scatter brings a rank the mean gradients of its share and one all-gather brings everybody's directions back.
Then all ranks do the same arithmetic on the same numbers, so their weights stay identical bit for bit; directions in
bf16 are half the traffic of gathering fp32 weights.

    backward   gradients of all matrices                     on every rank
    average    start: reduce-scatter, one per shape          the first travel while the next are packed, and while the
               finish: mean gradients of the own share       caller averages the rest; clipping needs them all
    step       directions of the own share, all-gather       a shape travels while the next is orthogonalised

Axes: P matrices of all ranks' shares and Q of one's, padded; R the shorter and C the longer side of a matrix.

Source: the sharded step of the published speed-run scripts (modded-nanogpt).
Differs: gloo and nccl take the same path and there is no fallback: gloo reduce-scatters lists of tensors since torch
    2.8 (inside it, one all-reduce per rank). The single-tensor forms were renamed between the supported versions.
Checked by: tests/training/test_sharded_muon.py, tests/training/test_ranks.py.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from pipeline.optim.muon import Muon, equal_shapes, wide_view


class _Stack(NamedTuple):
    """The matrices of one shape on their way through a step."""

    group: dict[str, Any]
    weights: list[Tensor]
    active: list[int]
    """Places in `weights` that have a gradient in this step."""
    share: int
    """Places of a rank; the last rank's may be padding."""
    mean_QRC: Tensor
    """Mean gradients of the own share, once reduced."""
    reducing: dist.Work

    def own(self, rank: int) -> list[tuple[int, Tensor]]:
        """Return the rank's active matrices with their places in its share."""
        return [(place % self.share, self.weights[place]) for place in self.active if place // self.share == rank]


class ShardedMuon(Muon):
    """Muon of one rank: every step is `start_averaging`, `finish_averaging`, `step`, on every rank of the group.

    Which matrices have a gradient may change from step to step, but must be equal over ranks. The state holds the
    own share alone: the union of the ranks' `state_dict()["state"]` is the whole one, and loads at any world size.
    """

    def __init__(self, params: Iterable[Any], *, rank: int, world_size: int, **settings: Any) -> None:
        """Take this process's number among `world_size`; `settings` are Muon's."""
        super().__init__(params, **settings)
        self.rank, self.world_size = rank, world_size
        self._stacks: list[_Stack] = []

    @torch.no_grad()
    def start_averaging(self) -> None:
        """Send off the gradients of all matrices, one reduce-scatter per shape; none is left behind."""
        self._stacks.clear()
        for group in self.param_groups:
            for weights in equal_shapes(group["params"]):
                active = [place for place, weight in enumerate(weights) if weight.grad is not None]
                if active:
                    self._stacks.append(self._send_off(group, weights, active))

    def _send_off(self, group: dict[str, Any], weights: list[Tensor], active: list[int]) -> _Stack:
        """Pack the gradients of matrices of one shape and start to reduce them."""
        share = self._share_of(weights)
        sent_PRC = weights[0].new_zeros(share * self.world_size, *wide_view(weights[0]).shape)
        for place in active:
            gradient, weights[place].grad = weights[place].grad, None
            assert gradient is not None, "active matrices have a gradient"
            sent_PRC[place] = wide_view(gradient)
        mean_QRC = torch.empty_like(sent_PRC[:share])
        reducing = dist.reduce_scatter(mean_QRC, list(sent_PRC.split(share)), async_op=True)
        return _Stack(group, weights, active, share, mean_QRC, reducing)

    @torch.no_grad()
    def finish_averaging(self) -> None:
        """Give the matrices of the own share the mean of the ranks' gradients; the others stay without one."""
        for stack in self._stacks:
            stack.reducing.wait()
            stack.mean_QRC.div_(self.world_size)
            for place, weight in stack.own(self.rank):
                mean_RC = stack.mean_QRC[place]
                weight.grad = mean_RC if mean_RC.shape == weight.shape else mean_RC.mT

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update, on every rank, every matrix that had a gradient before they were averaged."""
        assert closure is None, "Muon evaluates no closure"
        gathering = [self._gather_directions(stack) for stack in self._stacks]
        for stack, (all_PRC, work) in zip(self._stacks, gathering, strict=True):
            work.wait()
            self._move(
                [stack.weights[place] for place in stack.active],
                [all_PRC[place] for place in stack.active],
                stack.group,
            )
        self._stacks.clear()

    def _gather_directions(self, stack: _Stack) -> tuple[Tensor, dist.Work]:
        """Compute the directions of the own share and start to gather everybody's."""
        own = stack.own(self.rank)
        own_QRC = torch.zeros_like(stack.mean_QRC, dtype=self.dtype)
        if own:
            directions_SRC = self._directions([weight for _, weight in own], stack.group["momentum"])
            for (place, _), direction_RC in zip(own, directions_SRC, strict=True):
                own_QRC[place] = direction_RC
        all_PRC = own_QRC.new_empty(stack.share * self.world_size, *own_QRC.shape[1:])
        return all_PRC, dist.all_gather(list(all_PRC.split(stack.share)), own_QRC, async_op=True)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over this rank's state or the union of all ranks': what other ranks own is dropped."""
        super().load_state_dict(state_dict)
        for group in self.param_groups:
            for weights in equal_shapes(group["params"]):
                for place, weight in enumerate(weights):
                    if place // self._share_of(weights) != self.rank:
                        self.state.pop(weight, None)

    def _share_of(self, weights: list[Tensor]) -> int:
        """Return how many of the matrices each rank owns, padding included."""
        return -(-len(weights) // self.world_size)
