"""The network: `build` makes it from the `model` section."""

from pipeline.model.network import LoopedUNet, build, with_context

__all__ = ["LoopedUNet", "build", "with_context"]
