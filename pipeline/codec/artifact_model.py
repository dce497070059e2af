"""The model of an artifact file, built from the config inside it.

Apart from `dequantize.py` because it reads that config with the strict loader, which no record program needs.

Checked by: tests/model/test_checkpoint.py.
"""

from pathlib import Path

from pipeline.base.config import parse_value
from pipeline.codec.container import QuantizedTensor, read_artifact
from pipeline.codec.dequantize import dequantized_model
from pipeline.codec.sections import ArtifactError
from pipeline.model.checkpoint import check_shapes
from pipeline.model.config import ModelConfig
from pipeline.model.network import LoopedUNet


def load_artifact_model(path: Path) -> LoopedUNet:
    """Return the dequantized model of an artifact; raises ArtifactError when file and config do not fit."""
    tensors, meta = read_artifact(path)
    stored = {name: each.codes if isinstance(each, QuantizedTensor) else each for name, each in tensors.items()}
    try:
        config = parse_value(ModelConfig, meta.get("model"), "model")
        shapes = {name: array.shape for name, array in stored.items()}
        check_shapes(config, shapes, "the artifact does not fit the model config inside")
        return dequantized_model(tensors, config)
    except (ValueError, ArtifactError) as error:
        raise ArtifactError(f"{path}: {error}") from None
