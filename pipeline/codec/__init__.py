"""The artifact: codes to a file and back to a model: `container`, `artifact_model.load_artifact_model`."""

from pipeline.codec.container import QuantizedTensor, dequantize, read_artifact, write_artifact
from pipeline.codec.sections import ArtifactError

__all__ = ["ArtifactError", "QuantizedTensor", "dequantize", "read_artifact", "write_artifact"]
