"""Files and processes of strangers: read within bounds, every fault one line.

One idea: what comes from outside may be damaged, huge or hostile. It is measured before it is read, and whatever a
reader then raises becomes a ValueError that names the file.

Checked by: tests/audit/test_untrusted.py.
"""

import json
import math
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.base.checks import explain_failure, one_line, require
from pipeline.base.files import read_arrays
from pipeline.base.foreign import read_bounded

LARGEST_TEXT_BYTES = 64 << 20
"""Most that a report or all that a program prints may hold."""


def read_foreign_text(path: Path) -> str:
    """Return a text file's content; ValueError when it is absent, no file, too large or not UTF-8."""
    try:
        return read_bounded(path, LARGEST_TEXT_BYTES).decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not readable as text ({explain_failure(error)})") from None


def read_foreign_object(path: Path) -> dict[str, Any]:
    """Return a JSON object; ValueError when it is damaged, no object, or holds NaN or infinity."""
    try:
        content = json.loads(read_foreign_text(path), parse_constant=_refuse_constant, parse_float=_finite)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not valid JSON ({one_line(error)})") from None
    except (_NoNumberError, RecursionError) as error:
        raise ValueError(f"{path}: not valid JSON ({explain_failure(error)})") from None
    require(isinstance(content, dict), str(path), type(content).__name__, "a JSON object")
    return content


class _NoNumberError(Exception):
    """A number that is none."""


def _refuse_constant(name: str) -> float:
    raise _NoNumberError(f"it holds {name}, expected finite numbers")


def _finite(text: str) -> float:
    return float(text) if math.isfinite(float(text)) else _refuse_constant(text)


def field(content: Any, where: str, *keys: str | int) -> Any:
    """Return what lies under a chain of keys; ValueError naming the chain when it breaks."""
    for depth, key in enumerate(keys):
        shown = ".".join(map(str, keys[: depth + 1]))
        is_held = isinstance(content, Mapping) and key in content
        is_held = is_held or (isinstance(content, list) and isinstance(key, int) and key < len(content))
        require(is_held, f"{where}: {shown}", "nothing", "a value")
        content = content[key]
    return content


def stated_number(content: Any, where: str, *keys: str | int) -> float:
    """Return a finite number under a chain of keys; ValueError for anything else."""
    value = field(content, where, *keys)
    is_number = isinstance(value, int | float | Decimal) and not isinstance(value, bool) and abs(float(value)) < 2**63
    require(is_number, f"{where}: {'.'.join(map(str, keys))}", one_line(value), "a number")
    return float(value) if isinstance(value, Decimal) else value


def read_foreign_arrays(path: Path, names: Sequence[str], largest_bytes: int) -> dict[str, np.ndarray]:
    """Return arrays of an .npz that unpacks to at most `largest_bytes`; ValueError when it does not hold them."""
    try:
        return read_arrays(path, names, largest_bytes)
    except ValueError as error:
        raise ValueError(f"{path.name}: not a readable ledger ({error})") from None


_LEDGER_KINDS = {"target": "iu", "nats": "f", "bytes": "iu", "group": "iu"}
"""Column of a ledger -> kinds of number that it may hold."""


def read_ledger(path: Path, others: Sequence[str], largest_bytes: int) -> dict[str, np.ndarray]:
    """Return a ledger's columns, flat, of one length, numbers of the right kind, and other arrays; else ValueError."""
    arrays = read_foreign_arrays(path, [*_LEDGER_KINDS, *others], largest_bytes)
    for name, kinds in _LEDGER_KINDS.items():
        column = arrays[name]
        is_column = column.ndim == 1 and column.dtype.kind in kinds and len(column) == len(arrays["target"])
        require(is_column, f"{path.name}: {name}", f"{column.dtype} {column.shape}", "one number per row")
    return arrays
