"""Float checkpoints of community scripts, read as Fairway networks: `load_community`."""

from pipeline.interop.community import LAYOUTS, load_community

__all__ = ["LAYOUTS", "load_community"]
