"""A step of recipe fairway-16mb at full size on fake tensors: forward, backward, optimizer, in every stage of a run."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from pipeline.base.config import load_params
from pipeline.model.network import LoopedUNet
from pipeline.training.optimizer_step import OptimizerStep
from pipeline.training.regime import Regime
from tests.training.tiny_run import ALONE

RECIPE = Path(__file__).resolve().parents[2] / "recipes/fairway-16mb.yaml"


@pytest.mark.slow
def test_every_stage_steps_and_every_weight_has_a_gradient() -> None:
    params = load_params(RECIPE, ["model", "train", "launch"])
    train = replace(params.train, precision="bf16")
    share = params.train.batch_tokens // params.launch.num_processes
    with torch.device("meta"):
        model = LoopedUNet(params.model)
    with FakeTensorMode(allow_non_fake_inputs=True), torch.autocast("cpu", torch.bfloat16):
        model.to_empty(device="cpu")
        step, regime = OptimizerStep(model, train, ALONE), Regime(model, train, seed=0)
        graphs = regime.graphs()
        for loops, context in graphs:
            assert context is not None
            regime.set_loops(loops)
            ids_BT = torch.zeros(share // context, context, dtype=torch.int64)
            loss = model(ids_BT, ids_BT)
            loss.backward()
            trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
            if loops == params.model.schedule.num_loops:
                assert all(parameter.grad is not None for parameter in trained)
            step.take(loss.detach())
    assert graphs == [(1, 1024), (1, 2048), (3, 2048), (3, 3072)]
