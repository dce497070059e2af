"""Two lanes: what they are where they could be mistaken for something else."""

import pytest
import torch

from pipeline.model.network import build
from tests.networks import TINY, architecture, changed, folded, lanes, random_ids, randomised, roused


def laned(**lanes_: float):
    """Return a plain U-Net of six blocks, the last two in lanes."""
    return changed(TINY, {**folded(1), "parallel_blocks": {**lanes(4), **lanes_}})


@torch.no_grad()
def test_fresh_factors_are_those_of_the_configuration():
    for block in build(laned(keep=1.1, own=1.3, other=0.7)).blocks[4:]:
        assert block.lane_keep.tolist() == pytest.approx([1.1, 1.1])
        assert block.lane_write.flatten().tolist() == pytest.approx([1.3, 0.7, 0.7, 1.3])


@torch.no_grad()
def test_a_skip_enters_the_lane_of_attention_only():
    """Without what blocks write, the other lane holds what the stream was where it divided."""
    model, ids_BT = build(laned(keep=1.0)), random_ids(TINY, 1, 9)
    seen = []
    model.blocks[5].register_forward_pre_hook(lambda block, inputs: seen.append(inputs[0]))
    model.hidden(ids_BT)
    x0_BTD = model.embed(ids_BT)
    a_BTD, m_BTD = seen[0].unbind(2)
    # Three blocks encode; the skip of block 2 came before the lanes, those of blocks 1 and 0 in them.
    assert torch.allclose(m_BTD, 2 * x0_BTD)
    assert torch.allclose(a_BTD, 4 * x0_BTD)


@torch.no_grad()
def test_six_scalars_a_block_and_no_other_difference_to_parallel_blocks():
    with_lanes, without = (
        sum(parameter.numel() for parameter in roused(config, 0).parameters())
        for config in (laned(), changed(TINY, {**folded(1), "parallel_blocks": [4, 5]}))
    )
    assert with_lanes - without == 2 * 6


@torch.no_grad()
def test_with_fewer_loops_the_lanes_begin_at_the_same_block():
    model, ids_BT = randomised(architecture("lanes")), random_ids(TINY, 1, 9)
    shapes = []
    for block in model.blocks:
        block.register_forward_pre_hook(lambda block, inputs: shapes.append(inputs[0].dim()))
    for loops in (1, 2, 3):
        shapes.clear()
        model.set_active_loops(loops)
        model.hidden(ids_BT)
        assert shapes == [3] * (2 + 2 * loops) + [4, 4]
