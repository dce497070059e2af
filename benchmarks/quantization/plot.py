"""The picture of `benchmarks.quantization`: gap and divergence against file bytes, one line per arm.

matplotlib comes with the extra `bench` and is imported only here, when something is drawn.

Checked by: tests/benchmarks/test_quantization.py.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks.quantization.runs import Point

_DOTS_PER_INCH = 90
_MARKERS = "osD^vPX<>*"
_PANELS = {"gap_mbpb": "gap over the float model, mBPB", "divergence_mbpb": "divergence from the float model, mBPB"}
"""Field of a point -> what it is."""


def plot_points(path: Path, points: Sequence[Point], titles: Mapping[str, str]) -> None:
    """Draw the mean over seeds of every arm's rate points, with bars from the least to the largest."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import FuncFormatter, LogLocator, MultipleLocator, NullFormatter

    figure, panels = plt.subplots(1, 2, figsize=(11, 5), layout="constrained")
    for axes, field in zip(panels, _PANELS, strict=True):
        for index, (arm, title) in enumerate(titles.items()):
            groups = _by_knob(points, arm)
            kilobytes = [np.mean([point.file_bytes for point in group]) / 1000 for group in groups]
            levels = [[getattr(point, field) for point in group] for group in groups]
            means = [np.mean(values) for values in levels]
            spread = [
                [mean - min(values) for mean, values in zip(means, levels, strict=True)],
                [max(values) - mean for mean, values in zip(means, levels, strict=True)],
            ]
            axes.errorbar(
                kilobytes,
                means,
                spread,
                label=f"{arm}  {title}",
                marker=_MARKERS[index % len(_MARKERS)],
                markersize=4,
                linewidth=1.3,
                capsize=2,
                color=f"C{index}",
            )
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.xaxis.set_major_locator(MultipleLocator(200))
        axes.set_xlabel("file, kB")
        axes.set_ylabel(_PANELS[field])
        axes.grid(alpha=0.3, which="major")
    panels[-1].legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=_DOTS_PER_INCH, metadata={"Software": None}, pil_kwargs={"optimize": True})
    plt.close(figure)


def _by_knob(points: Sequence[Point], arm: str) -> list[list[Point]]:
    groups: dict[float, list[Point]] = {}
    for point in points:
        if point.arm == arm:
            groups.setdefault(point.knob, []).append(point)
    return list(groups.values())
