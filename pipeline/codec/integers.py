"""Integers to and from coder runs: which table each one takes, and what lies beyond the tables.

The one idea: a matrix stores one small integer per row and one per column, and the class of an element is their sum:
known before the element is decoded, and close to the log of its scale. The indices are fitted to the tables' own
codelengths, rows and columns in turn: near those of the shortest code. They are coded as runs of one class each.

Rows of an embedding have a part in common (tokens never seen share nearly all of it): where that pays, a profile of the
columns times a load of the row is subtracted before.

Axes: R rows, C columns, N integers of a run, K classes, S symbols, J magnitudes, A candidates.
Source: docs/format.md.
Checked by: tests/codec/test_integers.py.
"""

import math
from collections.abc import Iterator

import numpy as np

from pipeline.base.checks import require
from pipeline.codec.coders import MatrixCoder, VectorCoder
from pipeline.codec.range_coder import Run, RunDecoder, encode_runs
from pipeline.codec.tables import MAX_MAGNITUDE_BITS, MIN_CLASS, NUM_CLASSES, TABLE_BITS, code_tables
from pipeline.codec.trellis import next_state, num_paths, unions

_VECTOR_BITS = 5
_CHOICE_ROUNDS = 3
_FIT_REACHES = (16, 8, 4, 2)
"""Classes that each round of the scale fit looks to both sides."""
_FIT_STRETCH = 1.5
"""Reaches that an index moves at most in a round."""
_LEAST_BEND = 1.0
"""Bits by which the codelength must be curved to say where its least value is."""
_LEAST_SQUARE = 2.0 ** (MIN_CLASS / 4)
"""Of the scale of class 0."""
_PROFILE_ROUNDS = 4
_PROFILE_BITS = 10
_EXCESS_BITS = 12
_LOAD_SHIFT = 8
EXACT = 1 << 40
"""Samples at which a vector's integers are never replaced by cheaper ones beside them."""
_BLOCK_INTEGERS = 1 << 18
_FIT_INTEGERS = 1 << 15
"""Of a matrix at a time: what fits the cache."""
_ANYWHERE = 1 << 20
_MISFIT_BITS = math.log(2) / 64
"""What one class beside the true scale costs a code; it grows with the square of the distance."""


