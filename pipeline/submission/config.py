"""The `package` section: what a record says about itself."""

import re
from dataclasses import dataclass

from pipeline.checks import require


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

    def __post_init__(self) -> None:
        require(re.fullmatch(r"\d{4}-\d\d-\d\d", self.date) is not None, "date", self.date, "YYYY-MM-DD")
