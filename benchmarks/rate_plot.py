"""The picture of `benchmarks.quantization`: gap over the float model against file bytes, one line per arm.

matplotlib comes with the extra `bench` and is imported only here, when something is drawn.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks.quantization_runs import Point

_DOTS_PER_INCH = 90


def plot_points(path: Path, points: Sequence[Point], titles: Mapping[str, str]) -> None:
    """Draw the mean over seeds of every arm's rate points, with bars from the least to the largest gap."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import FuncFormatter, LogLocator, MultipleLocator, NullFormatter

    figure, axes = plt.subplots(figsize=(8, 5.2), layout="constrained")
    markers = "osD^vPX<>*"
    for index, (arm, title) in enumerate(titles.items()):
        by_knob: dict[float, list[Point]] = {}
        for point in points:
            if point.arm == arm:
                by_knob.setdefault(point.knob, []).append(point)
        kilobytes = [np.mean([point.file_bytes for point in group]) / 1000 for group in by_knob.values()]
        gaps = [[point.gap_mbpb for point in group] for group in by_knob.values()]
        means = [np.mean(values) for values in gaps]
        spread = [[mean - min(values) for mean, values in zip(means, gaps, strict=True)],
                  [max(values) - mean for mean, values in zip(means, gaps, strict=True)]]  # fmt: skip
        axes.errorbar(kilobytes, means, spread, label=f"{arm}  {title}", marker=markers[index % len(markers)],
                      markersize=4, linewidth=1.3, capsize=2, color=f"C{index}")  # fmt: skip
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_locator(MultipleLocator(100))
    axes.set_xlabel("file, kB")
    axes.set_ylabel("gap over the float model, mBPB")
    axes.grid(alpha=0.3, which="major")
    axes.legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=_DOTS_PER_INCH, metadata={"Software": None}, pil_kwargs={"optimize": True})
    plt.close(figure)
