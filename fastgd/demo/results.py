"""What `fastgd demo byzantine` shows: verdicts, the table, the document for machines, the picture."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import fastgd

from .training import Run, Settings

HOLDS = 0.8  # a rule holds when it keeps this part of the accuracy that the honest workers reach alone

#: Colour (Okabe and Ito's palette, told apart without colour vision), dashes and width of each rule's line.
STYLES: dict[str, tuple[str, Any, float]] = {
    "mean": ("#D55E00", "-", 2.4),
    "krum": ("#0072B2", "-", 1.8),
    "multikrum": ("#009E73", (0, (6, 1.5)), 1.8),
    "median": ("#CC79A7", (0, (3, 1.5)), 1.8),
    "trimmed_mean": ("#000000", (0, (1, 1.2)), 1.8),
}


def verdict(run: Run, baseline: Run) -> str:
    """ "holds" when the rule keeps at least HOLDS of the accuracy of the honest workers alone, else "fails"."""
    return "holds" if run.diverged_at is None and run.accuracy[-1] >= HOLDS * baseline.accuracy[-1] else "fails"


def label(attack: str, options: dict[str, Any]) -> str:
    """An attack and its strength, for people: "ipm, epsilon 3"."""
    return ", ".join([attack, *(f"{key} {value:g}" for key, value in options.items() if value is not None)])


def table(runs: list[Run], baseline: Run, settings: Settings, options: dict[str, dict[str, Any]]) -> str:
    """The final accuracies as text, attacks down and rules across."""
    names = list(dict.fromkeys(run.rule for run in runs))
    cells = {}
    for run in runs:
        end = verdict(run, baseline) if run.diverged_at is None else "diverged"
        cells[run.attack, run.rule] = f"{run.accuracy[-1]:6.1%} {end}"
    rows = [["attack", *("numpy mean" if name == "mean" else name for name in names)]]
    rows += [[label(attack, options[attack]), *(cells[attack, name] for name in names)] for attack in options]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines.insert(1, "-" * (sum(widths) + 3 * (len(widths) - 1)))
    alone = baseline.accuracy[-1]
    head = (f"Test accuracy after {settings.steps} steps: {settings.workers} workers, {settings.byzantine} of them "
            f"attacking, seed {settings.seed}")
    notes = [f"The honest workers alone reach {alone:.1%}; a rule holds with at least {HOLDS:.0%} of that, "
             f"{HOLDS * alone:.1%}; diverged: the network became NaN.",
             "The plain mean is NumPy's: fastgd.robust.mean refuses NaN and Inf with a ValueError."]
    if settings.byzantine and {"sign_flip", "ipm"} & options.keys():
        factor = (settings.workers - settings.byzantine) / settings.byzantine
        notes.append("sign_flip and ipm turn the plain mean around when they are stronger than "
                     f"honest / attacking workers = {factor:.3g}.")
    return "\n".join([head, "", *lines, "", *notes])


def report(runs: list[Run], baseline: Run, settings: Settings, options: dict[str, dict[str, Any]],
           backend: str | None) -> dict[str, Any]:
    """All results, for machines."""
    return {
        "fastgd": fastgd.__version__,
        "settings": asdict(settings),
        "backend": backend or os.environ.get("FASTGD_BACKEND") or "auto",
        "honest_alone": {"steps": baseline.steps, "accuracy": baseline.accuracy},
        "holds_at": HOLDS * baseline.accuracy[-1],
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
    figure.legend(lines.values(), lines.keys(), loc="outside lower center", ncols=len(lines), frameon=False)
    figure.savefig(path, dpi=150)


def _panel(axes: Any, runs: list[Run], baseline: Run) -> dict[str, Any]:
    """The curves of one attack; returns the lines by their names in the legend."""
    axes.grid(color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    lines = {}
    (lines["honest workers alone"],) = axes.plot(baseline.steps, [100.0 * a for a in baseline.accuracy], color="0.8",
                                                 linewidth=5.0)
    for run in runs:
        color, dashes, width = STYLES[run.rule]
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
