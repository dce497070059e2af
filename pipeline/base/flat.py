"""Nested settings by dotted key.

Checked by: tests/training/test_snapshot.py, tests/stages/test_status.py.
"""

from collections.abc import Iterator


def flat_values(value: object, key: str = "") -> Iterator[tuple[str, object]]:
    """Yield (dotted key, value) of nested mappings; `key` is that of `value` itself."""
    if not isinstance(value, dict):
        yield key, value
        return
    for name, inner in value.items():
        yield from flat_values(inner, f"{key}.{name}" if key else name)
