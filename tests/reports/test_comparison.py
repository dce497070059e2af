"""Float model and artifact on one slice: errors appear where they are made, divergences are those of the formula."""

import copy

import numpy as np
import pytest
import torch

from pipeline.data.batches import SequenceSampler
from pipeline.reports.comparison import SLICE_TOKENS, block_divergences, compare, group_of, training_slice, visit_errors
from tests.networks import ARCHITECTURES, TINY, changed, random_ids, roused

IDS_BT = random_ids(TINY, 5, 33)


def coded(model, block: int):
    """Return a copy whose one block is off."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.blocks[block].parameters():
            parameter.mul_(1.05)
    return other


def test_the_stream_is_off_from_the_first_visit_of_the_wrong_block_on():
    model = roused(TINY, 3).eval()
    errors = visit_errors(model, coded(model, 4), IDS_BT)
    assert [(error.block, error.loop) for error in errors[:4]] == [(0, 0), (1, 0), (4, 0), (5, 0)]
    assert [error.relative > 0 for error in errors] == [False] * 2 + [True] * (len(errors) - 2)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_has_an_error_for_every_visit(name: str):
    config = changed(TINY, ARCHITECTURES[name])
    model = roused(config, 3).eval()
    found = visit_errors(model, coded(model, 0), IDS_BT)
    assert [(each.block, each.loop, each.phase) for each in found] == [
        (visit.block, visit.loop, visit.phase) for visit in model.schedule.visits
    ]
    assert found[-1].relative > 0


def test_a_divergence_is_that_of_the_formula_and_a_block_has_its_own():
    model = roused(TINY, 3).eval()
    artifact = coded(model, 4)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    groups = list(dict.fromkeys(map(group_of, before)))
    found = block_divergences(model, artifact, IDS_BT, groups)
    assert {group: each.nats > 1e-6 for group, each in found.items()} == {g: g == "blocks.4" for g in groups}
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())

    whole = compare(model, artifact, IDS_BT)
    assert whole.divergence == found["blocks.4"]
    with torch.no_grad():
        p_NV, q_NV = (each(IDS_BT[:, :-1]).double().softmax(-1).flatten(0, 1) for each in (model, artifact))
    targets_N = IDS_BT[:, 1:].flatten()
    assert whole.divergence.nats == pytest.approx(float((p_NV * (p_NV / q_NV).log()).sum(1).mean()), rel=1e-3)
    assert whole.float_nats == pytest.approx(float(-p_NV.gather(1, targets_N[:, None]).log().mean()), rel=1e-5)
    assert whole.tokens == 160


@pytest.mark.parametrize("tokens", [200, 40_000])
def test_a_slice_is_what_an_epoch_reads_last(tokens: int):
    shard = np.arange(tokens, dtype=np.uint16)
    sampler = SequenceSampler([shard], 32, seed=5)
    ids_BT = training_slice(sampler)
    assert ids_BT.shape == (min(SLICE_TOKENS // 32, sampler.num_sequences), 33)
    count = sampler.num_sequences - sampler.num_sequences % len(ids_BT)
    epoch = sampler.batch(0, count, 0, 1)
    assert torch.equal(ids_BT, epoch[-len(ids_BT) :])
