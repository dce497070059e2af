"""Document adapters: a plain loop over documents with explicit weights, gains, freshness, and who may have them."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pipeline.model.network import LoopedUNet
from pipeline.scoring import score_tokens
from pipeline.scoring.lora import adapted_matrices
from tests.networks import TINY, roused
from tests.scoring.scoring_toys import DOCUMENTS, LORA, in_context, random_documents, random_tokens, tiny_network

LENGTHS = [40, 0, 1, 17, 5, 60, 0, 4, 6, 7]


class Hidden(nn.Module):
    """The network up to its head, so that a call may take other weights."""

    def __init__(self, model: LoopedUNet) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids_BT: torch.Tensor) -> torch.Tensor:
        return self.model.hidden(ids_BT)


class Adapted:
    """One document's model: every adapted weight is W + up @ down, the head has a copy of the embedding to itself."""

    def __init__(self, model: LoopedUNet, rule: dict) -> None:
        self.hidden, self.cap = Hidden(model), model.config.logit_softcap
        kinds = ("query", "key", "value", "output", "up", "down")
        self.named = {n: p for n, p in self.hidden.named_parameters() if n.split(".")[-2] in kinds and ".blocks." in n}
        self.head_VD = model.token_embedding.weight
        generator, rank = torch.Generator().manual_seed(0), rule["rank"]
        weights = [*self.named.values(), self.head_VD]
        self.down = [torch.randn(rank, w.size(1), generator=generator) / w.size(1) ** 0.5 for w in weights]
        self.up = [torch.zeros(w.size(0), rank) for w in weights]
        self.parameters = [each.requires_grad_() for each in (*self.down, *self.up)]
        self.adam = torch.optim.Adam(
            self.parameters, lr=rule["learning_rate"], betas=(rule["beta1"], rule["beta2"]), eps=rule["eps"]
        )

    def nats(self, ids_T: torch.Tensor, targets_T: torch.Tensor) -> torch.Tensor:
        deltas = [up @ down for up, down in zip(self.up, self.down, strict=True)]
        changed = {name: w + delta for (name, w), delta in zip(self.named.items(), deltas[:-1], strict=True)}
        hidden_TD = torch.func.functional_call(self.hidden, changed, (ids_T[None],))[0]
        z_TV = hidden_TD @ (self.head_VD + deltas[-1]).T
        return F.cross_entropy(self.cap * torch.tanh(z_TV / self.cap), targets_T, reduction="none")


def one_document_at_a_time(model: LoopedUNet, tokens: torch.Tensor, rule: dict) -> np.ndarray:
    context, chunk = rule["context_tokens"], rule["chunk_tokens"]
    model = in_context(model, context).eval().requires_grad_(False)
    starts, nats = [*(tokens == 1).nonzero()[:, 0].tolist(), len(tokens) - 1], []
    for start, end in itertools.pairwise(starts):
        document = Adapted(model, rule)
        for first in range(start, end, chunk):
            stop = min(first + chunk, end)
            window = max(start, first + chunk - context)
            losses_T = document.nats(tokens[window:stop], tokens[window + 1 : stop + 1])[first - window :]
            nats.append(losses_T.detach().numpy())
            document.adam.zero_grad()
            losses_T.mean().backward()
            document.adam.step()
    return np.concatenate(nats)


@pytest.mark.parametrize("changes", [{}, {"batch_documents": 1}, {"batch_documents": 99}, {"chunk_tokens": 16}])
def test_nats_are_those_of_one_document_at_a_time(changes: dict) -> None:
    rule, tokens = {**LORA, **changes}, random_documents([*LENGTHS, 3])
    expected = one_document_at_a_time(tiny_network(), tokens, rule)
    found = score_tokens(tiny_network(), tokens, rule)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)  # sums of other shapes
    still = score_tokens(tiny_network(), tokens, {**rule, "learning_rate": 1e-9})
    assert np.abs(found - still).max() > 0.1


def test_before_anything_is_learnt_the_model_is_the_shipped_one() -> None:
    tokens = random_documents([5, 3, 0, 2, 5])  # no document is longer than a chunk
    plain = score_tokens(tiny_network(), tokens, DOCUMENTS)
    np.testing.assert_allclose(score_tokens(tiny_network(), tokens, LORA), plain, rtol=0, atol=2e-5)


def test_a_document_that_repeats_itself_is_learnt_and_forgotten() -> None:
    phrases = [random_tokens(6, 62, seed) + 2 for seed in range(3)]
    documents = [torch.cat([torch.tensor([1]), phrase.repeat(12)]) for phrase in (*phrases, phrases[0])]
    tokens = torch.cat(documents)
    rule = {**LORA, "batch_documents": 2, "learning_rate": 0.05}
    adapted = score_tokens(tiny_network(), tokens, rule)
    still = score_tokens(tiny_network(), tokens, {**rule, "learning_rate": 1e-9})
    length = len(documents[0])
    for start in range(0, len(tokens) - 1, length):
        late = slice(start + 36, start + length - 1)
        assert adapted[late].mean() < still[late].mean() - 0.5
    # The last document is the first again: it starts as if nobody had read that.
    np.testing.assert_allclose(adapted[3 * length :], adapted[: length - 1], rtol=0, atol=1e-5)


def test_projections_of_blocks_are_adapted_and_nothing_else() -> None:
    model = roused(TINY, 3)
    adapted = {id(module) for module in adapted_matrices(model.blocks)}
    for name, module in model.named_modules():
        wanted = name.startswith("blocks.") and isinstance(module, nn.Linear) and "gate" not in name
        assert (id(module) in adapted) == wanted, name


def test_a_model_without_blocks_is_refused_in_one_line() -> None:
    plain = nn.Sequential(nn.Embedding(64, 8), nn.Linear(8, 64))
    with pytest.raises(ValueError, match="lora-ttt: got 'Sequential'"):
        score_tokens(plain, random_tokens(20), LORA)
