"""The trellis that codes of a matrix run through: less error for the same bits than rounding each by itself.

The one idea: a grid of half steps is split into the even codes (union 0) and the odd ones (union 1). A state machine,
driven by the codes themselves, says for every code which union it is from: so a code costs only the bits of a grid of
whole steps, but whoever chooses a *path* of codes has twice as many levels to choose from. Code m = 2k + union; the
lowest bit of k and the union drive the state (a systematic feedback encoder with parity checks `_POLYNOMIALS`):

    state' = state >> 1 ^ union * (h0 >> 1) ^ (k & 1) * (h1 >> 1)        union = state & 1

A row whose weights are small beside the step is off the paths: its codes are even, most of them 0, and the state passes
it by. On a path half of its codes would be from union 1, which has no 0.

A path runs down the rows of one column, the order in which GPTQ can choose all of its codes together. Columns of many
rows hold several paths side by side, each beginning in state 0: with n paths, path i holds rows i, i + n, i + 2n, ..
of those on paths, so that one step of all paths is a block of n whole rows.

Axes: R rows, C columns.
Source: Marcellin & Fischer 1990; codes of Ungerboeck 1982, table I (the parity checks for one-dimensional signals).
Checked by: tests/codec/test_trellis.py.
"""

import numpy as np

_POLYNOMIALS = {4: (0o5, 0o2), 8: (0o13, 0o4), 16: (0o23, 0o10), 32: (0o45, 0o10), 64: (0o103, 0o24)}
TRELLIS_STATES = tuple(_POLYNOMIALS)
"""Numbers of states to choose from; 1 is no trellis."""
_PATH_ROWS = 128
"""Rows of a path: its first codes, in a fixed state, have less to choose from."""


def next_state(state: np.ndarray, whole: np.ndarray, states: int) -> np.ndarray:
    """Return the states after codes `whole` (k of m = 2k + union) were taken in `state`."""
    feedback, forward = _POLYNOMIALS[states]
    return state >> 1 ^ (state & 1) * (feedback >> 1) ^ (whole & 1) * (forward >> 1)


def num_paths(rows: int) -> int:
    """Return how many paths run side by side down so many rows: at least 1."""
    return max(-(-rows // _PATH_ROWS), 1)


def unions(code_RC: np.ndarray, states: int) -> np.ndarray:
    """Return the union (0 or 1) of every code of rows on paths."""
    union_RC, paths = np.zeros_like(code_RC), num_paths(len(code_RC))
    state = union_RC[:paths]
    for at in range(0, len(code_RC), paths):
        code = code_RC[at : at + paths]
        state = state[: len(code)]
        union_RC[at : at + paths] = state & 1
        state = next_state(state, code >> 1, states)
    return union_RC
