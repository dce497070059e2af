"""The import closure: everything that runs, nothing that does not."""

from pathlib import Path

import pytest

from pipeline.base.closure import import_closure


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    """Return a root with a small project: a imports b at the top, c in a function, d only for types."""
    files = {
        "pipeline/__init__.py": "",
        "pipeline/part/__init__.py": "from pipeline.part.door import open_it",
        "pipeline/part/door.py": "def open_it(): ...",
        "pipeline/a.py": (
            "from typing import TYPE_CHECKING\nimport numpy\nfrom pipeline.b import x\n"
            "if TYPE_CHECKING:\n    from pipeline.d import T\ndef f():\n    from pipeline.part.c import y\n"
        ),
        "pipeline/b.py": "from .e import z",
        "pipeline/part/c.py": "y = 1",
        "pipeline/d.py": "T = int",
        "pipeline/e.py": "z = 1",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_the_closure_follows_all_imports_but_those_for_types(toy: Path):
    names = [path.relative_to(toy).as_posix() for path in import_closure("pipeline.a", toy)]
    assert names == [
        "pipeline/__init__.py",
        "pipeline/a.py",
        "pipeline/b.py",
        "pipeline/e.py",
        "pipeline/part/__init__.py",
        "pipeline/part/c.py",
        "pipeline/part/door.py",
    ]


def test_an_import_of_nothing_names_the_importer(toy: Path):
    (toy / "pipeline/e.py").write_text("from pipeline.ghost import z")
    with pytest.raises(ValueError, match=r"pipeline/e\.py: imports pipeline\.ghost"):
        import_closure("pipeline.a", toy)
