"""Small programs with the constructs that mislead an analysis print the same when specialised, or are refused."""

import contextlib
import io
import re
from pathlib import Path

import pytest

from pipeline.submission.minify import minify
from pipeline.submission.specialise import specialise

FOLDER = Path(__file__).parent
REFUSED_BUT_RIGHT = {"a class that answers any name", "slots", "operators"}
"""Programs that need not be refused for ever: what they use is not modelled yet."""


def programs(name: str) -> dict[str, str]:
    parts = re.split(r"^=== (.*)\n", (FOLDER / name).read_text("utf-8"), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


KEPT, REFUSED = programs("programs_kept.txt"), programs("programs_refused.txt")


def printed(source: str) -> str:
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        exec(compile(source, "<program>", "exec"), {"__name__": "__main__"})
    return output.getvalue()


@pytest.mark.parametrize("name", KEPT)
def test_a_specialised_program_prints_the_same(name: str):
    expected = printed(KEPT[name])
    try:
        small = specialise(KEPT[name])
    except ValueError as error:
        assert name in REFUSED_BUT_RIGHT, error
        return
    assert name not in REFUSED_BUT_RIGHT
    assert printed(small) == printed(minify(small)) == expected, small


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_modelled_is_refused_in_one_line(name: str):
    with pytest.raises(ValueError, match=r"^specialise: `[^\n]*$"):
        specialise(REFUSED[name])
