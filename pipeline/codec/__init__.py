"""The artifact: codes to a file (`write_artifact`), back (`read_artifact`; `foreign` for files of others), to a model.

Models come from `foreign.load_artifact_model`, or of tensors in memory from `restore.dequantized_model`.
"""

from pipeline.codec.container import QuantizedTensor, dequantize, read_artifact, write_artifact
from pipeline.codec.sections import ArtifactError

__all__ = ["ArtifactError", "QuantizedTensor", "dequantize", "read_artifact", "write_artifact"]
