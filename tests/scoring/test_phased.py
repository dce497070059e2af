"""Phased test-time training: an unrolled network with explicit weights, one document at a time; what travels, where."""

import copy
import dataclasses
import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.model.network import LoopedUNet
from pipeline.scoring import score_tokens
from pipeline.scoring.phased import IsolatedDocuments
from pipeline.scoring.protocols import parse_protocol
from pipeline.scoring.windows import plan, steps_of_rank
from tests.scoring.scoring_toys import DOCUMENTS, PHASED, in_context, random_documents, tiny_network

LENGTHS = [40, 0, 1, 17, 5, 60, 0, 4, 6, 7, 3]
PHASE = PHASED["global_phase"]
ALONE = {**PHASED, "lane_documents": 1, "global_phase": None}


class Merged(nn.Module):
    """A matrix of W + s B A."""

    def __init__(self, matrix: nn.Linear, pair: list[Tensor], scale: float) -> None:
        super().__init__()
        self.matrix, self.pair, self.scale = matrix, pair, scale

    def forward(self, x: Tensor) -> Tensor:
        return x @ (self.matrix.weight + self.scale * self.pair[1] @ self.pair[0]).T


class Beside(nn.Module):
    """A part of a block with s B A from its input to its output."""

    def __init__(self, part: nn.Module, pair: list[Tensor], scale: float) -> None:
        super().__init__()
        self.part, self.pair, self.scale = part, pair, scale

    def forward(self, x_BTD: Tensor, *rest: Any) -> Tensor:
        return self.part(x_BTD, *rest) + self.scale * x_BTD @ (self.pair[1] @ self.pair[0]).T


def unrolled(model: LoopedUNet) -> LoopedUNet:
    """Return the network with a block of its own for every visit."""
    copied, visits = copy.deepcopy(model), model.schedule.visits
    assert [visit.slot for visit in visits] == list(range(len(visits)))
    copied.blocks = nn.ModuleList(copy.deepcopy(model.blocks[visit.block]) for visit in visits)

    def named(part: tuple) -> tuple:
        return tuple(dataclasses.replace(visit, block=visit.slot) for visit in part)

    old = model.schedule
    copied.schedule = dataclasses.replace(
        old, encoder=named(old.encoder), passes=tuple(map(named, old.passes)), decoder=named(old.decoder)
    )
    return copied


class Lane:
    """A network whose adapters have values: what one document learns, and what the next one of a lane finds."""

    def __init__(self, model: LoopedUNet, rule: dict) -> None:
        self.model, self.rule, self.scale = unrolled(model), rule, rule["alpha"] / rule["rank"]
        generator = torch.Generator().manual_seed(0)

        def pair(outputs: int, inputs: int) -> list[Tensor]:
            bound = 1 / math.sqrt(inputs)
            down = (torch.rand(rule["rank"], inputs, generator=generator) * 2 - 1) * bound
            return [down, torch.zeros(outputs, rule["rank"])]

        self.pairs = []
        for block in self.model.blocks:
            for name in ("query", *["key"] * rule["adapt_keys"], "value"):
                matrix = getattr(block.attention, name)
                self.pairs.append(pair(*matrix.weight.shape))
                setattr(block.attention, name, Merged(matrix, self.pairs[-1], self.scale))
            for name in ("attention", "mlp"):
                self.pairs.append(pair(32, 32))
                setattr(block, name, Beside(getattr(block, name), self.pairs[-1], self.scale))
        self.head_VD = self.model.token_embedding.weight
        self.pairs.append(pair(*self.head_VD.shape))

    def begin(self) -> None:
        """Start a document: A as it is, B zero, AdamW new."""
        with torch.no_grad():
            for _, up in self.pairs:
                up.zero_()
        parameters = [each.requires_grad_() for pair in self.pairs for each in pair]
        rule = self.rule
        betas = rule["beta1"], rule["beta2"]
        self.adam = torch.optim.AdamW(
            parameters, rule["learning_rate"], betas, rule["eps"], weight_decay=rule["weight_decay"]
        )

    def nats(self, ids_T: Tensor, targets_T: Tensor) -> Tensor:
        hidden_TD = self.model.hidden(ids_T[None])[0]
        down, up = self.pairs[-1]
        z_TV, cap = hidden_TD @ (self.head_VD + self.scale * up @ down).T, self.model.config.logit_softcap
        return F.cross_entropy(cap * torch.tanh(z_TV / cap), targets_T, reduction="none")

    def score(self, document_M: Tensor) -> list[float]:
        """Return the nats of a document's targets: score a chunk, learn from it, score the next."""
        self.begin()
        length, found, at = len(document_M) - 1, list[float](), 0
        while at < length:
            held = length if self.rule["chunks_by"] == "length" else at + 1
            end = at + next(
                (size for most, size in self.rule["short_chunks"] if held <= most), self.rule["chunk_tokens"]
            )
            first, stop = max(0, end - self.rule["context_tokens"]), min(end, length)
            nats_T = self.nats(document_M[first:stop], document_M[first + 1 : stop + 1])[at - first :]
            found += nats_T.tolist()
            if end < length:
                self.adam.zero_grad()
                nats_T.mean().backward()
                self.adam.step()
            at = end
        return found


