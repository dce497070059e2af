"""The console script, and whose code would run in its place.

`pipeline` and `stages` are names that others use, too. A package of such a name that is found first, or a checkout in
which the script of another one is run, would mean code that nobody asked for.

Checked by: tests/stages/test_install.py.
"""

import sys
from importlib.util import find_spec
from pathlib import Path


def shadowed(package: str, home: Path) -> str | None:
    """Return what is wrong, one line, when a package is found elsewhere than in the folder `home`; None: nothing is."""
    found, expected = getattr(find_spec(package), "origin", None), home / package / "__init__.py"
    if found and Path(found).resolve() == expected:
        return None
    remedy = "use the script `fairway`, with no such package in PYTHONPATH"
    return f"fairway: error: package {package}: got {found}, expected {expected}; {remedy}"


def outside(home: Path) -> str | None:
    """Return what is wrong, one line, when the working directory is a checkout and its code is not that of `home`."""
    if Path.cwd() == home or not Path("pipeline/base/artifacts.py").is_file():
        return None
    remedy = "run `python -m stages.cli` in its place, or leave the folder"
    return f"fairway: error: working directory: got a checkout of its own, expected the code of {home}; {remedy}"


def main() -> None:
    """Run the command line of `stages`, once that is the one beside this file."""
    if wrong := shadowed("stages", Path(__file__).resolve().parent):
        sys.exit(wrong)
    from stages.cli import main as run

    run()


if __name__ == "__main__":
    main()
