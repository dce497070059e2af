"""Pictures: equal facts give equal bytes, texts stay texts, colours are the page's, bars are in proportion."""

import re
import xml.etree.ElementTree as ElementTree

import matplotlib
import numpy as np
import pytest

from pipeline.reports import charts
from pipeline.reports.comparison import Divergence
from pipeline.reports.markup import STYLE
from pipeline.reports.text_losses import PositionLoss

SEEDS = {"seed 1": ([1.0, 10.0, 20.0], [6.0, 4.0, 3.5]), "seed 2": ([1.0, 10.0, 20.0], [6.1, 4.2, 3.4])}
ROWS = [
    {"name": "up", "coded_bytes": 1000, "predicted_nats": 0.001, "sensitivity_nats": 1e-3},
    {"name": "down", "coded_bytes": 3000, "predicted_nats": 0.002, "sensitivity_nats": 1e-7},
]
POINTS = {"predicted": {"seed 1": ([900.0], [1.5])}, "gap": {"seed 2": ([950.0], [-0.5])}}
PICTURES = {
    "curves": lambda: charts.training_curves(SEEDS, {"val": ([20.0], [3.6])}, SEEDS, [(5, "all loops")]),
    "rate": lambda: charts.rate_distortion(SEEDS, POINTS, {"budget": 1000.0}),
    "bytes": lambda: charts.byte_map({"block 0": ROWS}),
    "blocks": lambda: charts.block_losses({"block 0": 0.001}, {"block 0": Divergence(0.002, 0.0001)}),
    "visits": lambda: charts.visit_errors(["block 0", "block 1"], {"seed 1": [0.1, 0.2]}),
    "positions": lambda: charts.position_losses("position", {"float": [PositionLoss(1, 1, 9, 4.0)]}),
    "documents": lambda: charts.document_histogram({"seed 1": np.array([1.0, 2.0, 2.5])}),
    "seconds": lambda: charts.stage_seconds({"seed 1": {"train": 5.0, "evaluate": 2.0}, "seed 2": {"train": 4.0}}),
}


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_is_a_plain_element_of_any_page_the_same_twice(name: str, monkeypatch):
    svg = PICTURES[name]()
    ElementTree.fromstring(svg)
    assert svg.startswith("<svg viewBox=")
    assert "http" not in svg
    assert "<text" in svg
    assert not re.findall(r"#[0-9a-f]{6}\b|font-family|(?<=[ ;])(?:fill|stroke): (?!none|var)\w+", svg)
    assert set(re.findall(r"var\((--\w+)\)", svg)) <= set(re.findall(r"(--\w+):", STYLE))
    ids = re.findall(r' id="([^"]+)"', svg)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:href="|url\()#([^")]+)', svg)) <= set(ids)
    monkeypatch.setitem(matplotlib.rcParams, "font.size", 20.0)  # a file of the user's
    assert PICTURES[name]() == svg


def test_labels_are_texts_whatever_they_hold():
    svg = charts.visit_errors(["a"], {"<b> & $x_2$ #0072b": [0.1]})
    words = [text.text for text in ElementTree.fromstring(svg).iter("text")]
    assert "<b> & $x_2$ #0072b" in words


def test_bars_are_as_long_as_bytes_and_as_strong_as_sensitivities():
    svg = charts.byte_map({"block 0": [*ROWS, {"name": "float16", "coded_bytes": 500}]})
    shapes = re.findall(r'<path d="M ([\d.]+) [\d.]+ \nL ([\d.]+)[^"]*"[^>]*style="fill: var\((--t\d)\)"', svg)
    lengths = [float(end) - float(start) for start, end, _ in shapes if end != start]
    assert lengths == pytest.approx([lengths[0], 3 * lengths[0], lengths[0] / 2], rel=1e-3)
    assert [tone for start, end, tone in shapes if end != start] == ["--t4", "--t0", "--t2"]


def test_without_sensitivities_only_bytes_are_drawn():
    svg = charts.byte_map({"block 0": [{**row, "predicted_nats": None, "sensitivity_nats": None} for row in ROWS]})
    assert "predicted" not in svg
    assert "var(--t0)" not in svg
    assert "var(--t2)" in svg


def test_the_name_of_a_limit_covers_no_marker_just_before_it():
    svg = charts.rate_distortion(
        {"seed 1": ([800.0, 1200.0], [6.0, 4.0])}, {"gap": {"seed 1": ([999.0], [6.0])}}, {"budget": 1000.0}
    )
    (baseline,) = re.findall(r'translate\(([\d.]+) [\d.]+\) rotate\(-90\)">budget', svg)  # the letters' right end
    (marker,) = re.findall(r'x="([\d.]+)"[^>]*stroke: var\(--s0\)', svg)
    letters, radius = 8, 3
    assert float(baseline) - letters > float(marker) + radius
