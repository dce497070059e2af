"""The page of a comparison: a point and a bar per arm, equal limits once, text escaped, nothing from a network."""

import re

from pipeline.reports.compare_page import comparison_page
from tests.reports.test_compare import compared, write_run


def texts_of(page: str) -> list[str]:
    """Return the texts of the picture."""
    return re.findall(r">([^<>]+)</text>", page[page.index("<svg") : page.index("</svg>")])


def test_arms_are_points_and_equal_limits_one_line(tmp_path):
    before = write_run(tmp_path / "before", {1: 0.5, 2: 0.6, 3: 0.7})
    after = write_run(tmp_path / "<after>", {1: 0.4, 2: 0.6, 3: 0.6})
    wider = write_run(tmp_path / "wider", {1: 0.4, 2: 0.5, 3: 0.6}, limit=("480000", "500000"))
    comparison = compared(before, after, wider)
    page = comparison_page(comparison)
    texts = texts_of(page)
    assert {"A  before", "B  &lt;after&gt;", "C  wider", "bits per byte"} <= {text.strip() for text in texts}
    assert [text.strip() for text in texts if "limit of" in text] == ["limit of C", "limit of A"]
    assert "<after>" not in page
    assert "http" not in re.sub(r'(xmlns(:\w+)?|href)="http://www.w3.org/[^"]*"', "", page)
    assert page == comparison_page(comparison)


def test_without_scores_there_is_no_picture(tmp_path):
    folder = write_run(tmp_path / "run", {1: 0.5})
    page = comparison_page(compared(folder, folder, item="mixture"))
    assert "<svg" not in page
    assert "A has no scores of mixture" in page
