"""Second moments of what every weight matrix is fed, collected with hooks on the looped forward.

The one idea: the n-th call of a module within one forward is its n-th *visit*, so hooks on nn.Linear see a looped block
pass by pass without knowing any architecture. Matrices that are always fed the same tensor (query, key and value of
one attention) form one input *site*: its moment is computed and stored once, under the first member's name.

With a second network, run on the same tokens, the products of what *it* is fed with what the model is fed are taken
too: what the model's inputs still tell of the reference's (`quant/targets.py`).

Axes: N calibration sequences or tokens, T position, C columns (in features), V vocabulary.
Source: Frantar et al., arXiv 2210.17323 (H of a layer), arXiv 2504.02692 (products of two networks' inputs); the
visits are ours.
Differs: H is a mean of x x^T, not 2 X X^T; visits are kept apart, so that a quantizer may weight loops.
Checked by: tests/quant/test_calibrate_and_fit.py against moments computed by hand.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pipeline.base.ranks import Ranks, sum_over_ranks
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


@contextlib.contextmanager
def visit_hooks(model: nn.Module, names: set[str] | None, visited: Visited) -> Iterator[None]:
    """Call `visited` before every nn.Linear of `model` (weights `names` only, None for all) in one forward inside."""
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
        yield


@torch.no_grad()
def find_input_sites(model: LoopedUNet, ids_NT: Tensor) -> list[InputSite]:
    """Run one forward and group the matrices by the tensors that they were fed, visit by visit."""
    fed: dict[str, list[Tensor]] = {}  # holds the tensors, so that no identity is reused

    def visited(name: str, _visit: int, x: Tensor) -> None:
        fed.setdefault(name, []).append(x)

    with visit_hooks(model, None, visited):
        model.hidden(ids_NT)
    members: dict[tuple[int, ...], list[str]] = {}
    for name, inputs in fed.items():
        members.setdefault(tuple(map(id, inputs)), []).append(name)
    return [InputSite(names[0], tuple(names), len(inputs)) for inputs, names in members.items()]


def site_uses(sites: Sequence[InputSite]) -> dict[str, Tensor]:
    """Return the entries `uses/` of all matrices."""
    return {f"uses/{member}/{site.owner}": torch.tensor(site.visits) for site in sites for member in site.members}


def collect_moments(
    model: LoopedUNet,
    sites: list[InputSite],
    batches: Iterable[Tensor],
    ranks: Ranks,
    reference: LoopedUNet | None = None,
) -> dict[str, Tensor]:
    """Return `moment/`, `tokens/` and, given a reference, `cross/` of batches of ids (B, T), by statistics key.

    Every rank gives its own batches and gets the same means over all of them, float32 on the CPU. Per batch products
    are float32; sums are float64, 8 C^2 bytes per site, visit and kind on the model's device, divided once. All inputs
    of the reference on one batch are held besides.
    """
    device = model.token_embedding.weight.device
    widths = {
        f"{site.owner}/{visit}": model.get_parameter(site.owner).shape[1]
        for site in sites
        for visit in range(site.visits)
    }
    widths["head"] = model.token_embedding.embedding_dim
    # Every key from the start: a rank may have no batch. Nothing corrects the tied head's matrix, a table besides.
    keys = [f"moment/{at}" for at in widths]
    keys += [] if reference is None else [f"cross/{at}" for at in widths if at != "head"]
    sums = {key: torch.zeros(2 * [widths[key.partition("/")[2]]], dtype=torch.float64, device=device) for key in keys}
    tokens = {at: torch.zeros((), dtype=torch.int64, device=device) for at in widths}
    owners = {site.owner for site in sites}
    for ids_BT in batches:
        originals: dict[str, Tensor] = {}

        def add(at: str, x_NC: Tensor, originals: dict[str, Tensor] = originals) -> None:
            tokens[at] += len(x_NC)
            sums[f"moment/{at}"] += x_NC.T @ x_NC
            if f"cross/{at}" in sums:
                sums[f"cross/{at}"] += originals.pop(at).T @ x_NC

        if reference is not None:
            _feed(reference, owners, ids_BT, originals.__setitem__)
        _feed(model, owners, ids_BT, add)
    sum_over_ranks([*sums.values(), *tokens.values()], ranks)
    means = {key: (total_CC / tokens[key.partition("/")[2]]).float().cpu() for key, total_CC in sums.items()}
    return {**means, **{f"tokens/{at}": count.cpu() for at, count in tokens.items()}}


@torch.no_grad()
def _feed(model: LoopedUNet, owners: set[str], ids_BT: Tensor, take: Callable[[str, Tensor], None]) -> None:
    """Run one forward and hand every site's inputs (N, C), float32, to `take`, by `<owner>/<visit>` or `head`."""
    with visit_hooks(model, owners, lambda name, visit, x: take(f"{name}/{visit}", _token_rows(x))):
        take("head", _token_rows(model.hidden(ids_BT)))


def _token_rows(x: Tensor) -> Tensor:
    return x.detach().flatten(0, -2).float()
