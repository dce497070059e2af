"""The tap: every pass hears again what the encoder said, undisturbed by the passes before it.

Axes: B batch, T position, D model width.
Source: the crawler programs of Parameter Golf (pull request 1535).
Differs: nothing.
Checked by: tests/model/test_network.py, tests/interop/test_interop.py
"""

import torch
from torch import Tensor, nn

from pipeline.model.parts.conditioning import CorePass, PassConditioner
from pipeline.model.parts.config import TapConfig


class Tap(PassConditioner):
    """Narrow projections of some encoder outputs, side by side, widened again for every pass or for all."""

    SIGNAL = "tap"

    def __init__(self, config: TapConfig, model_dim: int, num_loops: int) -> None:
        super().__init__()
        self.encoder_visits = config.encoder_visits
        width = config.dim * len(config.encoder_visits)
        self.projections = nn.ModuleList(nn.Linear(model_dim, config.dim, bias=False) for _ in config.encoder_visits)
        self.up = nn.ModuleList(
            nn.Linear(width, model_dim, bias=False) for _ in range(num_loops if config.per_loop else 1)
        )

    def before(self, x_BTD: Tensor, core_pass: CorePass) -> Tensor:
        """Add the tapped signal; it is projected once per forward."""
        if core_pass.loop == 0:
            outputs = [core_pass.encoder_outputs[visit] for visit in self.encoder_visits]
            parts = [project(x) for project, x in zip(self.projections, outputs, strict=True)]
            core_pass.memory[self.SIGNAL] = torch.cat(parts, dim=-1)
        up = self.up[core_pass.loop if len(self.up) > 1 else 0]
        return x_BTD + up(core_pass.memory[self.SIGNAL])

    def writers(self) -> list[nn.Module]:
        """Return the up-projections."""
        return list(self.up)
