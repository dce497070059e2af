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
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from pipeline.base.ranks import Ranks
from pipeline.model.layers import tail
from pipeline.scoring.adaptation import UNSCORED, ChunkSGD
from pipeline.scoring.lora import DocumentLora, DocumentState
from pipeline.scoring.phased_config import PhasedProtocol
from pipeline.scoring.windows import Group, chunk_groups


class PhasedLora(DocumentLora):
    """Adapters of the documents that are read now, and the phase between the first documents and the others."""

    protocol: PhasedProtocol

    def __init__(
        self, model: Any, protocol: PhasedProtocol, dtype: torch.dtype, ranks: Ranks, map_batches: Callable[..., Any]
    ) -> None:
        """Own `model`, whose parts add the adapters' products from now on; its weights move in the phase only."""
        super().__init__(model, protocol, dtype)
        self.ranks, self.map_batches = ranks, map_batches
        self.scale = protocol.alpha / protocol.rank
        self.turn = 0
        """Adapters that this forward pass has used."""
        sizes = [(self.protocol.rank * inputs, outputs * self.protocol.rank) for outputs, inputs in self.shapes]
        is_first = [torch.tensor([True, False]).repeat_interleave(torch.tensor(pair)) for pair in sizes]
        self.kept_P = torch.cat(is_first).to(model.token_embedding.weight.device)
        """Which values a lane's next document finds."""

    def after(self, groups: Sequence[Group], revealed: Sequence[Tensor]) -> None:
        """Take the step of the documents that go on and hand on the lanes of the others; or run the phase."""
        if not groups[0].windows:
            self._learn_globally(revealed[0])
            return
        super().after(groups, revealed)
        for group, state in zip(groups, self.states, strict=True):
            if group.ends_document and not group.is_last:
                values_P = torch.where(self.kept_P, state.rows_3P[0], 0.0)
                nothing_P = torch.zeros_like(values_P)
                self.waiting[group.number + 1] = DocumentState(torch.stack([values_P, nothing_P, nothing_P]), 0)

    def _attach(self) -> list[tuple[int, int]]:
        """Let the parts of every block add the products of their adapters, in turn."""
        width = self.model.config.model_dim
        shapes = []
        for block in self.model.blocks:
            attention = block.attention
            projections = [attention.query, *[attention.key] * self.protocol.adapt_keys, attention.value]
            for part in (*projections, attention, block.mlp):
                part.register_forward_hook(lambda module, inputs, output: self._next_added(inputs[0], output))
            shapes.append(
                [*((each.out_features, each.in_features) for each in projections), (width, width), (width, width)]
            )
        return [shape for visit in self.model.schedule.visits for shape in shapes[visit.block]]

    def _next_added(self, x_BTI: Tensor, output_BTO: Tensor) -> Tensor:
        if not self.adapters:  # the phase
            return output_BTO
        self.turn += 1
        return self._added(self.turn - 1, tail(x_BTI, output_BTO.size(1)), output_BTO)

    def _use(self, values_BP: Tensor) -> None:
        super()._use(values_BP)
        self.turn = 0

    def _drawn(self, rows: int, columns: int, generator: torch.Generator) -> Tensor:
        return torch.rand(rows, columns, generator=generator) * 2 - 1

    def _adam_step(self, rows_3BP: Tensor, steps: Sequence[int], gradient_BP: Tensor) -> None:
        rows_3BP[0] *= 1 - self.protocol.learning_rate * self.protocol.weight_decay
        super()._adam_step(rows_3BP, steps, gradient_BP)

    def _learn_globally(self, revealed_M: Tensor) -> None:
        """Train the model's own weights on the tokens of all documents that are scored, without adapters."""
        rule = self.protocol.global_phase
        assert rule is not None, "the plan has a phase"
        chunks = chunk_groups(len(revealed_M) - 1, (), rule.chunk_tokens)
        self.adapters = []
        rest = (self.model, rule, len(chunks), self.dtype, self.ranks, self.map_batches)
        learner = IsolatedSGD(self.protocol.bos_id, *rest)
        for chunk in chunks:
            learner.after([chunk], [revealed_M[chunk.start : chunk.stop + 1]])
        self.model.requires_grad_(False)


class IsolatedSGD(ChunkSGD):
    """Chunk SGD whose sequences are cut where documents begin: no position sees another document."""

    def __init__(self, bos_id: int, *rest: Any) -> None:
        """bos_id: token that starts a document; rest: as of `ChunkSGD`."""
        super().__init__(*rest)
        self.bos_id = bos_id

    def _nats(self, inputs_BT: Tensor, targets_BT: Tensor) -> Tensor:
        """Return the summed nats of all targets, each piece of a document in a row of its own, padded on the right."""
        inputs, targets = list[Tensor](), list[Tensor]()
        for inputs_T, targets_T in zip(inputs_BT, targets_BT, strict=True):
            starts = (inputs_T[1:] == self.bos_id).nonzero()[:, 0].cpu() + 1
            inputs += inputs_T.tensor_split(starts)
            targets += targets_T.tensor_split(starts)
        logits_BTV = self.model(pad_sequence(inputs, batch_first=True))
        targets_BT = pad_sequence(targets, batch_first=True, padding_value=UNSCORED)
        return F.cross_entropy(logits_BTV.flatten(0, 1).float(), targets_BT.flatten(), reduction="sum")