def learn_globally(model: LoopedUNet, tokens_M: Tensor, phase: dict) -> None:
    """Train on the chunks but the last, one piece of a document at a time."""
    length, size = phase["context_tokens"], phase["chunk_tokens"]
    sgd = torch.optim.SGD(model.parameters(), phase["learning_rate"], phase["momentum"])
    num_chunks = -(-(len(tokens_M) - 1) // size)
    for chunk in range(num_chunks - 1):
        sgd.param_groups[0]["lr"] = phase["learning_rate"] * (1 + math.cos(math.pi * chunk / (num_chunks - 1))) / 2
        rows = [range(at, at + length) for at in range(chunk * size, (chunk + 1) * size, length)]
        for first in range(0, len(rows), phase["batch_sequences"]):
            batch = rows[first : first + phase["batch_sequences"]]
            for row in batch:
                starts = [at for at in row if at == row[0] or tokens_M[at] == 1]
                for start, stop in itertools.pairwise([*starts, row[-1] + 1]):
                    loss = model(tokens_M[None, start:stop], tokens_M[None, start + 1 : stop + 1])
                    (loss * (stop - start) / (len(batch) * length)).backward()
            nn.utils.clip_grad_norm_(model.parameters(), phase["grad_clip"])
            sgd.step()
            sgd.zero_grad()


def one_document_at_a_time(model: LoopedUNet, tokens_M: Tensor, rule: dict) -> np.ndarray:
    model, nats = in_context(model, rule["context_tokens"]).eval(), list[float]()
    bounds = [*(tokens_M == 1).nonzero()[:, 0].tolist(), len(tokens_M) - 1]
    lane, since, phase = Lane(model, rule), 0, rule["global_phase"]
    for number, (start, end) in enumerate(itertools.pairwise(bounds)):
        if phase and number == phase["documents"]:
            learn_globally(model, tokens_M[: start + 1], phase)
            since = number
        if (number - since) % rule["lane_documents"] == 0:
            lane = Lane(model, rule)
        nats += lane.score(tokens_M[start : end + 1])
    return np.array(nats)


CHANGES: list[dict[str, Any]] = [
    {},
    {"lane_documents": 1},
    {"lane_documents": 99, "batch_documents": 9, "adapt_keys": True},
    {"global_phase": None, "chunks_by": "length"},
    {"short_chunks": [], "chunk_tokens": 16, "global_phase": {**PHASE, "epochs": 1, "batch_sequences": 9}},
]


@pytest.mark.parametrize("changes", CHANGES)
def test_nats_are_those_of_one_document_at_a_time(changes: dict) -> None:
    rule, tokens = {**PHASED, **changes}, random_documents(LENGTHS)
    expected = one_document_at_a_time(tiny_network(), tokens, rule)
    found = score_tokens(tiny_network(), tokens, rule)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)  # first steps are signs of small sums
    still = score_tokens(tiny_network(), tokens, {**rule, "learning_rate": 1e-9, "global_phase": None})
    assert np.abs(found - still).max() > 0.1


def test_before_anything_is_learnt_the_model_is_the_shipped_one() -> None:
    tokens = random_documents([1, 0, 1, 1])  # no document is longer than a chunk
    plain = score_tokens(tiny_network(), tokens, DOCUMENTS)
    np.testing.assert_allclose(score_tokens(tiny_network(), tokens, ALONE), plain, rtol=0, atol=2e-5)


