"""Score-first learning per document: low-rank adapters that live as long as their document.

One idea: documents that know nothing of each other run side by side, so an adapter is a pair of batched matrices, one
slice per document, and a product with it is a `bmm` beside the matrix it adapts. All documents start from the same
adapters, which change nothing; the model's own weights never move. After a chunk is scored every document takes one
Adam step on the mean loss of its own chunk, then reads on. All adapters of a document lie in one row, so that the step
of a batch is a few operations. Who runs beside whom changes from chunk to chunk: a row is kept under the number of the
group that reads on with it.

Adapted are the projections of attention and MLP in every block, the same adapter in every pass of a looped one, and the
head, before its soft cap.

Axes: B documents, T positions of a window, C targets of a chunk, I/O inputs and outputs of a matrix, R rank, P values
of all adapters of a document.
Source: LoRA arXiv 2106.09685; per-document test-time training of the challenge's records.
Differs: documents keep their file order: a queue sorted by length would use lengths that are not scored yet.
Checked by: tests/scoring/test_lora.py, against one document at a time with torch's autograd and Adam.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from pipeline.base.checks import require
from pipeline.scoring.adaptation import NoAdaptation, autocast_to, reproducible_gradients
from pipeline.scoring.config import LoraProtocol
from pipeline.scoring.phased_config import PhasedProtocol
from pipeline.scoring.windows import Group


class DocumentState(NamedTuple):
    """What a document has learnt."""

    rows_3P: Tensor
    """Values of its adapters, and Adam's moving averages of their gradients and of the squares."""
    steps: int
    """Adam steps taken."""


