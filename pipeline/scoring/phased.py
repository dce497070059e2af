"""Phased test-time training: adapters of each document and visit, and one phase in which all weights learn.

One idea: `DocumentLora` with three additions. Adapters belong to visits: a block that loops has others in every pass,
and takes them in turn, in the order of the schedule. Documents of a lane follow one another: the next one finds the
first matrices of all adapters as the last one left them (warm A), the second ones zero and Adam's averages empty. Once
the first documents are scored SGD trains the model's own weights on them, and the lanes after that begin anew.

Lanes and the phase lie at fixed places of the stream and whole lanes run on one process, so a score depends neither on
the number of processes nor on how far they are.

Adapted are queries, values and, if wanted, keys; the head, before its cap; and attention and MLP as wholes, by a path
beside them from their input to their output.

Axes: B sequences, T positions, I/O inputs and outputs of an adapter, R rank, P values of all adapters of a document.
Source: phased test-time training of Parameter Golf (pull requests 1610, 1626, 1787, 2135).
Differs: documents keep their file order and every target is scored; lanes begin at fixed places, not by who is done.
Checked by: tests/scoring/test_phased.py, against one document at a time with torch's autograd, AdamW and SGD.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from pipeline.base.ranks import Ranks
from pipeline.model.layers import tail
from pipeline.scoring.adaptation import ChunkSGD
from pipeline.scoring.lora import DocumentLora, DocumentState
from pipeline.scoring.phased_config import PhasedProtocol
from pipeline.scoring.windows import Group, chunk_groups


def draw_uniform(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    """Return values between -1 and 1."""
    return 2 * torch.rand(rows, columns, generator=generator) - 1


class PhasedLora(DocumentLora):
    """Adapters of the documents that are read now, and the phase between the first documents and the others."""

    protocol: PhasedProtocol
    draw = staticmethod(draw_uniform)

    def __init__(
        self, model: Any, protocol: PhasedProtocol, dtype: torch.dtype, ranks: Ranks, map_batches: Callable[..., Any]
    ) -> None:
        """Own `model`, whose parts add the adapters' products from now on; its weights move in the phase only."""
        super().__init__(model, protocol, dtype)
        self.ranks, self.map_batches, self.turn = ranks, map_batches, 0
        """`turn`: adapters that this forward pass has used."""
        is_first = [
            torch.full((protocol.rank * size,), kept)
            for weight in self.weights
            for size, kept in ((weight.size(1), 1.0), (weight.size(0), 0.0))
        ]
        self.kept_P = torch.cat(is_first).to(model.token_embedding.weight.device)
        """One for what a lane's next document finds, zero for what it starts anew."""

    def after(self, groups: Sequence[Group], revealed: Sequence[Tensor]) -> None:
        """Take the step of the documents that go on and hand the lanes of the others on; or run the phase."""
        if not groups[0].windows:
            self._learn_globally(revealed[0])
            return
        by_size: dict[int, list[int]] = {}
        for row, (group, state) in enumerate(zip(groups, self.states, strict=True)):
            if group.start < group.stop:
                by_size.setdefault(group.stop - group.windows[0].first_scored, []).append(row)
            elif not group.is_last:
                self.waiting[group.number + 1] = self._handed_on(state)
        states = self.states
        for self.size, rows in by_size.items():
            self.states = [states[row] for row in rows]
            super().after([groups[row] for row in rows], [revealed[row] for row in rows])

    def _handed_on(self, state: DocumentState) -> DocumentState:
        values_P = state.rows_3P[0] * self.kept_P
        nothing_P = torch.zeros_like(values_P)
        return DocumentState(torch.stack([values_P, nothing_P, nothing_P]), 0)

    def _attach(self) -> list[Tensor]:
        """Let the parts of every block add the products of their adapters, in turn."""
        sizes = []
        for block in self.model.blocks:
            attention = block.attention
            projections = [attention.query, *[attention.key] * self.protocol.adapt_keys, attention.value]
            for part in (*projections, attention, block.mlp):
                part.register_forward_hook(lambda module, inputs, output: self._next_added(inputs[0], output))
            square_DD = attention.output.weight  # as large as the paths beside attention and MLP
            sizes.append([*(each.weight for each in projections), square_DD, square_DD])
        return [size for visit in self.model.schedule.visits for size in sizes[visit.block]]

    def _next_added(self, x_BTI: Tensor, output_BTO: Tensor) -> Tensor:
        if not self.adapters:  # the phase
            return output_BTO
        self.turn += 1
        return self._added(self.turn - 1, tail(x_BTI, output_BTO.size(1)), output_BTO)

    def _added(self, number: int, x_BTI: Tensor, output_BTO: Tensor) -> Tensor:
        (down_BRI, up_BOR), rule = self.adapters[2 * number : 2 * number + 2], self.protocol
        return torch.baddbmm(output_BTO, torch.bmm(x_BTI, down_BRI.mT), up_BOR.mT, alpha=rule.alpha / rule.rank)

    def _use(self, values_BP: Tensor) -> None:
        super()._use(values_BP)
        self.turn = 0

    def _gradient(self, values_BP: Tensor, revealed: Sequence[Tensor]) -> Tensor:
        """Return the gradient, and take AdamW's decay of the values, which Adam's step moves next."""
        gradient_BP = super()._gradient(values_BP, revealed)
        values_BP.detach().mul_(1 - self.protocol.learning_rate * self.protocol.weight_decay)
        return gradient_BP

    def _learn_globally(self, revealed_M: Tensor) -> None:
        """Train the model's own weights on the tokens of all documents that are scored, without adapters."""
        rule = self.protocol.global_phase
        assert rule is not None, "the plan has a phase"
        self.adapters = []
        isolated = IsolatedDocuments(self.model, self.protocol.bos_id)
        chunks = chunk_groups(len(revealed_M) - 1, (), rule.chunk_tokens)
        learner = ChunkSGD(isolated, rule, len(chunks), self.dtype, self.ranks, self.map_batches)
        for chunk in chunks:
            learner.after([chunk], [revealed_M[chunk.start : chunk.stop + 1]])
        self.model.requires_grad_(False)


class IsolatedDocuments(nn.Module):
    """A network that reads the pieces of documents in a sequence one by one: no position sees another document."""

    def __init__(self, model: nn.Module, bos_id: int) -> None:
        super().__init__()
        self.model, self.bos_id = model, bos_id

    def forward(self, ids_BT: Tensor) -> Tensor:
        """Return the logits (B, T, V); pieces run side by side, padded on the right, where no causal model looks.

        Side by side are those of about one length: no pass is padded to twice its tokens.
        """
        num_tokens, ids_N = ids_BT.size(1), ids_BT.flatten()
        is_start_N = (ids_N == self.bos_id) | (torch.arange(len(ids_N), device=ids_N.device) % num_tokens == 0)
        pieces = ids_N.tensor_split(is_start_N.nonzero()[1:, 0].cpu())
        alike: dict[int, list[int]] = {}
        for number, piece in enumerate(pieces):
            alike.setdefault(len(piece).bit_length(), []).append(number)
        rows: dict[int, Tensor] = {}
        for members in alike.values():
            logits_PTV = self.model(pad_sequence([pieces[number] for number in members], batch_first=True))
            rows |= {each: logits_TV[: len(pieces[each])] for each, logits_TV in zip(members, logits_PTV, strict=True)}
        return torch.cat([rows[number] for number in range(len(pieces))]).unflatten(0, ids_BT.shape)
