"""Score-first learning per document: low-rank adapters that live as long as their document.

One idea: documents that know nothing of each other run side by side, so an adapter is a pair of batched matrices, one
slice per document, and a product with it is a `bmm` beside the matrix it adapts. All documents start from the same
adapters, which change nothing; the model's own weights never move. After a chunk is scored every document takes one
Adam step on the mean loss of its own chunk, then reads on. Documents that end leave the batch.

Adapted are the projections of attention and MLP in every block, the same adapter in every pass of a looped one, and the
head, before its soft cap.

Axes: B documents, T positions of a window, C targets of a chunk, I/O inputs and outputs of a matrix, R rank.
Source: LoRA arXiv 2106.09685; per-document test-time training of the challenge's records.
Differs: documents keep their file order: a queue sorted by length would use lengths that are not scored yet.
Checked by: tests/scoring/test_lora.py, against one document at a time with torch's autograd and Adam.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.base.checks import require
from pipeline.model.layers import softcap
from pipeline.scoring.adaptation import NoAdaptation, autocast_to, reproducible_attention
from pipeline.scoring.config import LoraProtocol
from pipeline.scoring.windows import Group


class DocumentLora(NoAdaptation):
    """Adapters of the documents that are read now."""

    def __init__(self, model: Any, protocol: LoraProtocol, dtype: torch.dtype) -> None:
        """Own `model`, which is frozen and whose matrices add the adapters' products from now on.

        Raises ValueError for a model without blocks and a tied, soft-capped head.
        """
        known = all(hasattr(model, name) for name in ("blocks", "token_embedding", "config"))
        require(known, "protocol lora-ttt", type(model).__name__, "a model with blocks and a tied head")
        self.model, self.protocol, self.dtype = model.requires_grad_(False), protocol, dtype
        matrices = adapted_matrices(model.blocks)
        for number, matrix in enumerate(matrices):
            matrix.register_forward_hook(
                lambda module, inputs, output, number=number: output + self._product(number, inputs[0])
            )
        self.weights = [*(matrix.weight for matrix in matrices), model.token_embedding.weight]
        self.values: list[Tensor] = []
        """Of each matrix (B, R, I), random, and (B, O, R), zero at first."""
        self.means: list[Tensor] = []
        self.squares: list[Tensor] = []
        """Adam's moving averages."""
        self.steps = 0
        self.num_documents = 0

    def before(self, groups: Sequence[Group]) -> None:
        """Start over when all documents of the last batch have ended."""
        if not self.num_documents:
            self.values, self.steps, self.num_documents = self._fresh(len(groups)), 0, len(groups)
            self.means, self.squares = ([torch.zeros_like(each) for each in self.values] for _ in range(2))

    def after(self, groups: Sequence[Group], revealed: Sequence[Tensor]) -> None:
        """Take the step of the documents that go on: their chunks are whole and lie at one place in their windows."""
        going = [row for row, group in enumerate(groups) if not group.is_last]
        if len(going) < len(groups):
            self.num_documents = len(going)
            self.values, self.means, self.squares = (
                [each[going] for each in column] for column in (self.values, self.means, self.squares)
            )
        if going:
            skipped = groups[0].windows[0].first_scored - groups[0].start
            tokens_BT = torch.stack([revealed[row] for row in going])
            self._adam_step(self._gradients(tokens_BT[:, :-1], tokens_BT[:, 1 + skipped :]))

    def head(self, hidden_BTD: Tensor) -> Tensor:
        """Return float32 logits (B, T, V) of each document's own head."""
        z_BTV = F.linear(hidden_BTD, self.weights[-1]) + self._product(len(self.weights) - 1, hidden_BTD)
        return softcap(z_BTV.float(), self.model.config.logit_softcap)

    def _product(self, number: int, x_BTI: Tensor) -> Tensor:
        down_BRI, up_BOR = self.values[2 * number : 2 * number + 2]
        return torch.bmm(torch.bmm(x_BTI, down_BRI.mT), up_BOR.mT)

    def _fresh(self, num_documents: int) -> list[Tensor]:
        generator, values = torch.Generator().manual_seed(0), []
        for weight in self.weights:
            down_RI = torch.randn(self.protocol.rank, weight.size(1), generator=generator) / weight.size(1) ** 0.5
            values.append(down_RI.to(weight.device).repeat(num_documents, 1, 1))
            values.append(torch.zeros(num_documents, weight.size(0), self.protocol.rank, device=weight.device))
        return values

    def _gradients(self, inputs_BT: Tensor, targets_BC: Tensor) -> tuple[Tensor, ...]:
        """Return the gradient of every document's mean loss in its own slices."""
        with reproducible_attention(inputs_BT.device), torch.enable_grad():
            self.values = [each.requires_grad_() for each in self.values]
            with autocast_to(self.dtype, inputs_BT.device):
                logits_BCV = self.head(self.model.hidden(inputs_BT, targets_BC.size(1)))
            nats = F.cross_entropy(logits_BCV.flatten(0, 1), targets_BC.flatten(), reduction="sum")
            loss = nats / targets_BC.size(1)
            return torch.autograd.grad(loss, self.values, allow_unused=True, materialize_grads=True)

    @torch.no_grad()
    def _adam_step(self, gradients: Sequence[Tensor]) -> None:
        rule, self.steps = self.protocol, self.steps + 1
        rate = rule.learning_rate / (1 - rule.beta1**self.steps)
        for value, mean, square, gradient in zip(self.values, self.means, self.squares, gradients, strict=True):
            mean.lerp_(gradient, 1 - rule.beta1)
            square.lerp_(gradient.square(), 1 - rule.beta2)
            root = (square / (1 - rule.beta2**self.steps)).sqrt_().add_(rule.eps)
            value.requires_grad_(False).addcdiv_(mean, root, value=-rate)


def adapted_matrices(blocks: nn.Module) -> list[nn.Linear]:
    """Return the projections of attention and MLP of all blocks, in order; a head's gate is none."""
    return [module for name, module in blocks.named_modules() if isinstance(module, nn.Linear) and ".gate." not in name]
