"""Small programs with the constructs that mislead an analysis print the same when specialised, or are refused."""

import contextlib
import io
import re
from pathlib import Path

import pytest

from pipeline.record.minify import minify
from pipeline.record.specialise import specialise
from tests.launching.watched_program import run_watched

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


@pytest.mark.parametrize("name", sorted(KEPT.keys() - REFUSED_BUT_RIGHT))
def test_a_specialised_program_prints_the_same(name: str):
    small = specialise(KEPT[name])
    assert printed(small) == printed(minify(small)) == printed(KEPT[name]), small
    with contextlib.redirect_stdout(io.StringIO()):
        run_watched(KEPT[name])


@pytest.mark.parametrize("name", [*REFUSED, *sorted(REFUSED_BUT_RIGHT)])
def test_what_is_not_modelled_is_refused_in_one_line(name: str):
    with pytest.raises(ValueError, match=r"^specialise: `[^\n]*$"):
        specialise({**KEPT, **REFUSED}[name])
