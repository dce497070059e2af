"""Training that was stopped, and whether it would go on: what its last snapshot says.

Checked by: tests/stages/test_status.py.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pipeline.base.config import Params


class Snapshot(NamedTuple):
    """What a training run that was stopped left to go on from."""

    step: int
    changed: list[str]
    """Settings of `model` and `train` that are others now: the snapshot is of no use."""

    def __str__(self) -> str:
        if self.changed:
            return f"after step {self.step}, with another {self.changed[0]}: it begins anew"
        return f"after step {self.step}: it goes on from there"


def interrupted(params: "Params", running: Mapping[str, object]) -> dict[str, Snapshot]:
    """Return the snapshots that training left and does not work on."""
    from pipeline.base.artifacts import STATE
    from pipeline.base.flat import flat_values

    settings = json.loads(json.dumps({"model": asdict(params.model), "train": asdict(params.train)}))
    now, found = dict(flat_values(settings)), dict[str, Snapshot]()
    for name, seed in ((f"train@{seed}", seed) for seed in params.seeds):
        try:
            snapshot = json.loads((STATE / f"train-{seed}" / "snapshot.json").read_bytes())
            made_with = snapshot["identity"]
            changed = [key for key in now if key not in made_with or made_with[key] != now[key]]
            found |= {} if name in running else {name: Snapshot(int(snapshot["step"]), changed)}
        except (OSError, ValueError, KeyError, TypeError):  # none, or none that training would use
            continue
    return found
