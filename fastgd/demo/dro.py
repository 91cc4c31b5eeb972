"""`fastgd demo dro`: plain stochastic gradient descent against robust descent, whose draws follow the losses.

Three problems on data that scikit-learn carries, each with a linear model (softmax regression, logistic for two classes):
breast cancer (569 cases) seen through 5 principal components, handwritten digits through 8, and the digits with all their
pixels, but with nineteen of twenty 8s missing from the training set and none from the test set. Every method takes the same
number of steps of the same batch size from the same start:

* SGD: draws uniform.
* DRO, chi-squared and KL: draws and updates of `fastgd.dro.DROSampler`; nothing else is different.
* group DRO: draws uniform within a digit that is drawn with `fastgd.dro.group_weights`. It is told the digit of each image.

What was chosen, and why. The first two models are small so that they cannot please everybody: where a model fits all examples,
the mean and the worst case have the same solution, and what is left to compare is noise. Thirty per cent of the data are held
out, others for every seed; all numbers but times are means over the seeds. Each method has a step size of its own for each
problem, the best of 0.003, 0.01, .. 3 by the loss of the worst tenth of the examples held out, on the splits of the seeds 101,
102, .. 105: so plain SGD, too, has the step size that is best for the tail. `--tune` searches again. Radius, floor and the
sampler's step size are the same for all problems. Nothing is regularised. Every loop computes the losses of its batch. The
time of a step is that of the fastest twenty-fifth of a training, over all seeds.

References
----------
Namkoong, Duchi: Stochastic Gradient Methods for Distributionally Robust Optimization with f-divergences (NIPS 2016).
Sagawa, Koh, Hashimoto, Liang: Distributionally Robust Neural Networks for Group Shifts (ICLR 2020), for group DRO.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import fastgd

from .command import Parser, add_outputs, check_installed, check_outputs, integer, progress, publish
from .results import COLORS, DASHES, aligned
from .rules import Refusal
from .tails import GRID, METHODS, PROBLEMS, RARE, TUNING_SEEDS, Method, Run, Settings, data, train, tuned
from .training import one_blas_thread

__all__ = ["main"]


class Outcome(NamedTuple):
    """A method on a problem: its step size and one run a seed."""

    problem: str
    method: Method
    rate: float
    runs: list[Run]

    def mean(self, name: str) -> float:
        """The mean of a field of the runs; of `tail` the last value."""
        values = [getattr(run, name) for run in self.runs]
        return float(np.mean([value[-1] if isinstance(value, list) else value for value in values]))

    @property
    def seconds(self) -> float:
        """A step, in the fastest stretch of all runs."""
        return min(run.seconds for run in self.runs)


# -------------------------------------------------------------------------------------------------------- results


def table(outcomes: list[Outcome], settings: Settings, searched: bool = False) -> str:
    """What each method reached, and what a step of it takes."""
    rows = [["problem", "method", "rate", "mean loss", "worst 10 %", "x SGD", "training", "worst class", "a step",
             "x SGD"]]
    for one in outcomes:
        plain = next(other for other in outcomes if other.problem == one.problem)  # SGD comes first
        name = one.problem if one is plain else ""
        rows.append([name, one.method.name, f"{one.rate:g}", f"{one.mean('mean'):.3f}", f"{one.mean('tail'):.3f}",
                     f"{one.mean('tail') / plain.mean('tail'):.2f}", f"{one.mean('train_tail'):.3f}",
                     f"{one.mean('worst'):.1%}", f"{one.seconds * 1e6:.0f} µs", f"{one.seconds / plain.seconds:.2f}"])
    head = (f"{settings.steps} steps on batches of {settings.batch}, means over {settings.seeds} splits; "
            f"radius {settings.radius:g}, floor {settings.floor:g}")
    notes = ["mean loss, worst 10 %: of the examples held out, the mean of all and of the tenth with the largest losses;",
             "training: the latter of the training examples. worst class: accuracy held out, in the class where it is least.",
             "Breast cancer is seen through 5 principal components, digits through 8, the last problem through all pixels.",
             "Each rate (step size) is the best of 0.003, 0.01, .. 3 for the worst 10 %, SGD's too, found on other splits"
             + (" under these settings." if searched else ".")]
    return "\n".join([head, "", *aligned(rows), "", *notes])


def report(outcomes: list[Outcome], settings: Settings, backend: str | None) -> dict[str, Any]:
    """All results, for machines; lists have a number a seed."""
    return {
        "fastgd": fastgd.__version__,
        "settings": asdict(settings),
        "backend": backend or os.environ.get("FASTGD_BACKEND") or "auto",
        "results": [{"problem": one.problem, "method": one.method.name, "rate": one.rate, "steps": one.runs[0].steps,
                     "tail": [run.tail for run in one.runs], "mean": [run.mean for run in one.runs],
                     "train_tail": [run.train_tail for run in one.runs], "worst_class": [run.worst for run in one.runs],
                     "seconds_a_step": one.seconds} for one in outcomes],
    }


def draw(outcomes: list[Outcome], settings: Settings, path: Path) -> None:
    """Draw the worst tenth's loss over the steps, a panel a problem, and accuracy on the rare digit's problem."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.0, 7.0), layout="constrained")
    grid = figure.subplots(2, 2)
    names = list(dict.fromkeys(one.method.name for one in outcomes))
    styles = dict(zip(names, zip(("0.35", *COLORS), ("-", "-", DASHES[1], DASHES[3]), strict=False), strict=False))
    lines: dict[str, Any] = {}
    for axes, problem in zip(grid.flat, PROBLEMS, strict=False):
        own = [one for one in outcomes if one.problem == problem]
        highest = 0.0  # once the first tenth of the steps is over
        for one in own:
            color, dashes = styles[one.method.name]
            curve = np.mean([run.tail for run in one.runs], axis=0)
            (lines[one.method.name],) = axes.plot(one.runs[0].steps, curve, color=color, linestyle=dashes, linewidth=2.0)
            highest = max(highest, curve[len(curve) // 10 :].max())
        axes.set_ylim(0.0, 1.1 * highest)
        for row, one in enumerate(own):
            axes.text(0.97, 0.07 * (len(own) - row) - 0.03, f"{one.method.name} ends at {one.mean('tail'):.2f}", ha="right",
                      transform=axes.transAxes, color=styles[one.method.name][0], fontsize=9)
        axes.set_title(problem if problem != PROBLEMS[2] else f"digits, one in twenty {RARE}s in the training set", fontsize=11)
        axes.set_xlabel("step")
        axes.set_ylabel("loss of the worst tenth held out")
        axes.set_xlim(0, settings.steps)
        axes.grid(color="0.9", linewidth=0.8)
        axes.set_axisbelow(True)
    _bars(grid[1, 1], [one for one in outcomes if one.problem == PROBLEMS[2]], styles)
    for axes in grid.flat:
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(lines.values(), lines.keys(), loc="outside lower center", ncols=len(lines), frameon=False)
    figure.suptitle(f"Plain and robust descent, batches of {settings.batch}, means over {settings.seeds} splits", fontsize=13)
    figure.savefig(path, dpi=100)


def _bars(axes: Any, own: list[Outcome], styles: dict[str, Any]) -> None:
    """Accuracy in the worst class, with the time of a step beside it; SGD comes first."""
    for row, one in enumerate(own):
        share, cost = one.mean("worst"), one.seconds / own[0].seconds
        axes.barh(row, 100.0 * share, height=0.6, color=styles[one.method.name][0])
        text = f"{share:.0%}, {one.seconds * 1e6:.0f} µs a step" + (f" ({cost:.2f} x SGD's)" if row else "")
        axes.text(100.0 * share + 1.5, row, text, va="center", fontsize=9)
    axes.set_yticks(range(len(own)), [one.method.name for one in own])
    axes.invert_yaxis()
    axes.set_xlim(0.0, 150.0)
    axes.set_xticks(range(0, 101, 20))
    axes.set_xlabel("accuracy held out, %, of the digit that is recognised least")
    axes.set_title("the same, at the end", fontsize=11)


# --------------------------------------------------------------------------------------------------- command line


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demonstration. Returns 0, or 2 after one sentence on stderr saying why it cannot run."""
    try:
        args = _parser().parse_args(argv)
        check_outputs(args)
        check_installed(args)
        with fastgd.use(backend=args.backend):
            return _demonstrate(args)
    except (Refusal, OSError, fastgd.BackendError) as error:
        print(f"fastgd demo dro: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    default = Settings()
    parser = Parser(
        prog="fastgd demo dro", formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Train linear models on real data with draws that are uniform and with draws that follow the losses, and "
                    "show\nwhat the worst-off examples gain by it and what a step costs.",
        epilog="methods: SGD (uniform), DRO chi-squared and DRO KL (fastgd.dro.DROSampler), group DRO\n"
               "(fastgd.dro.group_weights; only where one of ten digits is rare in the training set).\n")
    add = parser.add_argument
    add("--steps", type=integer(1, 100_000), default=default.steps, metavar="T", help="(default: %(default)s)")
    add("--batch", type=integer(1, 10_000), default=default.batch, metavar="B",
        help="examples of a step (default: %(default)s)")
    add("--seeds", type=integer(1, 100), default=default.seeds, metavar="K",
        help="splits into training and held-out examples, seeds 0 to K - 1 (default: %(default)s)")
    add("--tune", action="store_true",
        help=f"search each step size again under these settings, on splits of the seeds {', '.join(map(str, TUNING_SEEDS))}: "
             "eight times as long")
    add("--backend", choices=("auto", "cpu", "reference"), default=None,
        help="which kernels draw and project (default: FASTGD_BACKEND, or auto)")
    add_outputs(parser, "dro.png")
    return parser


def _demonstrate(args: argparse.Namespace) -> int:
    start = time.perf_counter()
    settings = Settings(args.steps, args.batch, args.seeds)
    pairs = [(problem, method, method.rates[problem]) for problem in PROBLEMS for method in METHODS if problem in method.rates]
    outcomes = []
    trials = len(GRID) * len(TUNING_SEEDS) if args.tune else 0
    with one_blas_thread(), progress(settings.steps * len(pairs) * (settings.seeds + trials)) as bar:
        for problem, method, rate in pairs:
            if args.tune:
                bar.set_description(f"tuning {problem} / {method.name}")
                rate = tuned(problem, method, settings, bar.update)
            outcomes.append(Outcome(problem, method, rate, []))
        for seed in range(settings.seeds):  # methods take turns, so that a busy moment hits all of them
            splits = {problem: data(problem, seed) for problem in PROBLEMS}
            for one in outcomes:
                bar.set_description(f"{one.problem} / {one.method.name}")
                one.runs.append(train(one.method, one.rate, splits[one.problem], settings, seed, bar.update))
    trainings = f"{len(pairs) * (settings.seeds + trials)} trainings in {time.perf_counter() - start:.1f} s"
    publish(args, f"{table(outcomes, settings, args.tune)}\n{trainings}", report(outcomes, settings, args.backend),
            lambda path: draw(outcomes, settings, path))
    return 0


if __name__ == "__main__":
    sys.exit(main())
