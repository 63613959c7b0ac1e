"""The plot of `benchmarks.speed`."""

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from benchmarks.contestant import STAGES

COLOURS = (
    "#4477aa",
    "#66ccee",
    "#228833",
    "#ccbb44",
    "#bbbbbb",
)  # Paul Tol's, for the colour-blind


def draw(figures: dict[str, Any], path: Path) -> None:
    """Plot images per second, with their spread, and the time per image by stage."""
    contestants = list(figures["contestants"].values())
    names = [c["what"].replace(", bf16", ",\nbf16") for c in contestants]
    parts = 2 if figures["device"] == "cpu" else 1
    figure = Figure(figsize=(9, 2.6 * parts), layout="constrained")
    speed, *rest = figure.subplots(parts, 1, sharey=True, squeeze=False)[:, 0]
    rates = [c["images_per_second"] for c in contestants]
    middle = [rate["median"] for rate in rates]
    spread = [
        [rate["median"] - rate["min"] for rate in rates],
        [rate["max"] - rate["median"] for rate in rates],
    ]
    speed.barh(names, middle, xerr=spread, color="#4477aa", ecolor="#333333", capsize=3)
    for row, c in enumerate(contestants):
        text = f"{c['ratio']['median']:.1f}×" if row else "1×"
        speed.text(rates[row]["max"] + 0.01 * max(middle), row, text, va="center")
    speed.set_xlim(0, 1.12 * max(rate["max"] for rate in rates))
    speed.set_xlabel("training, images per second (line: least and greatest of the rounds)")
    speed.xaxis.set_major_formatter("{x:,.0f}")

    for stages in rest:  # none on a GPU
        left = [0.0] * len(contestants)
        for stage, colour in zip(STAGES, COLOURS, strict=True):
            width = [
                c["stages"][stage] * 1e6 / c["images_per_second"]["median"] for c in contestants
            ]
            stages.barh(names, width, left=left, label=stage, color=colour)
            left = [a + b for a, b in zip(left, width, strict=True)]
        stages.set_xlabel("microseconds per image")
        stages.legend(ncols=len(STAGES), loc="lower right", fontsize="small")
    speed.invert_yaxis()
    for axes in (speed, *rest):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)
