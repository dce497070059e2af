"""The network: `build` makes it from the `model` section."""

from pipeline.model.network import LoopedUNet, build

__all__ = ["LoopedUNet", "build"]
