"""The record of a scoring run: every target's nats and bytes, in the order in which they were scored.

One idea: totals are recomputed from the rows, and rows are kept in scoring order, so that a reader can check exactly
once, score first and the denominator without trusting the program that wrote them.

Sums are `math.fsum` over float64: correctly rounded, so a total depends neither on the scoring order nor on how the
targets were spread over batches or processes.

Axes: N targets; target j is token j + 1.
Source: docs/format.md, "Ledger".
Differs: none.
Checked by: tests/scoring/test_ledger.py.
"""

import io
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.base.checks import explain_failure, require
from pipeline.base.files import read_arrays, write_bytes
from pipeline.data.byte_count import bits_per_byte
from pipeline.scoring.config import Protocol
from pipeline.scoring.evaluate import Scores

LEDGER_COLUMNS = {"target": "<i4", "nats": "<f8", "bytes": "<i2", "group": "<i4"}
"""Column of a ledger -> dtype on disk; a stream is shorter than 2^31 tokens, a piece than 2^15 bytes."""

_MOST_UNPACKED = 64
"""How much longer a ledger's columns may be than its file: nats hardly compress."""
_FREE_BYTES = 1 << 24
"""So much any ledger may unpack to."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Ledger:
    """Rows in scoring order; the arrays are read-only."""

    target: np.ndarray
    """int32: index of the scored target; over all rows a permutation of 0..N-1."""
    nats: np.ndarray
    """float64: its nats."""
    bytes: np.ndarray
    """int16: bytes it stands for."""
    group: np.ndarray
    """int32: group it was scored in; within a group no label had been learnt from."""
    num_targets: int
    """N of the stream: a ledger with fewer rows has dropped targets."""
    protocol: dict[str, Any]
    """The protocol as plain data."""

    def __post_init__(self) -> None:
        for name, dtype in LEDGER_COLUMNS.items():
            column = np.array(getattr(self, name), dtype=dtype)
            require(
                column.shape == (self.num_targets,),
                f"ledger.{name}",
                column.shape,
                f"one row per target ({self.num_targets},)",
            )
            column.setflags(write=False)
            object.__setattr__(self, name, column)
        targets_N, wrong = np.arange(self.num_targets), "repeated or missing targets"
        require(np.array_equal(np.sort(self.target), targets_N), "ledger.target", wrong, "every target exactly once")

    @cached_property
    def total_nats(self) -> float:
        """Return the correctly rounded sum of all nats."""
        return math.fsum(self.nats)

    @property
    def total_bytes(self) -> int:
        """Return the bytes that all targets stand for."""
        return int(self.bytes.sum(dtype=np.int64))

    @property
    def val_loss(self) -> float:
        """Return mean nats per target; raises ValueError for a stream without targets."""
        require(self.num_targets > 0, "ledger", "no targets", "a stream of at least two tokens")
        return self.total_nats / self.num_targets

    @property
    def val_bpb(self) -> float:
        """Return bits per byte; raises ValueError for a stream without bytes."""
        require(self.total_bytes > 0, "ledger.bytes", self.total_bytes, "targets that stand for at least one byte")
        return bits_per_byte(self.total_nats, self.total_bytes)


def make_ledger(scores: Scores, bytes_N: np.ndarray, protocol: Protocol | Mapping[str, Any]) -> Ledger:
    """Return the ledger of a scoring run; bytes_N: bytes by target, as `count_bytes` gives them."""
    require(bytes_N.shape == scores.nats.shape, "bytes", bytes_N.shape, f"one per target {scores.nats.shape}")
    require(
        len(bytes_N) == 0 or 0 <= bytes_N.min() <= bytes_N.max() < 2**15,
        "bytes",
        (bytes_N.min(initial=0), bytes_N.max(initial=0)),
        "0 to 32767 per target",
    )
    order_N = scores.order
    return Ledger(
        target=order_N,
        nats=scores.nats[order_N],
        bytes=bytes_N[order_N],
        group=scores.group,
        num_targets=len(order_N),
        protocol=dict(protocol) if isinstance(protocol, Mapping) else asdict(protocol),
    )


def save_ledger(path: Path, ledger: Ledger) -> None:
    """Write a compressed .npz atomically; equal ledgers give equal bytes."""
    meta = json.dumps({"num_targets": ledger.num_targets, "protocol": ledger.protocol}, sort_keys=True)
    columns = {name: getattr(ledger, name) for name in LEDGER_COLUMNS}
    buffer = io.BytesIO()
    # numpy dates every member of a zip 1980-01-01, so there is no clock in these bytes (a test holds it to that).
    np.savez_compressed(buffer, meta=np.frombuffer(meta.encode(), dtype=np.uint8), **columns)
    write_bytes(path, buffer.getvalue())


def load_ledger(path: Path) -> Ledger:
    """Return the ledger written at `path`; raises ValueError with one line when it is missing or damaged."""
    try:
        most_bytes = _FREE_BYTES + _MOST_UNPACKED * path.stat().st_size
        arrays = read_arrays(path, ["meta", *LEDGER_COLUMNS], most_bytes)
        meta = json.loads(arrays.pop("meta").tobytes())
        for name, dtype in LEDGER_COLUMNS.items():
            require(arrays[name].dtype == dtype, name, str(arrays[name].dtype), dtype)
        require(bool(np.isfinite(arrays["nats"]).all()), "nats", "values that are not finite", "finite ones")
        for name, kind in (("num_targets", int), ("protocol", dict)):
            require(type(meta[name]) is kind, name, type(meta[name]).__name__, kind.__name__)
        return Ledger(**arrays, num_targets=meta["num_targets"], protocol=meta["protocol"])
    except (OSError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not a readable ledger ({explain_failure(error)}); evaluate the item again") from None
