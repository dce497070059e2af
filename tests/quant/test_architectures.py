"""Calibration, the budget search and the way back to a model work on every architecture."""

import numpy as np
import pytest
import torch

from pipeline.base.progress import silent
from pipeline.base.ranks import Ranks
from pipeline.calibration.calibrate import calibrate
from pipeline.codec.container import decode_artifact
from pipeline.codec.restore import dequantized_model
from pipeline.quant.config import BudgetConfig, CalibrateConfig, ProvisionalConfig, QuantizeConfig, RateSteps
from pipeline.quant.fit import fit_to_budget
from pipeline.quant.roles import tensor_roles
from pipeline.quant.statistics import site_members
from tests.networks import ARCHITECTURES, architecture, randomised

STEPS = RateSteps(kind="rate", row_exponent=0.5, column_exponent=1.0, lookup_exponent=1.0)
PROVISIONAL = ProvisionalConfig(bits_per_weight=8.0, steps=STEPS, target_share=0.5, damp_frac=0.01)
CALIBRATE = CalibrateConfig(
    num_sequences=8, batch_sequences=8, sensitivity_sequences=4, sweeps=1, provisional=PROVISIONAL, mixture=None
)
QUANTIZE = QuantizeConfig(
    solver="gptq",
    steps=STEPS,
    visit_weights="tokens",
    target_share=0.5,
    damp_frac=0.01,
    block_columns=16,
    trellis_states=None,
)
BUDGET = BudgetConfig(limit_bytes=400_000, code_reserve_bytes=1000, tolerance_frac=0.01)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_quantized_network_stays_close(name):
    model = randomised(architecture(name))
    ids_NT = torch.randint(0, 48, (8, 16), generator=torch.Generator().manual_seed(4))
    statistics = calibrate(model, ids_NT, CALIBRATE, Ranks(0, 0, 1), torch.device("cpu"), silent)
    matrices = {name for name, role in tensor_roles(model).items() if role == "matrix"}
    assert {name for names in site_members(statistics).values() for name in names} == matrices
    fit = fit_to_budget(model, statistics, QUANTIZE, BUDGET, {}, silent)
    restored = dequantized_model(decode_artifact(fit.content)[0], model.config)
    with torch.no_grad():
        expected, found = model(ids_NT).numpy(), restored(ids_NT).numpy()
    # Eight bits everywhere: what is left of a random network's logits after rounding is nearly all of them.
    assert np.corrcoef(expected.ravel(), found.ravel())[0, 1] > 0.95
