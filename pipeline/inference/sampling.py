"""Tokens that follow others, drawn from a model: token after token, from the distribution that the model scores with.

The one idea: a token's probability is the softmax of the soft-capped logits over the temperature, of all of the
vocabulary and nothing else: no top-k, no penalties. At temperature 1 a text is as probable here as its nats under the
protocol `stream` of the same context and a stride of one say: a token is read once, and its attentions see the
`context_tokens - 1` positions before it from a cache, however long the text gets (a sliding context).

Draws come from a generator of their own, on the CPU and in float64, one per token: a seed gives the same draws on any
device, and the same text wherever logits have the same bits.

Axes: B one sequence, T positions of a piece, D hidden width, V vocabulary.
Source: none.
Checked by: tests/inference/test_sampling.py.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.base.checks import require
from pipeline.model.network import LoopedUNet
from pipeline.model.stream_cache import StreamCache


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """How the next token is chosen."""

    temperature: float
    """What logits are divided by; 0 takes the most probable token."""
    seed: int
    """Of the draws."""

    def __post_init__(self) -> None:
        ok = math.isfinite(self.temperature) and self.temperature >= 0
        require(ok, "--temperature", self.temperature, "0, for the most probable token, or a number above")


def continued(model: LoopedUNet, tokens: Sequence[int], config: SamplingConfig) -> Iterator[int]:
    """Yield the tokens that follow `tokens`, at least one, without end; of a prompt the last `context_tokens` are read.

    `model` is in evaluation mode and stays as it is. Raises ValueError for logits that are not finite.
    """
    context, generator = model.config.context_tokens, torch.Generator().manual_seed(config.seed)
    cache, piece = StreamCache(context - 1), list(tokens[-context:])
    while True:
        token = choose(next_logits(model, piece, cache), config.temperature, generator)
        yield token
        piece = [token]


def next_logits(model: LoopedUNet, piece: Sequence[int], cache: StreamCache) -> Tensor:
    """Return the float64 logits (V,) on the CPU of the token after `piece`, which follows what `cache` remembers."""
    device = model.token_embedding.weight.device
    with torch.inference_mode():
        hidden_BTD = model.hidden(torch.tensor([piece], device=device), 1, cache)
        logits_V = model.logits(hidden_BTD)[0, -1].double().cpu()
    require(bool(logits_V.isfinite().all()), "logits", "some that are not finite", "finite ones: other weights")
    return logits_V


def choose(logits_V: Tensor, temperature: float, generator: torch.Generator) -> int:
    """Return a token drawn from the softmax of logits over the temperature; of temperature 0, the first largest."""
    if temperature == 0:
        return int(logits_V.argmax())
    # From the largest on down, so that no temperature overflows.
    probabilities_V = torch.softmax((logits_V - logits_V.max()) / temperature, dim=0)
    return int(torch.multinomial(probabilities_V, 1, generator=generator))
