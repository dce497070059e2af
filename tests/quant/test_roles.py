"""Which tensor has how many bits: every group's grid is its own, also where groups share an input."""

import dataclasses

import pytest
import torch

from pipeline.base.progress import silent
from pipeline.base.ranks import Ranks
from pipeline.calibration.calibrate import calibrate
from pipeline.quant.config import CalibrateConfig, ClipSteps, CodeBits, ProvisionalConfig, QuantizeConfig
from pipeline.quant.fit import quantize_plan
from pipeline.quant.plan import plan_quantization
from pipeline.quant.roles import code_owners, tensor_roles
from tests.networks import TINY, changed, roused

BITS = CodeBits(attention=6, mlp=5, looped=7, other=4, embedding=8, table=3)
CLIP = ClipSteps(
    kind="clip", bits=BITS, embedding_clip_ratio=1.0, table_clip_ratio=1.0, min_clip_std=1.0, max_clip_std=60.0
)
MODEL = changed(TINY, {"parallel_blocks": [0], "context_tokens": 16})


def test_every_quantized_tensor_has_an_owner():
    model = roused(MODEL, 1)
    owners = code_owners(model)
    assert set(owners) == {name for name, role in tensor_roles(model).items() if role != "passthrough"}
    expected = {
        "blocks.0.attention.query.weight": "attention",
        "blocks.3.mlp.down.weight": "mlp",
        "blocks.4.attention.query.weight": "looped",
        "blocks.5.mlp.up.weight": "looped",
        "bigram.projection.weight": "other",
        "token_embedding.weight": "embedding",
        "bigram.table.weight": "table",
    }
    assert {name: owners.get(name) for name in expected} == expected


def test_codes_span_the_grid_of_their_owner():
    """A clip of two standard deviations reaches the end of every grid; block 0 feeds one input to both its parts."""
    model = roused(MODEL, 1)
    ids_NT = torch.randint(0, 48, (8, 16), generator=torch.Generator().manual_seed(2))
    provisional = ProvisionalConfig(bits_per_weight=4.0, steps=CLIP, target_share=0.0, damp_frac=0.01)
    settings = CalibrateConfig(
        num_sequences=8, batch_sequences=4, sensitivity_sequences=0, sweeps=0, provisional=provisional, mixture=None
    )
    statistics = calibrate(model, ids_NT, settings, Ranks(0, 0, 1), torch.device("cpu"), silent)
    config = QuantizeConfig(
        solver="gptq",
        steps=CLIP,
        visit_weights="tokens",
        target_share=0.0,
        damp_frac=0.01,
        block_columns=16,
        trellis_states=None,
    )
    tensors = quantize_plan(plan_quantization(model, statistics, config), 1.5)
    limits = {owner: 2 ** (bits - 1) - 1 for owner, bits in dataclasses.asdict(BITS).items()}
    reached = {name: int(abs(tensors[name].codes).max()) for name in code_owners(model)}
    assert reached == {name: limits[owner] for name, owner in code_owners(model).items()}


@pytest.mark.parametrize("bits", [1, 9])
def test_bits_out_of_range_are_named(bits):
    with pytest.raises(ValueError, match=rf"^mlp: got {bits}, expected 2 to 8$"):
        dataclasses.replace(BITS, mlp=bits)
