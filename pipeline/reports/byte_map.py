"""A picture of an artifact: where its bytes are and where its loss is, one row per tensor, as SVG.

The one idea: two bars beside each other. The left one is as long as the tensor's bytes, the darker the more an error of
a given share of its weights costs; the right one is as long as the loss its codes are predicted to cost. A dark tensor
deserves its bits; one with much loss and few bytes is too coarse, one with many bytes and no loss is too fine.

Text, plain shapes and no scripts: any browser shows it, and equal reports give equal bytes.

Checked by: tests/stages/test_byte_map.py.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any
from xml.sax.saxutils import escape

_WIDTH, _ROW, _TOP = 1000, 16, 78
_NAME, _SHAPE, _BITS, _BARS, _LOSSES = 12, 262, 306, 318, 778
_BAR_WIDTH, _LOSS_WIDTH = 330, 150
_PALE, _DARK, _GREY, _LOSS = (206, 224, 240), (8, 40, 100), "#b8b8b8", "#c8553d"


def draw_byte_map(report: Mapping[str, Any]) -> str:
    """Return the SVG of a report of the quantize stage; colours and losses are left out without sensitivities."""
    layers = report["layers"]
    total, loss = report["artifact_bytes"], report["predicted_nats"]
    tones = _tones(layers)
    scale = _BAR_WIDTH / max(layer["coded_bytes"] for layer in layers)
    loss_scale = _LOSS_WIDTH / max([layer["predicted_nats"] or 0.0 for layer in layers] + [1e-30])
    shapes, y = _head(report), _TOP
    for group, members in itertools.groupby(layers, lambda layer: _group(layer["name"])):
        rows = list(members)
        part = sum(row["predicted_nats"] for row in rows) / loss if loss else None
        shapes += _group_row(y, group, sum(row["coded_bytes"] for row in rows) / total, part)
        y += _ROW
        for row in rows:
            shapes += _tensor_row(y, row, row["name"].removeprefix(f"{group}."), tones[row["name"]], scale)
            if loss:
                shapes += _loss_cell(y, row["name"], row["predicted_nats"], loss, loss_scale)
            y += _ROW
    num_bytes = report["passthrough_bytes"]
    shapes += _group_row(y, "float16, not quantized", num_bytes / total, None)
    shapes += _bar(y + _ROW, "float16", num_bytes, scale, _GREY)
    return _document(y + 2 * _ROW + 4, shapes)


def _group(name: str) -> str:
    """Return the block that a tensor belongs to, or the module at the top."""
    parts = name.split(".")
    return ".".join(parts[: 2 if parts[0] == "blocks" else 1])


def _tones(layers: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return the colour of each tensor: from pale to dark along the logarithm of its sensitivity."""
    logs = {layer["name"]: math.log(layer["sensitivity_nats"]) for layer in layers if _has_tone(layer)}
    low, high = min(logs.values(), default=0.0), max(logs.values(), default=0.0)
    shares = {name: (log - low) / (high - low) if high > low else 0.5 for name, log in logs.items()}
    return {layer["name"]: _tone(shares[layer["name"]]) if layer["name"] in shares else _GREY for layer in layers}


def _has_tone(layer: Mapping[str, Any]) -> bool:
    """Return whether a sensitivity has a logarithm: summed over visits, an estimate may be zero or below."""
    return (layer["sensitivity_nats"] or 0.0) > 0


def _tone(share: float) -> str:
    mixed = [round(pale + share * (dark - pale)) for pale, dark in zip(_PALE, _DARK, strict=True)]
    return "#" + "".join(f"{value:02x}" for value in mixed)


def _head(report: Mapping[str, Any]) -> list[str]:
    weights, loss = report["totals"]["weights"], report["predicted_nats"]
    bits = report["totals"]["bits_per_weight"]
    line = f"{report['artifact_bytes']:,} bytes; {weights:,} weights at {bits:.3f} bits per weight" + (
        f"; predicted loss {loss:.3g} nats per token" if loss is not None else ""
    )
    labels = ((_NAME, "tensor", ""), (_SHAPE, "shape", _END), (_BITS, "bits", _END), (_BARS, "bytes", ""))
    head = [_text(_NAME, 22, "Byte map", 'class="title"'), _text(_NAME, 40, line)]
    head += [_text(x, 66, label, f'class="label"{end}') for x, label, end in labels]
    if loss is None:
        return head
    found = [layer["sensitivity_nats"] for layer in report["layers"] if _has_tone(layer)]
    least, most = min(found, default=0.0), max(found, default=0.0)
    scale = [
        f'<rect x="{_BARS + 256 + 8 * k}" y="56" width="8" height="10" fill="{_tone(k / 11)}"/>' for k in range(12)
    ]
    return [
        *head,
        _text(_BARS + 250, 66, f"sensitivity, nats per weight: {least:.0e}", _END),
        *scale,
        _text(_BARS + 358, 66, f"{most:.0e}"),
        _text(_LOSSES, 66, "predicted loss", 'class="label"'),
    ]


_END = ' text-anchor="end"'


def _group_row(y: int, name: str, byte_share: float, loss_share: float | None) -> list[str]:
    row = [
        f'<rect x="0" y="{y}" width="{_WIDTH}" height="{_ROW}" fill="#f0f0ee"/>',
        _text(_NAME, y + 12, name, 'class="label"'),
        _text(_BARS, y + 12, f"{byte_share:.1%} of the file", 'class="label"'),
    ]
    if loss_share is not None:
        row.append(_text(_LOSSES, y + 12, f"{loss_share:.1%} of the loss", 'class="label"'))
    return row


def _tensor_row(y: int, row: Mapping[str, Any], name: str, tone: str, scale: float) -> list[str]:
    shape, num_bytes = " x ".join(map(str, row["shape"])), row["coded_bytes"]
    return [
        _text(_NAME + 10, y + 12, name),
        _text(_SHAPE, y + 12, shape, _END),
        _text(_BITS, y + 12, f"{8 * num_bytes / math.prod(row['shape']):.2f}", _END),
        *_bar(y, row["name"], num_bytes, scale, tone),
    ]


def _bar(y: int, name: str, num_bytes: int, scale: float, fill: str) -> list[str]:
    width = num_bytes * scale
    return [
        f'<rect class="bytes" x="{_BARS}" y="{y + 2}" width="{width:.3f}" height="12" fill="{fill}">'
        f"<title>{escape(name)}: {num_bytes:,} bytes</title></rect>",
        _text(round(_BARS + width) + 5, y + 12, f"{num_bytes:,}"),
    ]


def _loss_cell(y: int, name: str, nats: float, total: float, scale: float) -> list[str]:
    width = nats * scale
    return [
        f'<rect class="loss" x="{_LOSSES}" y="{y + 2}" width="{width:.3f}" height="12" fill="{_LOSS}">'
        f"<title>{escape(name)}: {nats:.3g} nats per token</title></rect>",
        _text(round(_LOSSES + width) + 5, y + 12, f"{nats / total:.1%}"),
    ]


def _text(x: int, y: int, text: str, attributes: str = "") -> str:
    return f'<text x="{x}" y="{y}" {attributes.strip()}>{escape(text)}</text>'.replace(" >", ">")


def _document(height: int, shapes: Sequence[str]) -> str:
    style = "text{font:11px sans-serif;fill:#222} .title{font-size:16px;font-weight:bold} .label{font-weight:bold}"
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
            f'width="{_WIDTH}" height="{height}">',
            f"<style>{style}</style>",
            f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>',
            *shapes,
            "</svg>",
            "",
        ]
    )
