"""The Viterbi search: the paths of codes down each column that are nearest to what the column wants.

The one idea: of all paths that end in a state only the best one can go on, so per row and state it is enough to compare
the two paths that arrive. An edge takes the codes of one subset, those equal modulo 4: of them the nearest one.

Axes: R rows, N columns, L rows of a path, P paths of all columns, S states, E edges (2 S: two into each state, the
first ones of all states before the second ones), Q subsets.
Source: Forney 1973; Marcellin & Fischer 1990.
Checked by: tests/quant/test_trellis_search.py against all paths.
"""

from collections.abc import Sequence

import numpy as np

from pipeline.codec.trellis import next_state, num_paths

_SEARCHED_PATHS = 512
"""Paths searched together: their distances fit the cache."""
_UNREACHED = 1e30


class PathSearch:
    """Finds codes for tensors that lie below each other, each with paths of its own."""

    def __init__(self, tensor_rows: Sequence[int], on_path_R: np.ndarray, states: int) -> None:
        """Lay out the edges of the trellis, and paths over the rows that `on_path_R` (bool) says."""
        whole_E, state_E = np.divmod(np.arange(2 * states), states)
        edge_E = np.argsort(next_state(state_E, whole_E, states), kind="stable").reshape(states, 2).T.reshape(-1)
        self._before_E, self._subset_E = state_E[edge_E], 2 * whole_E[edge_E] + (state_E[edge_E] & 1)
        self._rows = len(on_path_R)
        places, start = [], 0
        for rows in tensor_rows:
            row_N = start + np.flatnonzero(on_path_R[start : start + rows])
            start += rows
            paths = num_paths(len(row_N))
            # Paths that end early go on over a row that does not exist.
            row_N = np.pad(row_N, (0, -len(row_N) % paths), constant_values=self._rows)
            places.append(row_N.reshape(-1, paths))
        length = max(1, *map(len, places))
        padded = [np.pad(row_LP, ((0, length - len(row_LP)), (0, 0)), constant_values=self._rows) for row_LP in places]
        self._row_LP = np.concatenate(padded, 1)

    def codes(self, wanted_RN: np.ndarray) -> np.ndarray:
        """Return codes (R, N), float64 whole numbers: nearest even ones, or paths of least squared distance."""
        columns = wanted_RN.shape[1]
        wanted_LP = np.concatenate([wanted_RN, np.zeros((1, columns))])[self._row_LP].reshape(len(self._row_LP), -1)
        real_LP = (self._row_LP < self._rows).repeat(columns, 1)
        starts = range(0, wanted_LP.shape[1], _SEARCHED_PATHS)
        parts = [slice(at, at + _SEARCHED_PATHS) for at in starts]
        code_LP = np.concatenate([self._search(wanted_LP[:, part], real_LP[:, part]) for part in parts], 1)
        code_RN = np.concatenate([2 * np.rint(wanted_RN / 2), np.zeros((1, columns))])
        code_RN[self._row_LP] = code_LP.reshape(*self._row_LP.shape, columns)
        return code_RN[:-1]

    def _search(self, wanted_LP: np.ndarray, real_LP: np.ndarray) -> np.ndarray:
        length, paths = wanted_LP.shape
        states = len(self._before_E) // 2
        # Distances to the subsets, in units of their spacing of 4 codes.
        off_LQP = ((wanted_LP[:, None] - np.arange(4)[:, None]) / 4).astype(np.float32)
        off_LQP -= np.rint(off_LQP)
        off_LQP *= off_LQP * real_LP[:, None]
        cost_LEP = off_LQP.take(self._subset_E, 1)
        cost_SP = np.full((states, paths), _UNREACHED, np.float32)
        cost_SP[0] = 0
        total_EP = np.empty((2 * states, paths), np.float32)
        second_LSP = np.empty((length, states, paths), bool)
        for cost_EP, second_SP in zip(cost_LEP, second_LSP, strict=True):
            np.take(cost_SP, self._before_E, 0, out=total_EP, mode="clip")
            total_EP += cost_EP
            np.less(total_EP[states:], total_EP[:states], out=second_SP)
            np.minimum(total_EP[:states], total_EP[states:], out=cost_SP)
        edge_LSP = np.arange(states)[:, None] + states * second_LSP
        place_P = np.arange(paths)
        # Where in a row (S, P) the path of a place of the next row comes from.
        source_LSP = self._before_E[edge_LSP] * paths + place_P
        place_LP = np.empty((length, paths), np.int64)
        place_P += cost_SP.argmin(0) * paths
        for row in range(length - 1, -1, -1):
            place_LP[row] = place_P
            place_P = source_LSP[row].take(place_P)
        code_LP = self._subset_E[np.take_along_axis(edge_LSP.reshape(length, -1), place_LP, 1)].astype(np.float64)
        code_LP += 4 * np.rint((wanted_LP - code_LP) / 4)
        return code_LP
