"""The network: `build` makes it from the `model` section."""

from typing import Any

__all__ = ["LoopedUNet", "build"]


def __getattr__(name: str) -> Any:
    """Load the network on first use: reading the `model` parameters must not cost an import of torch."""
    if name in __all__:
        from pipeline.model import network

        return getattr(network, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
