"""Fixtures shared by all tests."""

from pathlib import Path

import pytest
from hypothesis import settings

# A busy machine is no failure.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

REPO = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def repo() -> Path:
    """Return the root of the checkout."""
    return REPO


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder of reference outputs beside the checkout; skip when it is absent."""
    folder = REPO.parent / "shared"
    if not folder.is_dir():
        pytest.skip("reference outputs absent: place the folder `shared` beside the checkout to run this test")
    return folder
