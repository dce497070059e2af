"""The Makefile tells a newcomer with an old Python what to do, before anything is installed."""

import os
import shutil
import subprocess
from pathlib import Path

from tests.conftest import REPO


def test_an_old_python_is_one_line(tmp_path: Path) -> None:
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copy(REPO / name, tmp_path)
    old = tmp_path / "python2"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    command, own = ["make", f"PYTHON={old}", ".venv"], {"PATH": os.environ["PATH"]}  # not what a make around it says
    done = subprocess.run(command, cwd=tmp_path, env=own, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert done.stdout == (
        f"Fairway needs Python 3.11 or later; {old} is none: name one, as in make PYTHON=python3.12 demo\n"
    )
    assert not (tmp_path / ".venv").exists()
