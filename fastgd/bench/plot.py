"""The picture of a run: how near each case is to the machine's limit, and how it compares with other libraries."""

from __future__ import annotations

from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, PercentFormatter

from .report import seconds, significant

#: Distinct in hue and in lightness (Okabe, Ito), each with a marker of its own, so that no two look alike in grey.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#8C6D31", "#555555", "#B2182B", "#A0A000")
MARKERS = "osD^vPXp<>"
_ROOF_COLOURS = {"read memory": "#4C78A8", "copy memory": "#72B7B2", "read cache": "#9ecae9", "copy cache": "#b5dfd9",
                 "flops": "#F2A65A", "lines": "#B279A2"}


def draw(record: dict[str, Any], path: str) -> None:
    """Draw the results of one JSON record as a PNG of two panels that share their rows.

    Left: the share of the measured limit, coloured by which limit binds. Right: time of each peer divided by fastgd's,
    on a logarithmic axis; right of 1 fastgd is faster.
    """
    lines = _rows(record)
    if not lines:
        raise ValueError("there is nothing to draw: no result has a time")
    names = list(dict.fromkeys(name for line in lines for name in line["peers"]))
    figure = Figure(figsize=(13.5, 1.9 + 0.36 * len(lines)), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(1.0, 1.25))
    _limits(left, lines)
    _ratios(right, lines, names)
    left.set_yticks(range(len(lines)), [_name(line) for line in lines])
    left.set_ylim(len(lines) - 0.4, -0.6)
    for axes in (left, right):
        axes.tick_params(axis="y", length=0)
        axes.spines[["top", "right"]].set_visible(False)
        for row in range(1, len(lines), 2):
            axes.axhspan(row - 0.5, row + 0.5, color="#f5f5f5", zorder=0)
    machine = record["machine"]
    figure.suptitle(f"fastgd {machine['fastgd']} on {machine.get('gpu') or machine['cpu']}, {machine['cores']} cores, "
                    f"{machine['isa']}, {machine['date'][:10]}", fontsize=12)
    figure.savefig(path)


def _rows(record: dict[str, Any]) -> list[dict[str, Any]]:
    """Timed lines; of several thread counts the largest."""
    chosen: dict[tuple[Any, ...], dict[str, Any]] = {}
    for line in record["results"]:
        key = line["room"], line["case"], line["backend"]
        if line["median_s"] and line["backend"] != "reference" and (
                key not in chosen or line["threads"] > chosen[key]["threads"]):
            chosen[key] = line
    return list(chosen.values()) or [line for line in record["results"] if line["median_s"]]


def _name(line: dict[str, Any]) -> str:
    """ "krum/16x1e6 (2 threads)" """
    count = line["threads"]
    where = f"{count} thread{'s' if count != 1 else ''}" if line["backend"] == "cpu" else line["backend"]
    return f"{line['case']}  ({where})"


def _limits(axes: Any, lines: list[dict[str, Any]]) -> None:
    """Bars of the share of the limit, with the time beside them."""
    shown = set()
    longest = max([1.0] + [line["of_limit"] for line in lines if line["of_limit"]])
    for row, line in enumerate(lines):
        share = line["of_limit"]
        if share:
            roof = line["roof"]
            axes.barh(row, share, height=0.62, color=_ROOF_COLOURS.get(roof, "#999999"), zorder=2,
                      label=None if roof in shown else f"limit: {roof}")
            shown.add(roof)
            text = f"{share:.0%}, {seconds(line['median_s'])}"
        elif line.get("overhead_s") is not None:
            text = f"{seconds(line['median_s'])}, of it {seconds(max(line['overhead_s'], 0.0))} around the kernel"
        else:
            text = seconds(line["median_s"])
        axes.text((share or 0.0) + 0.012 * longest, row, text, va="center", fontsize=8, zorder=3,
                  path_effects=[withStroke(linewidth=2.5, foreground="white")])
    axes.axvline(1.0, color="#333333", linewidth=1, zorder=1)
    axes.set_xlim(0, 1.32 * longest)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_xlabel("share of the measured limit")
    axes.set_title("How near to the machine's limit", fontsize=11)
    if shown:
        _legend(axes, "outside lower left", 4)


def _ratios(axes: Any, lines: list[dict[str, Any]], names: list[str]) -> None:
    """A mark per peer and case, the nearest one labelled with its value."""
    axes.set_xscale("log")
    axes.axvline(1.0, color="#333333", linewidth=1, zorder=1)
    axes.set_title("Times faster than other libraries", fontsize=11)
    axes.set_xlabel("time of the other library / time of fastgd, log scale")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{significant(value)}x"))
    if not names:
        axes.text(0.5, 0.5, "no other library was timed", transform=axes.transAxes, ha="center", color="#666666")
        axes.set_xlim(0.5, 20)
        return
    ratios = [(row, name, peer["ratio"]) for row, line in enumerate(lines) for name, peer in line["peers"].items()]
    for index, name in enumerate(names):
        # A little up or down: marks of equal ratio must not hide each other.
        shift = 0.44 * (index / max(len(names) - 1, 1) - 0.5)
        points = [(ratio, row + shift) for row, peer, ratio in ratios if peer == name]
        axes.scatter(*zip(*points, strict=True), s=34, color=COLOURS[index % len(COLOURS)], edgecolors="white",
                     linewidths=0.5, marker=MARKERS[index % len(MARKERS)], label=name, zorder=3)
    for row in range(len(lines)):
        own = [ratio for r, _, ratio in ratios if r == row]
        if own:
            axes.annotate(f"{significant(min(own))}x", (min(own), row), xytext=(-6, 0), textcoords="offset points",
                          ha="right", va="center", fontsize=8, zorder=4)
        else:
            axes.text(1.08, row, "no peer", va="center", fontsize=8, color="#888888")
    low, high = min(ratio for *_, ratio in ratios), max(ratio for *_, ratio in ratios)
    axes.set_xlim(min(low, 1.0) / 2.6, max(high, 2.0) * 1.6)
    axes.grid(axis="x", color="#e4e4e4", zorder=0)
    _legend(axes, "outside lower right", 7)


def _legend(axes: Any, place: str, columns: int) -> None:
    axes.figure.legend(*axes.get_legend_handles_labels(), loc=place, ncols=columns, fontsize=8, frameon=False)
