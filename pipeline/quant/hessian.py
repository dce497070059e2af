"""Second moments of what every weight matrix is fed, collected with hooks on the looped forward.

The one idea: the n-th call of a module within one forward is its n-th *visit*, so hooks on nn.Linear see a looped block
pass by pass without knowing any architecture. Matrices that are always fed the same tensor (query, key and value of
one attention) form one input *site*: its moment is computed and stored once, under the first member's name.

Axes: N calibration sequences, T position, C columns (in features), V vocabulary.
Source: Frantar et al., arXiv 2210.17323 (H of a layer); the visits are ours.
Differs: H is a mean of x x^T, not 2 X X^T; visits are kept apart, so that a quantizer may weight loops.
Checked by: tests/quant/test_calibrate_and_fit.py against moments computed by hand.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pipeline.model.network import LoopedUNet

Visited = Callable[[str, int, Tensor], None]
"""Called with (parameter name, visit, input activations (..., C)) before a matrix is applied."""


class InputSite(NamedTuple):
    """Matrices that read the same activations on every visit."""

    owner: str
    """Parameter name of the first member: what the site's moments are stored under."""
    members: tuple[str, ...]
    """Parameter names of all members, the owner included."""
    visits: int
    """Calls per forward."""
    first_call: int
    """Position of the owner's first call among all calls of matrices in a forward."""
    last_call: int
    """Position of its last call."""


class Moment(NamedTuple):
    """Mean of x x^T over activations, float64 on the CPU, and how many it averages."""

    mean_CC: Tensor
    tokens: int


class MomentSum:
    """A running sum of x x^T: float32 products per batch, float64 sums, divided once."""

    def __init__(self) -> None:
        self.sum_CC: Tensor | None = None
        self.tokens = 0

    def add(self, x: Tensor) -> None:
        """Add activations of shape (..., C)."""
        x_NC = x.detach().reshape(-1, x.shape[-1]).to(torch.float32)
        product_CC = x_NC.T @ x_NC
        if self.sum_CC is None:
            self.sum_CC = product_CC.to(torch.float64)
        else:
            self.sum_CC += product_CC
        self.tokens += len(x_NC)

    def moment(self) -> Moment:
        """Return the mean so far."""
        assert self.sum_CC is not None, "no activation was added"
        return Moment((self.sum_CC / self.tokens).cpu(), self.tokens)


@contextlib.contextmanager
def visit_hooks(model: nn.Module, names: set[str] | None, visited: Visited) -> Iterator[Callable[[], None]]:
    """Call `visited` before every nn.Linear of `model` (weights `names` only, None for all) inside the context.

    Yields a function to call before each forward: it starts the count of visits anew.
    """
    counts: dict[str, int] = {}

    def hook_for(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            visit = counts.get(name, 0)
            counts[name] = visit + 1
            visited(name, visit, inputs[0])

        return hook

    with contextlib.ExitStack() as stack:
        for prefix, module in model.named_modules():
            name = f"{prefix}.weight"
            if isinstance(module, nn.Linear) and (names is None or name in names):
                handle = module.register_forward_pre_hook(hook_for(name))
                stack.callback(handle.remove)
        yield counts.clear


def find_input_sites(model: LoopedUNet, ids_NT: Tensor) -> list[InputSite]:
    """Run one forward and group the matrices by the tensors that they were fed, visit by visit."""
    calls: list[tuple[str, Tensor]] = []  # holds the tensors, so that no identity is reused

    def visited(name: str, _visit: int, x: Tensor) -> None:
        calls.append((name, x))

    with visit_hooks(model, None, visited), torch.no_grad():
        model.hidden(ids_NT)
    positions: dict[str, list[int]] = {}
    for position, (name, _) in enumerate(calls):
        positions.setdefault(name, []).append(position)
    members: dict[tuple[int, ...], list[str]] = {}
    for name, at in positions.items():
        members.setdefault(tuple(id(calls[i][1]) for i in at), []).append(name)
    return [
        InputSite(names[0], tuple(names), len(positions[names[0]]), positions[names[0]][0], positions[names[0]][-1])
        for names in members.values()
    ]


class MomentCollector:
    """Sums for chosen sites, per visit, and for the head's input, over any number of forwards.

    Each site and visit holds 8 C^2 bytes on the model's device and, once asked for its mean, as many on the host: 75 MB
    at C = 3072, so 0.7 GB for that layer of three looped blocks passed three times.
    """

    def __init__(self, model: LoopedUNet, sites: list[InputSite]) -> None:
        self._model = model
        self._owners = {site.owner for site in sites}
        self._sums: dict[tuple[str, int], MomentSum] = {}
        self._head = MomentSum()

    def run(self, batches: Iterable[Tensor]) -> None:
        """Forward every batch of token ids (B, T) and add what the sites were fed."""

        def visited(name: str, visit: int, x: Tensor) -> None:
            self._sums.setdefault((name, visit), MomentSum()).add(x)

        with visit_hooks(self._model, self._owners, visited) as start_forward, torch.no_grad():
            for ids_BT in batches:
                start_forward()
                self._head.add(self._model.hidden(ids_BT))

    def site_moments(self) -> dict[tuple[str, int], Moment]:
        """Return the moments by (owner, visit)."""
        return {key: total.moment() for key, total in self._sums.items()}

    def head_moment(self) -> Moment:
        """Return the moment of the final hidden states, which the tied embedding reads as a head."""
        return self._head.moment()
