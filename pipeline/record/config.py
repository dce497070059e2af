"""The `package` section: what a record says about itself."""

import re
from dataclasses import dataclass

from pipeline.base.checks import require


@dataclass(frozen=True, kw_only=True)
class BaselineConfig:
    """The record that this one claims to beat."""

    name: str
    """What it is called, or where it is found."""
    val_losses: tuple[float, ...]
    """Its nats per target, one per seed."""

    def __post_init__(self) -> None:
        ok = len(self.val_losses) >= 2 and min(self.val_losses) > 0
        require(ok, "val_losses", list(self.val_losses), "losses above 0 of at least 2 seeds")


@dataclass(frozen=True, kw_only=True)
class PackageConfig:
    """The texts of submission.json that no stage can compute."""

    name: str
    """Title of the record."""
    author: str
    """Author's name."""
    github_id: str
    """Author's GitHub id."""
    blurb: str
    """One or two sentences on what is new."""
    date: str
    """Date of the record, YYYY-MM-DD: a parameter, so that packaging twice gives the same bytes."""
    track: str
    """Track of the challenge."""
    readable: bool
    """Ship train_gpt.py unwrapped (larger) instead of compressed."""
    baseline: BaselineConfig | None
    """What the seeds are tested against; None claims nothing."""

    def __post_init__(self) -> None:
        require(re.fullmatch(r"\d{4}-\d\d-\d\d", self.date) is not None, "date", self.date, "YYYY-MM-DD")
