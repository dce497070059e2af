"""The asymmetric cap against its definition, and against the symmetric one where both caps are equal."""

import pytest
import torch
import torch.nn.functional as F

from pipeline.model.network import build
from pipeline.model.parts.asymmetric_cap import AsymmetricCap
from pipeline.model.parts.config import AsymmetricCapConfig
from pipeline.optim.groups import parameter_groups
from tests.networks import TINY, changed, random_ids, randomised


def capped(positive: float, negative: float, trained: bool = True):
    """Return TINY with such a cap."""
    return changed(TINY, {"logit_softcap": {"positive": positive, "negative": negative, "trained": trained}})


def test_every_logit_has_the_cap_of_its_sign():
    z = torch.tensor([-50.0, -1.0, 0.0, 2.0, 400.0], dtype=torch.float64)
    cap = AsymmetricCap(AsymmetricCapConfig(positive=20.0, negative=10.0, trained=True)).double()
    expected = [10 * torch.tanh(z / 10), 20 * torch.tanh(z / 20)]
    assert torch.equal(cap(z), torch.where(z < 0, *expected))


@pytest.mark.parametrize("bf16", [False, True])
def test_the_nats_are_those_of_all_logits_at_once_and_so_are_their_gradients(bf16: bool, monkeypatch):
    monkeypatch.setattr("pipeline.model.loss.LEAST_ROWS", 5)
    monkeypatch.setitem(__import__("pipeline.model.loss", fromlist=["CHUNK_LOGITS"]).CHUNK_LOGITS, "cpu", 1)
    model, ids_BT = randomised(capped(5.0, 9.0)), random_ids(TINY, 2, 12)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        loss = model(ids_BT[:, :-1], ids_BT[:, 1:])
        logits_BTV = model(ids_BT[:, :-1])
    expected = F.cross_entropy(logits_BTV.flatten(0, 1), ids_BT[:, 1:].flatten())
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    parameters = [*model.parameters()]
    grads, wanted = torch.autograd.grad(loss, parameters), torch.autograd.grad(expected, parameters)
    for grad, want in zip(grads, wanted, strict=True):
        assert torch.allclose(grad, want, rtol=2e-2 if bf16 else 1e-4, atol=2e-3 if bf16 else 1e-6)


@torch.no_grad()
def test_equal_caps_are_the_symmetric_cap():
    symmetric, model, ids_BT = randomised(TINY), build(capped(30.0, 30.0)), random_ids(TINY, 2, 12)
    model.load_state_dict({**symmetric.state_dict(), "cap.caps": model.cap.caps})
    hidden_BTD = model.hidden(ids_BT)
    assert torch.equal(model.logits(hidden_BTD), symmetric.logits(hidden_BTD))
    assert torch.allclose(model.nats(hidden_BTD, ids_BT), symmetric.nats(hidden_BTD, ids_BT), atol=1e-5)


def test_caps_that_do_not_train_are_in_no_group_and_others_among_the_controls():
    frozen, trained = build(capped(30.0, 30.0, trained=False)), build(capped(30.0, 30.0))
    assert trained.cap.caps in set(parameter_groups(trained).controls)
    assert not frozen.cap.caps.requires_grad
    assert len(parameter_groups(frozen).controls) == len(parameter_groups(trained).controls) - 1
    assert "cap.caps" in frozen.state_dict()
    ids_BT = random_ids(frozen.config, 2, 9)
    for model in (frozen, trained):
        model(ids_BT, ids_BT).backward()
    assert frozen.cap.caps.grad is None
    assert bool(trained.cap.caps.grad.any())
    assert torch.equal(frozen.token_embedding.weight.grad, trained.token_embedding.weight.grad)
