"""What `fastgd demo byzantine` shows: verdicts, the table, the document for machines, the picture."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import fastgd

from .training import Run, Settings

HOLDS = 0.8  # a rule holds when it keeps this part of the accuracy that the honest workers reach alone

#: Colours (Okabe and Ito's palette, told apart without colour vision) and dashes.
COLORS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#000000", "#56B4E9", "#E69F00")
DASHES: tuple[Any, ...] = ("-", (0, (6, 1.5)), (0, (3, 1.5)), (0, (1, 1.2)), (0, (6, 1.5, 1, 1.5)))

#: Colour, dashes and width of the lines of the rules shown by default.
STYLES: dict[str, tuple[str, Any, float]] = {
    "mean": (COLORS[0], "-", 2.4),
    "krum": (COLORS[1], "-", 1.8),
    "multikrum": (COLORS[2], DASHES[1], 1.8),
    "median": (COLORS[3], DASHES[2], 1.8),
    "trimmed_mean": (COLORS[4], DASHES[3], 1.8),
}

#: Colours and dashes of other rules' lines: every pair that is left, neighbours unlike (7 and 5 have no common factor).
_FREE = [pair for pair in ((COLORS[-1 - i % 7], DASHES[i % 5]) for i in range(35))
         if pair not in [style[:2] for style in STYLES.values()]]

WIDTH = 120  # characters in a line of the table


def style(rule: str, others: list[str]) -> tuple[str, Any, float]:
    """Colour, dashes and width of a rule's line; `others` are the rules in the picture that STYLES does not have."""
    return STYLES[rule] if rule in STYLES else (*_FREE[others.index(rule) % len(_FREE)], 1.5)


def verdict(run: Run, baseline: Run) -> str:
    """ "holds" when the rule keeps at least HOLDS of the accuracy of the honest workers alone, else "fails"."""
    return "holds" if run.diverged_at is None and run.accuracy[-1] >= HOLDS * baseline.accuracy[-1] else "fails"


def label(attack: str, options: dict[str, Any]) -> str:
    """An attack and its strength, for people: "ipm, epsilon 3"."""
    return ", ".join([attack, *(f"{key} {value:g}" for key, value in options.items() if value is not None)])


def table(runs: list[Run], baseline: Run, settings: Settings, options: dict[str, dict[str, Any]],
          left_out: Sequence[str] = ()) -> str:
    """The final accuracies as text: attacks down and rules across, or the other way round."""
    cells = {}
    for run in runs:
        end = verdict(run, baseline) if run.diverged_at is None else "diverged"
        cells[run.attack, run.rule] = f"{run.accuracy[-1]:6.1%} {end}"
    names = {name: "numpy mean" if name == "mean" else name for name in dict.fromkeys(run.rule for run in runs)}
    attacks = {attack: label(attack, options[attack]) for attack in options}
    if len(names) > len(attacks):  # the longer list goes down
        body = [["rule", *attacks.values()]]
        body += [[shown, *(cells[attack, name] for attack in attacks)] for name, shown in names.items()]
    else:
        body = [["attack", *names.values()]]
        body += [[shown, *(cells[attack, name] for name in names)] for attack, shown in attacks.items()]
    lines = aligned(body)
    alone = baseline.accuracy[-1]
    head = (f"Test accuracy after {settings.steps} steps: {settings.workers} workers, {settings.byzantine} of them "
            f"attacking, seed {settings.seed}")
    notes = [f"The honest workers alone reach {alone:.1%}; a rule holds with at least {HOLDS:.0%} of that, "
             f"{HOLDS * alone:.1%}; diverged: the network became NaN."]
    if "mean" in names:
        notes.append("The plain mean is NumPy's: fastgd.robust.mean refuses NaN and Inf with a ValueError.")
    if settings.byzantine and {"sign_flip", "ipm"} & options.keys() and "mean" in names:
        factor = (settings.workers - settings.byzantine) / settings.byzantine
        notes.append("sign_flip and ipm turn the plain mean around when they are stronger than "
                     f"honest / attacking workers = {factor:.3g}.")
    return "\n".join([head, "", *lines, "", *notes, *(f"Left out: {reason}." for reason in left_out)])


