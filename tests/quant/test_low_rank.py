"""Shares of rank-one corrections where they are known."""

import numpy as np
import pytest
import torch

from benchmarks.low_rank import VALUE_BITS, correction_of
from pipeline.codec.container import QuantizedTensor
from pipeline.quant.plan import TensorGroup


def correction(error_RC, curvature_R, moment_CC):
    """Return the correction of a matrix whose codes are all 0: its error is the matrix."""
    rows = len(error_RC)
    group = TensorGroup(("w",), (rows,), "matrix", error_RC, moment_CC, None, curvature_R, None, None)
    codes = QuantizedTensor(np.zeros(error_RC.shape, np.int8), np.ones(rows, np.float16))
    return correction_of(group, {"w": codes})


def test_an_error_of_rank_one_is_taken_away_whole():
    generator = torch.Generator().manual_seed(0)
    mixed_CC = torch.randn(24, 24, generator=generator, dtype=torch.float64)
    error_RC = torch.outer(torch.randn(40, generator=generator), torch.randn(24, generator=generator))
    curvature_R, moment_CC = torch.rand(40, generator=generator) + 0.1, mixed_CC @ mixed_CC.T
    found = correction(error_RC, curvature_R, moment_CC)
    assert found.saved == pytest.approx(1)
    error_RC = error_RC.double()
    assert found.loss == pytest.approx(float(curvature_R.double() @ (error_RC @ moment_CC).mul(error_RC).sum(1)))
    assert found.saved_by_steps == pytest.approx(1 - 4 ** -(VALUE_BITS * 64 / 960))


def test_white_errors_have_no_direction():
    error_RC = torch.randn(256, 256, generator=torch.Generator().manual_seed(0))
    found = correction(error_RC, torch.ones(256), torch.eye(256, dtype=torch.float64))
    assert found.saved == pytest.approx((16 + 16) ** 2 / 256**2, rel=0.1)  # Marchenko-Pastur
    assert found.saved < found.saved_by_steps / 4
    assert correction(0 * error_RC, torch.ones(256), torch.eye(256, dtype=torch.float64)).saved == 0
