"""Slow, obvious oracles for the quantizer."""

import numpy as np


def brute_force_obq(weight_RC, hessian_CC, step_R, max_code, damp_frac):
    """Round column after column; after each, re-solve for the free columns' optimum with the inverse of what is left.

    Optimal brain quantization with a fixed order: eliminating column j from the inverse Hessian at every step.
    """
    hessian_CC = np.array(hessian_CC, np.float64)
    diagonal = np.diag(hessian_CC).copy()
    live = np.flatnonzero(diagonal != 0)
    order = live[np.argsort(-diagonal[live], kind="stable")]
    damping = damp_frac * diagonal[live].mean()
    codes = np.zeros(weight_RC.shape, np.int64)
    values = np.array(weight_RC, np.float64)
    for position, column in enumerate(order):
        rest = order[position:]
        inverse = np.linalg.inv(hessian_CC[np.ix_(rest, rest)] + damping * np.eye(len(rest)))
        code = np.clip(np.rint(values[:, column] / step_R), -max_code, max_code)
        codes[:, column] = code
        error = (values[:, column] - code * step_R) / inverse[0, 0]
        values[:, rest] -= error[:, None] * inverse[0][None, :]
    return codes