class DocumentLora(NoAdaptation):
    """Adapters of the documents that are read now."""

    draw: Callable[..., Tensor] = staticmethod(torch.randn)
    """Draws first matrices, to be scaled by the root of their inputs."""

    def __init__(self, model: Any, protocol: LoraProtocol | PhasedProtocol, dtype: torch.dtype) -> None:
        """Own `model`, which is frozen and whose matrices add the adapters' products from now on.

        Raises ValueError for a model without blocks and a tied, soft-capped head.
        """
        known = all(hasattr(model, name) for name in ("blocks", "token_embedding", "config"))
        require(known, f"protocol {protocol.kind}", type(model).__name__, "a model with blocks and a tied head")
        self.model, self.protocol, self.dtype = model.requires_grad_(False), protocol, dtype
        self.size = protocol.chunk_tokens
        """Targets of each chunk that is learnt from next."""
        self.weights = [*self._attach(), model.token_embedding.weight]
        """Each as large as an adapter's product, the head's last."""
        self.fresh = DocumentState(self._fresh_rows(), 0)
        self.waiting: dict[int, DocumentState] = {}
        """Group number -> state of the document that it reads on."""
        self.states: list[DocumentState] = []
        """Of the groups that are read now."""
        self.adapters: list[Tensor] = []
        """Of each matrix (B, R, I), random at first, and (B, O, R), zero at first."""

    def before(self, groups: Sequence[Group]) -> None:
        """Take up the documents where their last chunks left them."""
        self.states = [self.waiting.pop(group.number, self.fresh) for group in groups]
        self._use(torch.stack([state.rows_3P[0] for state in self.states]))

    def after(self, groups: Sequence[Group], revealed: Sequence[Tensor]) -> None:
        """Take the step of the documents that go on: their chunks are whole and end with their windows."""
        going = [row for row, group in enumerate(groups) if not group.is_last]
        if not going:
            return
        states = [self.states[row] for row in going]
        rows_3BP = torch.stack([state.rows_3P for state in states], dim=1)
        self._adam_step(rows_3BP, [state.steps for state in states], [revealed[row] for row in going])
        for row, state, rows_3P in zip(going, states, rows_3BP.unbind(1), strict=True):
            self.waiting[groups[row].number + 1] = DocumentState(rows_3P, state.steps + 1)

    def head(self, hidden_BTD: Tensor) -> Tensor:
        """Return float32 logits (B, T, V) of each document's own head."""
        z_BTV = self._added(len(self.weights) - 1, hidden_BTD, F.linear(hidden_BTD, self.weights[-1]))
        return self.model.capped(z_BTV)

    def _attach(self) -> list[Tensor]:
        """Let the model add the adapters' products, and return what has their sizes."""
        matrices = adapted_matrices(self.model.blocks)
        for number, matrix in enumerate(matrices):
            matrix.register_forward_hook(
                lambda module, inputs, output, number=number: self._added(number, inputs[0], output)
            )
        return [matrix.weight for matrix in matrices]

    def _added(self, number: int, x_BTI: Tensor, output_BTO: Tensor) -> Tensor:
        down_BRI, up_BOR = self.adapters[2 * number : 2 * number + 2]
        return torch.baddbmm(output_BTO, torch.bmm(x_BTI, down_BRI.mT), up_BOR.mT)

    def _fresh_rows(self) -> Tensor:
        generator, parts, rank = torch.Generator().manual_seed(0), list[Tensor](), self.protocol.rank
        for weight in self.weights:
            down_RI = self.draw(rank, weight.size(1), generator=generator) / weight.size(1) ** 0.5
            parts += [down_RI.flatten(), torch.zeros(len(weight) * rank)]
        values_P = torch.cat(parts).to(self.weights[0].device)
        return torch.stack([values_P, torch.zeros_like(values_P), torch.zeros_like(values_P)])

    def _use(self, values_BP: Tensor) -> None:
        """Let the matrices add the products of these adapters, in the dtype of the other products."""
        rank = self.protocol.rank
        shapes = [shape for weight in self.weights for shape in ((rank, weight.size(1)), (len(weight), rank))]
        parts = values_BP.to(self.dtype).split([rows * columns for rows, columns in shapes], dim=1)
        self.adapters = [part.unflatten(1, shape) for part, shape in zip(parts, shapes, strict=True)]

    def _gradient(self, values_BP: Tensor, revealed: Sequence[Tensor]) -> Tensor:
        """Return the gradient of every document's mean loss in its own row."""
        size = self.size
        targets_BC = torch.stack([tokens[-size:] for tokens in revealed])
        ids_BT = pad_sequence([tokens[:-1] for tokens in revealed], batch_first=True)
        places = [len(tokens) - 1 - size for tokens in revealed]
        num_scored = ids_BT.size(1) - min(places)
        index_B1 = torch.tensor(places, device=ids_BT.device)[:, None] - min(places)
        index_BC = index_B1 + torch.arange(size, device=ids_BT.device)
        with reproducible_gradients(ids_BT.device), torch.enable_grad():
            self._use(values_BP.requires_grad_())
            with autocast_to(self.dtype, ids_BT.device):
                hidden_BTD = self.model.hidden(ids_BT, num_scored)
                logits_BCV = self.head(torch.take_along_dim(hidden_BTD, index_BC[..., None], dim=1))
            nats = F.cross_entropy(logits_BCV.flatten(0, 1), targets_BC.flatten(), reduction="sum")
            return torch.autograd.grad(nats / size, values_BP)[0]

    @torch.no_grad()
    def _adam_step(self, rows_3BP: Tensor, steps: Sequence[int], revealed: Sequence[Tensor]) -> None:
        rule, (values_BP, means_BP, squares_BP) = self.protocol, rows_3BP
        gradient_BP = self._gradient(values_BP.detach(), revealed)
        debias_2B1 = torch.tensor([[[1 - beta ** (taken + 1)] for taken in steps] for beta in (rule.beta1, rule.beta2)])
        debias1_B1, debias2_B1 = debias_2B1.to(gradient_BP)
        means_BP.lerp_(gradient_BP, 1 - rule.beta1)
        squares_BP.lerp_(gradient_BP.square_(), 1 - rule.beta2)
        root_BP = (squares_BP / debias2_B1).sqrt_().add_(rule.eps)
        values_BP.addcdiv_(means_BP * (-rule.learning_rate / debias1_B1), root_BP)


def adapted_matrices(blocks: nn.Module) -> list[nn.Linear]:
    """Return the projections of attention and MLP of all blocks, in order; a head's gate is none."""
    return [module for name, module in blocks.named_modules() if isinstance(module, nn.Linear) and ".gate." not in name]
