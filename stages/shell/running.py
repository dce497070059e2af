"""What runs at this moment: a small file per running stage, for whoever asks from another terminal.

The one idea: a file counts as long as the output that its stage makes is held (`pipeline/launching/alone.py`): the
system takes that lock from whoever dies, so what a killed stage left is known, and swept by whoever looks.

Checked by: tests/stages/test_running.py.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pipeline.base.artifacts import STATE, read_json, write_json
from pipeline.base.files import sweep

RUNNING = STATE / "running"
SECONDS_BETWEEN_WRITES = 2.0


@contextmanager
def report_running(stage: str, seed: int | None, item: str | None, output: Path) -> Iterator[Callable[..., None]]:
    """Keep a file that says how far a stage is, until it ends; yield what brings the file up to date.

    What is yielded takes fields as keywords (label, unit, done, total, note, seconds_left) and writes at most every few
    seconds, but a new label at once. `output` is what the stage holds alone. A file that cannot be written is no error.
    """
    path = RUNNING / f"{'-'.join(str(each) for each in (stage, seed, item) if each is not None)}.json"
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
    finally:
        path.unlink(missing_ok=True)


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