class IntegerWriter:
    """Collects runs; `excess` holds how far every integer at the edge of its alphabet lies beyond it."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self.runs: list[Run] = []
        self.excess: list[np.ndarray] = []

    def _add(self, value_N: np.ndarray, class_N: np.ndarray, bits: int) -> None:
        tables = code_tables(bits)
        limit_N = tables.limit_K.take(class_N)
        cell_N = np.clip(value_N, -limit_N, limit_N) + (class_N * tables.frequency_KS.shape[1] + (1 << bits) - 1)
        parts = (part_KS.take(cell_N).astype("<u2") for part_KS in (tables.start_KS, tables.frequency_KS))
        self.runs.append(Run(*parts))
        beyond_N = np.abs(value_N) - limit_N
        self.excess.append(beyond_N[beyond_N >= 0].astype("<u2"))

    def add_vector(
        self,
        place_N: np.ndarray,
        samples: int,
        least_N: np.ndarray | int = -_ANYWHERE,
        most_N: np.ndarray | int = _ANYWHERE,
    ) -> tuple[VectorCoder, np.ndarray]:
        """Add integers of one class near `place_N`, inside the bounds; return how they are coded, and which they are.

        Each is the scale index of `samples` codes: one that is cheaper to state may cost them a little.
        """
        nearest_N = np.clip(np.rint(place_N), least_N, most_N).astype(np.int32)
        offset = int(np.median(nearest_N))
        widest = (1 << _VECTOR_BITS) - 1
        # A magnitude without a symbol of its own costs the edge's symbol and two bytes.
        bits_KJ = -np.log2(np.maximum(code_tables(_VECTOR_BITS).frequency_KS[:NUM_CLASSES, widest:], 2.0**-12))
        value_N = nearest_N - offset
        for _ in range(_CHOICE_ROUNDS):
            row = int((bits_KJ @ np.bincount(np.minimum(np.abs(value_N), widest), minlength=widest + 1)).argmin())
            near_AN = np.clip(nearest_N + np.arange(-2, 3)[:, None], least_N, most_N).astype(np.int32) - offset
            misfit_AN = _MISFIT_BITS * samples * (place_N - offset - near_AN) ** 2
            choice_N = (misfit_AN + bits_KJ[row].take(np.abs(near_AN), mode="clip")).argmin(0)
            value_N = np.take_along_axis(near_AN, choice_N[None], 0)[0]
        self._add(value_N, np.full(len(value_N), row), _VECTOR_BITS)
        return VectorCoder(offset, row), value_N + offset

    def add_matrix(self, code_RC: np.ndarray, states: int = 1, on_path_R: np.ndarray | None = None) -> MatrixCoder:
        """Add a matrix, `on_path_R` (bool) its rows on paths of a trellis of so many states; return how it is coded.

        Raises ValueError for codes that are no paths.
        """
        code_RC = code_RC.astype(np.int32)
        if not code_RC.any():
            return MatrixCoder()
        if on_path_R is None:
            on_path_R = np.zeros(len(code_RC), bool)
        union_RC = np.zeros_like(code_RC)
        union_RC[on_path_R] = unions(code_RC[on_path_R], states)
        require(
            states == 1 or not ((code_RC ^ union_RC) & 1).any(),
            "codes",
            "a code of the wrong union",
            f"paths of a trellis of {states} states",
        )
        whole_RC = code_RC >> (states > 1)
        trials = []
        for load_R, profile_C in _profiles(whole_RC):
            trial, rest_RC = IntegerWriter(), whole_RC - _shared(load_R, profile_C)
            trials.append((trial, trial._add_rest(rest_RC, union_RC, on_path_R, load_R, profile_C)))
        best, coder = min(trials, key=lambda pair: pair[0].num_bits())
        self.join(best)
        return coder

    def join(self, other: "IntegerWriter") -> None:
        """Add all that was added to another one."""
        self.runs += other.runs
        self.excess += other.excess

    def _add_rest(
        self,
        rest_RC: np.ndarray,
        union_RC: np.ndarray,
        on_path_R: np.ndarray,
        load_R: np.ndarray,
        profile_C: np.ndarray,
    ) -> MatrixCoder:
        num_rows, num_columns = rest_RC.shape
        loads, _ = self.add_vector(load_R, EXACT)
        profile, _ = self.add_vector(profile_C, EXACT)
        bits = min(max(int(np.abs(rest_RC).max()), 1).bit_length(), MAX_MAGNITUDE_BITS)
        fit = _ScaleFit(rest_RC, union_RC, bits)
        row_R = 4 * np.log2(np.maximum(((rest_RC + union_RC / 2) ** 2).mean(1), _LEAST_SQUARE)) - MIN_CLASS
        column_C = np.zeros(num_columns)
        for reach in _FIT_REACHES:
            column_C = fit(row_R, column_C, reach, 0)
            row_R = fit(row_R, column_C, reach, 1)
        # Rows of one scale, the usual case, should all fall on an integer and not between two.
        row_R = row_R - np.median(row_R) + np.rint(np.median(row_R))
        least = _threshold(row_R, on_path_R)
        lowest_R, highest_R = np.where(on_path_R, [[least], [_ANYWHERE]], [[-_ANYWHERE], [least - 1]])
        rows, row_R = self.add_vector(row_R, num_columns, lowest_R, highest_R)
        columns, column_C = self.add_vector(fit(row_R, column_C, _FIT_REACHES[-1], 0), num_rows)
        for row_N, class_NC in _blocks(row_R, column_C, on_path_R):
            class_NC += NUM_CLASSES * union_RC[row_N]
            self._add(rest_RC[row_N].reshape(-1), class_NC.reshape(-1), bits)
        return MatrixCoder(bits, loads, profile, rows, columns, least)

    def num_bits(self) -> float:
        """Return the codelength of all runs, and about that of the excesses."""
        large = sum(np.count_nonzero(excess_N) for excess_N in self.excess)
        return _EXCESS_BITS * large + sum(
            np.sum(TABLE_BITS - np.log2(run.frequency_N, dtype=np.float64)) for run in self.runs
        )

    def stream(self, lanes: int) -> bytes:
        """Return the coded runs."""
        return encode_runs(self.runs, lanes)


class IntegerReader:
    """Gives back what an `IntegerWriter` was given, in the same order; raises ValueError where nothing fits."""

    def __init__(self, stream: bytes, excess_N: np.ndarray, lanes: int) -> None:
        """Read from the coded runs and all excesses."""
        self._decoder, self._excess_N = RunDecoder(stream, lanes), excess_N

    def _take(self, class_N: np.ndarray, bits: int) -> np.ndarray:
        tables = code_tables(bits)
        value_N = self._decoder.take(tables, class_N).astype(np.int32) - ((1 << bits) - 1)
        edge_N = np.abs(value_N) == tables.limit_K.take(class_N)
        edge = value_N[edge_N]
        excess, self._excess_N = self._excess_N[: len(edge)], self._excess_N[len(edge) :]
        require(len(excess) == len(edge), "excesses", len(excess), f"{len(edge)} or more, one per integer at an edge")
        value_N[edge_N] += np.sign(edge) * excess
        return value_N

    def _take_vector(self, num: int, coder: VectorCoder) -> np.ndarray:
        offset, row = coder
        return self._take(np.full(num, row), _VECTOR_BITS) + np.int32(offset)

    def take_indices(self, num: int, bound: int, coder: VectorCoder) -> np.ndarray:
        """Return `num` integers (int32) from 0 to bound - 1."""
        value_N = self._take_vector(num, coder)
        require(value_N.min() >= 0 and value_N.max() < bound, "step level", value_N.max(), f"below {bound}")
        return value_N

    def take_matrix(self, code_RC: np.ndarray, states: int, coder: MatrixCoder) -> np.ndarray:
        """Fill zeros `code_RC` (int8 or int16), coded as `add_matrix` said, and return `on_path_R`."""
        on_path_R = np.zeros(len(code_RC), bool)
        if not coder.bits:
            return on_path_R
        num_rows, num_columns = code_RC.shape
        load_R = self._take_vector(num_rows, coder.loads)
        profile_C = self._take_vector(num_columns, coder.profile)
        row_R = self._take_vector(num_rows, coder.rows)
        column_C = self._take_vector(num_columns, coder.columns)
        if states > 1:
            on_path_R = row_R >= coder.least
        state = np.zeros((num_paths(int(on_path_R.sum())), num_columns), np.int32)
        for row_N, class_NC in _blocks(row_R, column_C, on_path_R):
            state = state[: len(row_N)]
            union = state & 1 if on_path_R[row_N[0]] else 0
            whole = self._take((class_NC + NUM_CLASSES * union).reshape(-1), coder.bits).reshape(class_NC.shape)
            whole += _shared(load_R[row_N], profile_C)
            code = whole << (states > 1) | union
            code_RC[row_N] = code
            held = f"one that {code_RC.dtype} holds"
            require((code_RC[row_N] == code).all(), "section codes: code", int(np.abs(code).max()), held)
            if on_path_R[row_N[0]]:
                state = next_state(state, whole, states)
        return on_path_R

    def check_end(self) -> None:
        """Raise ValueError unless everything was used up."""
        self._decoder.check_lanes()
        require(not len(self._excess_N), "excesses left", len(self._excess_N), "0")


def _blocks(row_R: np.ndarray, column_C: np.ndarray, on_path_R: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield rows that are coded as one run, and their elements' classes.

    Of rows on paths a run is one step of all paths, of the others after them so many that temporary arrays stay small.
    """
    most = max(_BLOCK_INTEGERS // len(column_C), 1)
    for is_path, step in ((True, num_paths(int(on_path_R.sum()))), (False, most)):
        row_N = np.flatnonzero(on_path_R == is_path)
        for at in range(0, len(row_N), step):
            part_N = row_N[at : at + step]
            yield part_N, np.clip(row_R[part_N, None] + column_C, 0, NUM_CLASSES - 1)


def _threshold(row_R: np.ndarray, on_path_R: np.ndarray) -> int:
    """Return the least row index of rows on paths: indices on the wrong side of it are moved, all in all the least."""
    level_T = np.arange(int(row_R.min()), int(row_R.max()) + 4)
    short_RT = level_T - row_R[:, None]
    return int(level_T[np.where(on_path_R[:, None], short_RT, 1 - short_RT).clip(0).sum(0).argmin()])


def _shared(load_R: np.ndarray, profile_C: np.ndarray) -> np.ndarray:
    return load_R[:, None] * profile_C >> _LOAD_SHIFT


def _profiles(codes_RC: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield loads and profiles worth a trial: none, and the leading one of the rows where its moments promise much."""
    num_rows, num_columns = codes_RC.shape
    yield np.zeros(num_rows, np.int32), np.zeros(num_columns, np.int32)
    power_R = (codes_RC**2).mean(1) + 1
    unit_RC = codes_RC / np.sqrt(power_R)[:, None]
    profile_C = unit_RC[np.abs(unit_RC).sum(1).argmax()]
    for _ in range(_PROFILE_ROUNDS):
        profile_C = (unit_RC @ profile_C) @ unit_RC
    profile_C = np.rint(profile_C * (127 / np.abs(profile_C).max())).astype(np.int32)
    load_R = np.rint(codes_RC @ (profile_C * 2.0**_LOAD_SHIFT) / (profile_C * 1.0 @ profile_C)).astype(np.int32)
    rest_R = (((codes_RC - _shared(load_R, profile_C)) * 1.0) ** 2).mean(1) + 1
    promised_bits = np.log2(power_R / rest_R).sum() * num_columns / 2
    # Larger loads, of 16-bit codes, would not fit their fields.
    if promised_bits > _PROFILE_BITS * (num_rows + num_columns) and np.abs(load_R).max() < 1 << 15:
        yield load_R, profile_C


class _ScaleFit:
    """Moves row and column indices of a matrix towards those of the shortest code."""

    def __init__(self, whole_RC: np.ndarray, union_RC: np.ndarray, bits: int) -> None:
        """Tabulate the codelength of every value by class, of those beyond its alphabet with their excess."""
        tables, widest = code_tables(bits), (1 << bits) - 1
        value_S, limit_K1 = np.arange(-widest - 1, widest + 2), tables.limit_K[:, None]
        frequency_KS = np.take_along_axis(tables.frequency_KS, np.clip(value_S, -limit_K1, limit_K1) + widest, 1)
        bits_KS = _EXCESS_BITS * (np.abs(value_S) > limit_K1) - np.log2(frequency_KS)
        self._bits, self._num_values = bits_KS.astype(np.float32).ravel(), len(value_S)
        place_RC = np.clip(whole_RC, -widest - 1, widest + 1) + (widest + 1)
        self._cell_RC = place_RC + NUM_CLASSES * self._num_values * union_RC

    def __call__(self, row_R: np.ndarray, column_C: np.ndarray, reach: int, axis: int) -> np.ndarray:
        """Return better indices of the columns (axis 0) or of the rows (axis 1): the least of a parabola each.

        It passes through the codelengths at the index and `reach` classes to both sides. No index goes below where most
        of its classes are 0: that makes no code shorter. Codelengths are skewed, so that only short reaches are exact.
        """
        parts, size = [], max(_FIT_INTEGERS // len(column_C), 1)
        for at in range(0, len(row_R), size):
            class_RC = np.rint(row_R[at : at + size, None] + column_C).astype(np.int32)
            row_cells = [
                np.clip(class_RC + shift, 0, NUM_CLASSES - 1) * self._num_values + self._cell_RC[at : at + size]
                for shift in (-reach, 0, reach)
            ]
            parts.append([self._bits.take(cell_RC).sum(axis, dtype=np.float64) for cell_RC in row_cells])
        below, here, above = np.concatenate(parts, 1) if axis else np.sum(parts, 0)
        bend = np.maximum(below - 2 * here + above, _LEAST_BEND)
        own, other = (row_R, column_C) if axis else (column_C, row_R)
        move = reach * np.clip((below - above) / (2 * bend), -_FIT_STRETCH, _FIT_STRETCH)
        return np.maximum(own + move, -np.median(other))
