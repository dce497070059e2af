"""The parts of the check, in the order in which they run: what is certain and quick first.

Checked by: tests/benchmarks/test_gpu_check.py
"""

import importlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import torch

Findings = Iterator[tuple[str, dict[str, Any]]]
"""What a part found, by title, as JSON-able values; `passed` tells of a finding that can fail."""


class Part(NamedTuple):
    """A question to the machine."""

    name: str
    limit_seconds: float
    module: str
    """Module of this package that holds the part's function."""
    function: str

    def load(self) -> "Callable[[torch.device, str], Findings]":
        """Import the part's function: (device, size) -> findings; size is full or small."""
        function: Callable[[torch.device, str], Findings] = getattr(
            importlib.import_module(f"benchmarks.gpu_check.{self.module}"), self.function
        )
        return function


PARTS = (
    Part("machine", 20, "numbers", "machine"),
    Part("parity", 30, "numbers", "parity"),
    Part("walls", 40, "numbers", "walls"),
    Part("muon", 30, "numbers", "muon"),
    Part("training", 30, "numbers", "training"),
    Part("tests", 60, "numbers", "tests"),
    Part("nightcrawler", 150, "speed", "nightcrawler"),
    Part("nightcrawler-cudnn", 90, "speed", "nightcrawler_cudnn"),
    Part("scoring", 120, "speed", "scoring"),
    Part("calibration", 30, "numbers", "calibration"),
    Part("plain", 90, "speed", "plain"),
    Part("sp8192", 120, "speed", "sp8192"),
)
"""Their limits add up to more than there is: what takes less leaves time to those behind it."""
