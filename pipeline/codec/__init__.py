"""The artifact container: what a record stores and reads back."""

from pipeline.codec.container import QuantizedTensor, dequantize, read_artifact, write_artifact
from pipeline.codec.sections import ArtifactError

__all__ = ["ArtifactError", "QuantizedTensor", "dequantize", "read_artifact", "write_artifact"]
