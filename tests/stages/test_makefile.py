"""The Makefile tells a newcomer with an old Python what to do, and makes an environment anew that cannot be used."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import REPO

PYTHON = """#!/bin/sh
version={version}
test "$1" = -c && {{ test -z "$version" || echo "$version"; }}
test "$1 $2" = "-m venv" || exit 0
mkdir -p "$3/bin"
cp "$0" "$3/bin/python"
printf '#!/bin/sh\n# %s/python\n' "$PWD/$3/bin" > "$3/bin/pip"
chmod +x "$3/bin/pip"
"""
"""Stands for a Python of some version, none when it is too old; the environments that it makes install nothing."""


class Checkout:
    """A folder with our Makefile, in which PYTHON is what `python` was told."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir()
        for name in ("Makefile", "requirements.lock", "pyproject.toml"):
            shutil.copy(REPO / name, root)

    def python(self, version: str) -> Path:
        path = self.root.parent / "python"
        path.write_text(PYTHON.format(version=version))
        path.chmod(0o755)
        return path

    def make(self, version: str) -> subprocess.CompletedProcess[str]:
        """Run make, for what a target needs only, and not with what a make around it says."""
        command, own = ["make", f"PYTHON={self.python(version)}", ".venv"], {"PATH": os.environ["PATH"]}
        return subprocess.run(command, cwd=self.root, env=own, capture_output=True, text=True, check=False)


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path / "checkout")


def test_an_old_python_is_one_line(checkout: Checkout) -> None:
    done = checkout.make("")
    assert done.returncode != 0
    assert done.stdout == (
        f"Fairway needs Python 3.11 or later; {checkout.python('')} is none: "
        "name one, as in make PYTHON=python3.12 demo\n"
    )
    assert not (checkout.root / ".venv").exists()


def test_an_environment_of_this_python_and_place_stays(checkout: Checkout) -> None:
    assert checkout.make("3.11").returncode == 0
    (checkout.root / ".venv/kept").touch()
    assert "made anew" not in checkout.make("3.11").stdout
    assert checkout.make("").returncode == 0  # nor does it need another Python
    assert (checkout.root / ".venv/kept").exists()


@pytest.mark.parametrize("fault", ["version", "gone", "moved"])
def test_an_environment_that_cannot_be_used_is_made_anew_and_one_line_says_so(checkout: Checkout, fault: str) -> None:
    assert checkout.make("3.11").returncode == 0
    (checkout.root / ".venv/kept").touch()
    if fault == "gone":
        (checkout.root / ".venv/bin/python").unlink()
    if fault == "moved":
        checkout.root = checkout.root.rename(checkout.root.with_name("elsewhere"))
    version = "3.12" if fault == "version" else "3.11"
    done = checkout.make(version)
    assert done.returncode == 0, done.stderr
    reason = {
        "version": "is of Python 3.11",
        "gone": "has no working Python of 3.11 or later",
        "moved": "was made elsewhere or is unfinished",
    }[fault]
    said = [line for line in done.stdout.splitlines() if line.startswith(".venv ")]
    assert said == [f".venv {reason}; it is made anew with Python {version}"]
    assert not (checkout.root / ".venv/kept").exists()
    assert "made anew" not in checkout.make(version).stdout