def test_chunks_grow_with_the_place_or_are_the_documents_own() -> None:
    def chunks(rule: dict, num_targets: int) -> list[int]:
        groups = plan([num_targets], parse_protocol(rule))
        assert [group.start < group.stop for group in groups] == [True] * (len(groups) - 1) + [False]  # learnt from
        return [window.stop - window.first_scored for group in groups for window in group.windows]

    by_length = {**PHASED, "chunks_by": "length"}
    assert chunks(PHASED, 3) == [2, 1]
    assert chunks(PHASED, 30) == [2, 2, 4, 4, 6, 6, 6]
    assert chunks(by_length, 4) == [2, 2]
    assert chunks(by_length, 12) == [4, 4, 4]
    assert chunks(by_length, 13) == [6, 6, 1]
    # What is known before a document ends decides where its chunks end.
    for length in range(1, 40):
        assert all(a == b for a, b in zip(chunks(PHASED, length)[:-1], chunks(PHASED, 60), strict=False))


def test_lanes_and_the_phase_lie_at_fixed_places_of_the_stream() -> None:
    protocol, documents = parse_protocol({**PHASED, "short_chunks": []}), [7, 6, 0, 1, 9, 8, 2, 3, 4]
    groups = plan(documents, protocol)
    (phase,) = (group for group in groups if not group.windows)
    assert (phase.start, phase.stop) == (0, 7 + 6 + 1 + 9)
    assert [group.stop for group in groups if group.is_last] == [group.start for group in groups if group.is_last]
    ends = [group.windows[0].stop for group in groups if group.is_last]
    assert ends == [14, 23, 36, 40]  # three documents, one, then the phase; three, one
    for world_size in (1, 2, 3, 8):
        for rank in range(world_size):
            steps = list(steps_of_rank(groups, protocol, 64, rank, world_size))
            assert [step.groups == [phase] for step in steps].count(True) == 1  # on every process
    for more in range(10):  # documents to come move nothing
        assert plan([*documents, *[5] * more], protocol)[: len(groups) - 1][:-1] == groups[:-2]


def test_a_stream_that_ends_before_the_phase_has_none() -> None:
    protocol = parse_protocol(PHASED)
    assert all(group.windows for group in plan([5, 5, 0, 5, 5], protocol))
    assert not all(group.windows for group in plan([5, 5, 0, 5, 5, 1], protocol))


def test_one_document_without_a_step_leaves_the_next_one_its_adapters() -> None:
    """A document of a single chunk in a lane neither learns nor forgets: the third is as if it came second."""
    first, third = [30], [40]
    between = random_documents([*first, 1, *third], seed=3)
    rule = {**PHASED, "global_phase": None, "lane_documents": 3}
    without = torch.cat([between[:31], between[33:]])
    long, short = (score_tokens(tiny_network(), tokens, rule) for tokens in (between, without))
    np.testing.assert_allclose(long[-40:], short[-40:], rtol=0, atol=1e-5)
    assert np.abs(long[-40:] - score_tokens(tiny_network(), between, ALONE)[-40:]).max() > 1e-3  # warm


def test_pieces_of_one_length_share_a_pass_that_is_not_padded_to_twice_its_tokens() -> None:
    """One long document among many short ones; the logits are those of each piece alone."""
    model, ids_BT, sizes = tiny_network(), random_documents([40, *[0] * 30, 1, 2, 5, 9, 17]).view(2, -1), []
    pieces = [
        row_T[start:stop]
        for row_T in ids_BT
        for start, stop in itertools.pairwise([0, *(1 + (row_T[1:] == 1).nonzero()[:, 0]).tolist(), len(row_T)])
    ]
    with torch.no_grad():
        expected_NV = torch.cat([model(piece[None])[0] for piece in pieces])
        model.register_forward_pre_hook(lambda module, inputs: sizes.append(inputs[0].numel()))
        found_BTV = IsolatedDocuments(model, 1)(ids_BT)
    np.testing.assert_allclose(found_BTV.flatten(0, 1), expected_NV, rtol=0, atol=1e-5)
    assert ids_BT.numel() <= sum(sizes) < 2 * ids_BT.numel()
