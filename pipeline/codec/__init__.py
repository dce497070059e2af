"""The artifact container: what a record stores and reads back."""

from pipeline.codec.container import ArtifactError, QuantizedTensor, dequantize, read_artifact, write_artifact

__all__ = ["ArtifactError", "QuantizedTensor", "dequantize", "read_artifact", "write_artifact"]