def aligned(rows: list[list[str]]) -> list[str]:
    """Rows of cells as lines, the first of them underlined; in several tables below each other where one is too wide."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines: list[str] = []
    first = 1
    while first < len(widths):
        last, total = first, widths[0]
        while last < len(widths) and (last == first or total + 3 + widths[last] <= WIDTH):
            total += 3 + widths[last]
            last += 1
        shown = [0, *range(first, last)]
        block = ["   ".join(row[k].ljust(widths[k]) for k in shown).rstrip() for row in rows]
        lines += [*([""] if lines else []), block[0], "-" * total, *block[1:]]
        first = last
    return lines


def report(runs: list[Run], baseline: Run, settings: Settings, options: dict[str, dict[str, Any]],
           backend: str | None, left_out: Sequence[str] = ()) -> dict[str, Any]:
    """All results, for machines."""
    return {
        "fastgd": fastgd.__version__,
        "settings": asdict(settings),
        "backend": backend or os.environ.get("FASTGD_BACKEND") or "auto",
        "honest_alone": {"steps": baseline.steps, "accuracy": baseline.accuracy},
        "holds_at": HOLDS * baseline.accuracy[-1],
        "left_out": list(left_out),
        "results": [{"attack": run.attack, "options": options[run.attack], "rule": run.rule, "final": run.accuracy[-1],
                     "verdict": verdict(run, baseline), "diverged_at": run.diverged_at, "steps": run.steps,
                     "accuracy": run.accuracy} for run in runs],
    }


def draw(runs: list[Run], baseline: Run, settings: Settings, options: dict[str, dict[str, Any]], path: Path) -> None:
    """Draw test accuracy over the steps into the file `path`: one panel per attack, one line per rule."""
    from matplotlib.figure import Figure

    columns = min(len(options), 3)
    rows = -(-len(options) // columns)
    figure = Figure(figsize=(max(3.6 * columns + 0.8, 8.0), 2.9 * rows + 1.0), layout="constrained")
    grid = figure.subplots(rows, columns, sharey=True, squeeze=False)
    for axes in grid.flat[len(options) :]:
        axes.remove()
    for axes, attack in zip(grid.flat, options, strict=False):
        lines = _panel(axes, [run for run in runs if run.attack == attack], baseline)
        axes.set_title(label(attack, options[attack]), fontsize=11)
        axes.set_xlabel("step")
        axes.set_xlim(0, settings.steps)
        axes.set_ylim(0.0, 100.0)
    for axes in grid[:, 0]:
        axes.set_ylabel("test accuracy, %")
    figure.suptitle(f"Training while {settings.byzantine} of {settings.workers} workers attack", fontsize=13)
    width = figure.get_figwidth()  # in inches: a usual entry of the legend takes 1.75, the longest 2.1
    across = len(lines) if 1.75 * len(lines) <= width else int(width // 2.1)
    figure.legend(lines.values(), lines.keys(), loc="outside lower center", ncols=across, frameon=False)
    figure.savefig(path, dpi=150)


def _panel(axes: Any, runs: list[Run], baseline: Run) -> dict[str, Any]:
    """The curves of one attack; returns the lines by their names in the legend."""
    axes.grid(color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    lines = {}
    others = [run.rule for run in runs if run.rule not in STYLES]
    (lines["honest workers alone"],) = axes.plot(baseline.steps, [100.0 * a for a in baseline.accuracy], color="0.8",
                                                 linewidth=5.0)
    for run in runs:
        color, dashes, width = style(run.rule, others)
        percent = [100.0 * a for a in run.accuracy]
        name = "NumPy mean" if run.rule == "mean" else run.rule
        (lines[name],) = axes.plot(run.steps, percent, color=color, linestyle=dashes, linewidth=width)
        if run.diverged_at is not None:
            point = run.diverged_at, percent[run.steps.index(run.diverged_at)]
            axes.plot(*point, "x", color=color, markersize=9, markeredgewidth=2.4, clip_on=False)
            early = 2 * run.diverged_at < run.steps[-1]
            axes.annotate("network is NaN", point, (16 if early else -10, 7), textcoords="offset points", color=color,
                          fontsize=9, horizontalalignment="left" if early else "right")
    return lines
