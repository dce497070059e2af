"""Running averages of a model's weights: EMA and SWA.

The one idea: both are one line, `average += share * (weights - average)`. An exponential average (EMA) takes a constant
share; a plain mean (SWA, stochastic weight averaging) takes 1/n for the n-th weights. The first weights are the
average, so that nothing has to be unbiased later.

Source: P. Izmailov et al., "Averaging Weights Leads to Wider Optima and Better Generalization" (2018); EMA as in the
    published speed-run scripts.
Differs: they start the EMA from the initial weights; here it starts from the first weights it is given.
Checked by: tests/optim/test_averaging.py against the closed forms.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class WeightAverage:
    """Average of the parameters of `model`, kept in fp32 on their device; the model itself changes in `store` only."""

    def __init__(self, model: nn.Module, decay: float | None) -> None:
        """Start empty; `decay` is an EMA's weight of the past, None makes a plain mean."""
        self.names = [name for name, _ in model.named_parameters()]
        self.parameters: list[Tensor] = list(model.parameters())
        self.decay = decay
        self.averages: list[Tensor] = []
        self.count = 0
        """Weights that the average holds."""

    @torch.no_grad()
    def update(self) -> None:
        """Take the model's present weights in."""
        self.count += 1
        if not self.averages:
            self.averages = [parameter.float().clone() for parameter in self.parameters]
            return
        share = 1 / self.count if self.decay is None else 1 - self.decay
        torch._foreach_lerp_(self.averages, [parameter.float() for parameter in self.parameters], share)

    @torch.no_grad()
    def store(self) -> None:
        """Overwrite the model's weights with the average; without any update they stay."""
        if self.averages:
            torch._foreach_copy_(self.parameters, self.averages)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the state as tensors: `count` and, once there is one, every average by its parameter's name."""
        return {"count": torch.tensor(self.count), **dict(zip(self.names, self.averages, strict=False))}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state_dict` returned."""
        self.count = int(state["count"])
        self.averages = [
            state[name].to(parameter.device, torch.float32, copy=True)
            for name, parameter in zip(self.names, self.parameters, strict=True)
            if self.count
        ]
