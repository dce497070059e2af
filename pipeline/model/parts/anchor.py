"""The anchor: each pass leaves a short note for the next one.

Axes: B batch, T position, D model width, A anchor width.
Source: the crawler programs of Parameter Golf (pull request 1535), where the first pass reads zeros and nobody reads
the last note: both matrices exist there and have no effect, so they do not exist here.
Differs: writes start orthogonal, not at zero: with reads at zero too, neither would ever get a gradient.
Checked by: tests/model/test_network.py, tests/interop/test_interop.py
"""

from torch import Tensor, nn

from pipeline.model.parts.conditioning import CorePass, PassConditioner


class Anchor(PassConditioner):
    """`write[k]` notes down what pass k did, `read[k]` tells it to pass k + 1."""

    NOTE = "anchor"

    def __init__(self, model_dim: int, anchor_dim: int, num_loops: int) -> None:
        super().__init__()
        self.read = nn.ModuleList(nn.Linear(anchor_dim, model_dim, bias=False) for _ in range(num_loops - 1))
        self.write = nn.ModuleList(nn.Linear(model_dim, anchor_dim, bias=False) for _ in range(num_loops - 1))

    def before(self, x_BTD: Tensor, core_pass: CorePass) -> Tensor:
        """Add what the previous pass noted."""
        if core_pass.loop == 0:
            return x_BTD
        return x_BTD + self.read[core_pass.loop - 1](core_pass.memory[self.NOTE])

    def after(self, x_BTD: Tensor, core_pass: CorePass) -> Tensor:
        """Leave the note; the stream is unchanged."""
        if core_pass.loop < len(self.write):
            core_pass.memory[self.NOTE] = self.write[core_pass.loop](x_BTD)
        return x_BTD

    def writers(self) -> list[nn.Module]:
        """Return the reads: they write to the stream."""
        return list(self.read)
