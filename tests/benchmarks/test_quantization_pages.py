"""The page of tables says what the JSON says."""

import json

from benchmarks.quantization.pages import draw_plot, result_page
from benchmarks.results import RESULTS


def test_every_figure_of_the_page_comes_from_the_points():
    interval = {"value": 4.0, "low": 3.5, "high": 4.25}
    points = [
        {
            "arm": arm,
            "knob": knob,
            "file_bytes": 1000 * draw + knob,
            "bits_per_weight": 2.0,
            "gap_mbpb": draw,
            "divergence_mbpb": 2 * draw,
            "bits_above_bound": 0.1 * draw if arm == "H8" else None,
            "code_bits_above_bound": 0.05 * draw,
            "calibrate_seconds": 9.0,
            "quantize_seconds": 1.0 + draw,
            "encode_seconds": 0.5,
        }
        for arm in ("C", "H8")
        for knob in (8.0, 4.0)
        for draw in (1, 2)
    ]
    comparison = {
        "quantity": "gap",
        "reference": "C at 8",
        "file_bytes": 1508.0,
        "mbpb": 1.5,
        "H32_over": {"C": interval},
        "arms": {"C": {"mbpb": interval, "bytes_at_level": interval}, "H8": {"mbpb": None, "bytes_at_level": interval}},
    }
    page = result_page(
        "Title",
        "the command",
        {
            "float_bpb": 2.125,
            "targets": 1234,
            "documents": 7,
            "points": points,
            "comparisons": [comparison, {**comparison, "quantity": "divergence", "reference": "C at 4"}],
            "arms": {"C": {"title": "baseline"}, "H8": {"title": "ours"}},
        },
    )
    assert "| gap at the size of C at 8 | 4.000 [3.500, 4.250] | no overlap |" in page
    assert "| C | baseline | 8: 1,508, 2.00, 1.50, 3.00 | 4: 1,504, 2.00, 1.50, 3.00 |" in page
    assert page.count("| H8 | no overlap | 4 [4, 4] |") == 2
    assert "| arm | divergence at the 1,508 bytes of C at 4 | bytes at the divergence of C at 4 |" in page
    assert "| H8 | 8: 0.075, 0.150 | 4: 0.075, 0.150 |" in page
    assert "| C | 4.00 [3.50, 4.25] | 4 [4, 4] |" in page
    assert "| H8 | 9.0 | 2.5 | 0.5 |" in page
    assert page.startswith("# Title\n\nWritten by `the command`")


def test_plot_is_small(tmp_path):
    draw_plot(tmp_path / "rates.png", json.loads((RESULTS / "quantization.json").read_text())["measured"])
    assert 5_000 < (tmp_path / "rates.png").stat().st_size < 150_000


def test_pages_in_the_docs_are_those_of_the_results(repo):
    for name, page in (
        ("quantization", "quantization_tables"),
        ("quantization_looped_unet", "quantization_looped_unet_tables"),
    ):
        result, path = RESULTS / f"{name}.json", repo / "docs" / f"{page}.md"
        title, _, rest = path.read_text().partition("\n")
        command = rest.split("`")[1]
        assert path.read_text() == result_page(title[2:], command, json.loads(result.read_text())["measured"])
