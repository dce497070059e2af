"""The picture of an artifact: well-formed, complete, in proportion, the same twice."""

import xml.etree.ElementTree as ElementTree

import pytest

from pipeline.reports.byte_map import draw_byte_map

NAMES = [
    "token_embedding.weight",
    "blocks.0.mlp.up.weight",
    "blocks.0.mlp.down.weight",
    "blocks.1.mlp.up.weight",
    "odd <&> name",
]
SVG = "{http://www.w3.org/2000/svg}"


def made_report(**changes):
    """Return the part of a report of the quantize stage that is drawn."""
    layers = [
        {
            "name": name,
            "shape": [8, 100 + 10 * number],
            "coded_bytes": 1000 * number + 7,
            "predicted_nats": 0.001 * number,
            "sensitivity_nats": 10.0**-number if number else 0.0,
        }
        for number, name in enumerate(NAMES)
    ]
    total = sum(layer["coded_bytes"] for layer in layers) + 300
    return {
        "layers": [{**layer, **changes} for layer in layers],
        "passthrough_bytes": 300,
        "artifact_bytes": total,
        "predicted_nats": changes.get("predicted_nats", 0.01),
        "totals": {"weights": 4800, "bits_per_weight": 8 * (total - 300) / 4800},
    }


def bars(svg: str, kind: str) -> dict[str, tuple[float, str]]:
    """Return width and colour of every bar of a kind, by the name in its title."""
    shapes = ElementTree.fromstring(svg).iter(f"{SVG}rect")
    found = [shape for shape in shapes if shape.get("class") == kind]
    return {shape[0].text.rpartition(":")[0]: (float(shape.get("width")), shape.get("fill")) for shape in found}


def test_every_tensor_has_a_bar_as_long_as_its_bytes():
    report = made_report()
    widths = {name: width for name, (width, _) in bars(draw_byte_map(report), "bytes").items()}
    sizes = {layer["name"]: layer["coded_bytes"] for layer in report["layers"]} | {"float16": 300}
    assert list(widths) == list(sizes)
    scale = max(widths.values()) / max(sizes.values())
    assert widths == pytest.approx({name: size * scale for name, size in sizes.items()}, abs=1e-3)
    losses = {name: width for name, (width, _) in bars(draw_byte_map(report), "loss").items()}
    assert list(losses) == NAMES
    longest = max(losses.values())
    assert losses == pytest.approx({name: longest * number / 4 for number, name in enumerate(NAMES)}, abs=1e-3)


def test_colours_follow_the_logarithm_of_the_sensitivity():
    tones = [tone for _, tone in bars(draw_byte_map(made_report()), "bytes").values()]
    reds = [int(tone[1:3], 16) for tone in tones[1:5]]
    assert reds == sorted(reds)  # the most sensitive is the darkest
    assert reds[1] - reds[0] == pytest.approx(reds[3] - reds[2], abs=1)
    assert tones[0] == tones[5] == "#b8b8b8"  # nothing depends on it; not quantized


def test_blocks_are_headed_by_their_shares_and_text_is_inside():
    svg = draw_byte_map(made_report())
    root = ElementTree.fromstring(svg)
    words = [text.text for text in root.iter(f"{SVG}text")]
    assert [words.count(group) for group in ("token_embedding", "blocks.0", "blocks.1")] == [1, 1, 1]
    assert f"{3014 / 10335:.1%} of the file" in words
    assert "30.0% of the loss" in words
    assert "mlp.up.weight" in words
    _, _, width, height = map(int, root.get("viewBox").split())
    assert all(0 <= int(text.get("x")) < width and 0 < int(text.get("y")) < height for text in root.iter(f"{SVG}text"))
    assert svg.isascii()


def test_without_sensitivities_only_bytes_are_drawn():
    svg = draw_byte_map(made_report(predicted_nats=None, sensitivity_nats=None))
    assert {tone for _, tone in bars(svg, "bytes").values()} == {"#b8b8b8"}
    assert bars(svg, "loss") == {}
    assert "predicted" not in svg


def test_equal_reports_give_equal_bytes():
    assert draw_byte_map(made_report()) == draw_byte_map(made_report())
