"""The conditioners that a configuration asks for, by name and in the order in which they run before a pass.

Checked by: tests/model/test_network.py
"""

from torch import nn

from pipeline.model.config import ModelConfig
from pipeline.model.parts.anchor import Anchor
from pipeline.model.parts.conditioning import LoopSmear, PassConditioner
from pipeline.model.parts.config import ContractiveStep
from pipeline.model.parts.core_step import BlockStep, PassStep
from pipeline.model.parts.instructions import Flow, LoopPositions
from pipeline.model.parts.tap import Tap


def build_conditioners(config: ModelConfig) -> nn.ModuleDict:
    """Return the conditioners; after a pass they run in reverse, so that the anchor notes the smeared stream."""
    wanted, dim, num_loops = config.conditioners, config.model_dim, config.schedule.num_passes
    found: dict[str, PassConditioner] = {}
    if wanted.flow_dim:
        found["flow"] = Flow(dim, wanted.flow_dim, num_loops)
    if wanted.positions:
        found["positions"] = LoopPositions(dim, config.schedule.num_loops)  # type: ignore[union-attr]
    if wanted.anchor_dim:
        found["anchor"] = Anchor(dim, wanted.anchor_dim, num_loops)
    if wanted.tap is not None:
        found["tap"] = Tap(wanted.tap, dim, num_loops)
    if wanted.smear:
        found["smear"] = LoopSmear(dim)
    if wanted.step is not None:
        contractive = isinstance(wanted.step, ContractiveStep)
        found["step"] = PassStep(wanted.step.fraction) if contractive else BlockStep(num_loops)  # type: ignore[union-attr]
    return nn.ModuleDict(found)
