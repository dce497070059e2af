"""From an artifact's tensors back to a model that can be scored.

Checked by: tests/quant/test_calibrate_and_fit.py.
"""

from collections.abc import Mapping

import numpy as np
import torch

from pipeline.codec.container import QuantizedTensor, dequantize
from pipeline.codec.sections import ArtifactError
from pipeline.model.config import ModelConfig
from pipeline.model.network import LoopedUNet


def dequantized_model(tensors: Mapping[str, QuantizedTensor | np.ndarray], model_config: ModelConfig) -> LoopedUNet:
    """Return a float32 model with the artifact's values, ready to score, in evaluation mode.

    Raises ArtifactError naming the first tensors that the artifact lacks, has in excess or has in another shape.
    """
    model = LoopedUNet.empty(model_config).eval()
    values = {name: torch.from_numpy(array) for name, array in dequantize(tensors).items()}
    expected = model.state_dict()
    problems = [f"lacks {name}" for name in expected if name not in values]
    problems += [f"has unknown {name}" for name in values if name not in expected]
    problems += [
        f"has {name} of shape {tuple(values[name].shape)} instead of {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in values and values[name].shape != tensor.shape
    ]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        shown = ", ".join(problems[:3]) + more
        raise ArtifactError(
            f"the artifact does not fit the model config: it {shown}; use the config of the checkpoint it was made from"
        )
    model.load_state_dict(values, strict=True)
    return model
