"""The table of `benchmarks.speed`."""

from benchmarks.contestant import STAGES
from benchmarks.figures import Figures, show, target_lines


def table(figures: Figures) -> str:
    """Format the figures."""
    lines = [
        f"{figures['machine']}; torch {figures['versions']['torch']}; {figures['data']},"
        f" {figures['variant']}; medians of {figures['rounds']} rounds (least to greatest)",
        "",
        f"{'training':42} {'images/s':>26} {'warming up':>11} {'ratio':>20} {'of the limit':>13}"
        f" {'memory':>9}",
    ]
    for c in figures["contestants"].values():
        lines.append(
            f"{c['what']:42} {show(c['images_per_second'], ',.0f'):>26}"
            f" {c['images_per_second_while_warming_up']:>11,.0f} {show(c['ratio'], '.2f'):>20}"
            f" {c['fraction_of_limit']:>13.0%} {c['peak_memory_mb']:>6,.0f} MB"
        )
    lines += ["", f"{'validation, in fp32':42} {'images/s':>26} {'ratio':>20} {'of the limit':>13}"]
    for c in figures["contestants"].values():
        lines.append(
            f"{c['what']:42} {show(c['validation_images_per_second'], ',.0f'):>26}"
            f" {show(c['validation_ratio'], '.2f'):>20} {c['validation_fraction_of_limit']:>13.0%}"
        )
    if figures["device"] == "cpu":
        lines += ["", f"{'share of a training pass':42} " + " ".join(f"{s:>12}" for s in STAGES)]
        for c in figures["contestants"].values():
            shares = " ".join(f"{c['stages'][stage]:>12.1%}" for stage in STAGES)
            lines.append(f"{c['what']:42} {shares}")
    rates = figures["matmul_gflop_per_second"]
    lines += [
        "",
        f"limit: {figures['mflop_per_image']:.1f} MFLOP an image"
        f" ({figures['mflop_per_validation_image']:.1f} in validation), and a matrix product at"
        f" {rates['fp32']:,.0f} GFLOP/s in fp32, {rates['bf16']:,.0f} in bf16",
    ]
    if figures["device"] == "cpu":
        lines.append(
            f"convolutions and matrix products are {figures['validation_products_share']:.0%} of"
            " validation; if nothing else took time its ratio would be"
            f" {figures['validation_ratio_of_products']:.1f}"
        )
    lines.append("")
    for name, value in figures["commands"].items():
        lines.append(
            f"{name:42} {value['seconds']:.0f} s, {value['ratio']:.1f} times the tutorial's loop,"
            f" {value['peak_memory_mb']:,.0f} MB at most"
        )
    for name, value in figures["seconds"].items():
        form = ".2%" if "share" in name else ".3f"
        lines.append(f"{name:42} {show(value, form):>26}")
    for name, value in figures.get("run", {}).items():
        lines.append(f"{name:42} {show(value, '.2f'):>26}")
    return "\n".join([*lines, "", *target_lines(figures["targets"])])
