"""Minified and wrapped programs behave as their source does."""

import contextlib
import io
import multiprocessing
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.record.ship import is_wrapped, latin1_literal, minify, unwrap, wrap

PROGRAM = '''
"""Program."""
import dataclasses
import inspect
import sys
import typing
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, Literal, NamedTuple

OnlyAnnotated = Callable[[int], int]


class Unused:
    """Referred to by an annotation only."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Doc."""

    kind: Literal["blocks", "sliding"]
    """Which."""
    width: int = 4
    names: list[str] = field(default_factory=list)
    shared_value: ClassVar[int] = 7


class Span(NamedTuple):
    start_index: int
    stop_index: int = 9


class Network:
    scale_factor: float
    declared_elsewhere: Unused

    def __init__(self, settings: Settings) -> None:
        self.first_layer = settings.width
        self.scale_factor = self.first_layer / 2


def describe(settings: Settings, *, callback: OnlyAnnotated, long_keyword_name: int = 3) -> str:
    """Docstring."""
    accumulated: int = 0
    later: Unused
    for later in range(long_keyword_name):
        accumulated += callback(later)
    return f"{settings.kind} {accumulated}"


def shown_source() -> str:
    return inspect.getsource(describe)


if __name__ == "__main__":
    settings = Settings(kind="sliding", names=["a"])
    print(describe(settings, callback=lambda long_number: long_number + 1, long_keyword_name=4))
    print([item.name for item in dataclasses.fields(Settings)], Settings.shared_value)
    print(dataclasses.asdict(dataclasses.replace(settings, width=2)))
    print(Span(start_index=1)._asdict(), Span._fields)
    print(sorted(Network(settings).__dict__))
    print("long_keyword_name" in shown_source(), "a\\tb\\n\\u2581\\u00e9".encode())
'''


PADDING = "".join(f"value_{i} = {i}\n" for i in range(400))
"""So much text that the compressed form is the smaller one."""
LONG = PROGRAM + PADDING


def run_file(path: Path, *arguments: str) -> str:
    done = subprocess.run([sys.executable, path.name, *arguments], cwd=path.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def expected(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("program") / "program.py"
    path.write_text(PROGRAM)
    return run_file(path)


@pytest.mark.parametrize("form", ["minified", "wrapped"])
def test_every_form_prints_what_the_source_prints(form, tmp_path, expected):
    small = minify(PROGRAM)
    assert "Docstring" not in small
    assert len(small) < 0.8 * len(PROGRAM)
    path = tmp_path / "train_gpt.py"
    path.write_bytes(wrap(LONG) if form == "wrapped" else small.encode())
    assert run_file(path) == expected
    assert "first_layer" in expected


def test_wrap_is_the_smallest_form_and_unwraps():
    assert is_wrapped(wrap(LONG))
    assert len(wrap(LONG)) < len(LONG)
    assert unwrap(wrap(LONG)) == LONG
    tiny = "print(1)\n"
    assert wrap(tiny) == tiny.encode()
    assert unwrap(wrap(tiny)) == tiny


def test_unwrap_refuses_a_damaged_end():
    with pytest.raises(ValueError, match="unknown end"):
        unwrap(wrap(LONG) + b"print()\n")


@pytest.mark.parametrize("bad", ["a = 1\r\nb = 2\n", "a = '\x0c'\n"])
def test_wrap_refuses_text_whose_lines_would_shift(bad):
    with pytest.raises(ValueError, match="line ends"):
        wrap(bad)


def test_latin1_literal_carries_every_byte(tmp_path):
    hazards = (0, 9, 10, 13, 26, 34, 39, 92, 133)
    pairs = b"".join(bytes([first, second]) for first in hazards for second in range(256))
    data = pairs + bytes(range(256)) + b"\x00123\\\x00'"
    path = tmp_path / "literal.py"
    path.write_bytes(b"#coding:l1\nVALUE = " + latin1_literal(data).encode("latin-1") + b"\n")
    assert runpy.run_path(str(path))["VALUE"].encode("latin-1") == data
    path.write_bytes(path.read_bytes() + b"import sys\nsys.stdout.write(VALUE.encode('l1').hex())\n")
    assert run_file(path) == data.hex()  # the main script takes another reader in the interpreter than an import


def test_a_spawned_process_finds_the_functions_of_a_wrapped_file(tmp_path):
    assert "spawn" in multiprocessing.get_all_start_methods()
    source = (
        "import multiprocessing\n\n\ndef squared(value):\n    return value * value\n\n\n"
        "if __name__ == '__main__':\n    with multiprocessing.get_context('spawn').Pool(1) as pool:\n"
        "        print(pool.map(squared, [2, 3]))\n"
    )
    path = tmp_path / "train_gpt.py"
    path.write_bytes(wrap(PADDING + source))
    assert run_file(path) == "[4, 9]\n"


def test_tracebacks_show_the_real_line(tmp_path):
    source = "import traceback\n\n\ndef fail():\n    raise KeyError('the real line')\n\n\n"
    source += "try:\n    fail()\nexcept KeyError:\n    traceback.print_exc()\n"
    path = tmp_path / "train_gpt.py"
    path.write_bytes(wrap(PADDING + source))
    done = subprocess.run([sys.executable, str(path)], capture_output=True, text=True)
    assert "raise KeyError('the real line')" in done.stderr


def test_minified_text_runs_in_a_plain_namespace():
    source = "def outer(number_of_things):\n    total: int = number_of_things\n    return total\nprint(outer(3))\n"
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        exec(minify(source), {})
    assert output.getvalue() == "3\n"
