"""What runs at this moment, and how long it took: a small file per stage, for whoever asks from another terminal.

The one idea: a file counts as long as the output that its stage makes is held (`pipeline/launching/alone.py`): the
system takes that lock from whoever dies, so what a killed stage left is known, and swept by whoever looks.

Checked by: tests/stages/test_running.py.
"""

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pipeline.base.artifacts import STATE, read_json, write_json
from pipeline.base.files import sweep

RUNNING, TOOK = STATE / "running", STATE / "seconds"
SECONDS_BETWEEN_WRITES = 2.0
_BEGAN = time.monotonic()
"""When this command began: commands import this room before anything heavy."""


@contextmanager
def report_running(stage: str, seed: int | None, item: str | None, output: Path) -> Iterator[Callable[..., None]]:
    """Keep a file that says how far a stage is, until it ends, then how long it took if it ended well.

    Yield what brings the file up to date.

    What is yielded takes fields as keywords (label, unit, done, total, note, seconds_left) and writes at most every few
    seconds, but a new label at once. `output` is what the stage holds alone. A file that cannot be written is no error.
    """
    path = RUNNING / _file_name(stage, seed, item)
    fields: dict[str, Any] = {"stage": stage, "seed": seed, "item": item, "pid": os.getpid(), "output": str(output)}
    fields |= {"label": stage, "unit": "", "done": 0, "total": 0, "note": "starting", "seconds_left": None}
    started, written = time.monotonic(), -SECONDS_BETWEEN_WRITES

    def update(**changes: object) -> None:
        nonlocal written
        now = time.monotonic()
        is_new = changes.get("label", fields["label"]) != fields["label"]
        fields.update(changes)
        if is_new or now - written >= SECONDS_BETWEEN_WRITES:
            written = now
            with suppress(OSError):
                write_json(path, {**fields, "elapsed_seconds": now - started, "written": time.time()})

    try:
        update()
        yield update
        keep_seconds(stage, seed, item)
    finally:
        with suppress(OSError):
            path.unlink()


def keep_seconds(stage: str, seed: int | None, item: str | None) -> None:
    """Write down how long this command has taken, its imports included."""
    with suppress(OSError):
        write_json(TOOK / _file_name(stage, seed, item), {"seconds": time.monotonic() - _BEGAN})


def seconds_taken(stage: str, seed: int | None, item: str | None) -> float | None:
    """Return how long the last run of a stage in this folder took that ended well, None without one."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        return float(json.loads((TOOK / _file_name(stage, seed, item)).read_bytes())["seconds"])
    return None


def _file_name(stage: str, seed: int | None, item: str | None) -> str:
    return f"{'-'.join(str(each) for each in (stage, seed, item) if each is not None)}.json"


def running_stages() -> list[dict[str, Any]]:
    """Return what the running stages of this checkout say of themselves, sorted by their files' names."""
    found = []
    for path in sorted(RUNNING.glob("*.json")):
        with suppress(KeyError, ValueError):  # it has just ended, or somebody else wrote this
            said = read_json(path)
            if _is_held(Path(said["output"])):
                found.append(said)
            else:
                path.unlink(missing_ok=True)
    return found


def _is_held(output: Path) -> bool:
    """Return whether a living process holds an output alone; what a dead one left of its lock is removed."""
    sweep(output.parent, f".{output.name}")
    return output.with_name(f".{output.name}.lock").exists()
