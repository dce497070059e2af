"""From an artifact's tensors back to a model that can be scored.

Checked by: tests/quant/test_calibrate_and_fit.py.
"""

from collections.abc import Mapping

import numpy as np
import torch

from pipeline.codec.container import QuantizedTensor, dequantize
from pipeline.model.config import ModelConfig
from pipeline.model.network import LoopedUNet


def dequantized_model(tensors: Mapping[str, QuantizedTensor | np.ndarray], model_config: ModelConfig) -> LoopedUNet:
    """Return a float32 model of `model_config` with the artifact's values, ready to score, in evaluation mode."""
    model = LoopedUNet.empty(model_config).eval()
    model.load_state_dict({name: torch.from_numpy(array) for name, array in dequantize(tensors).items()}, strict=True)
    return model
