"""`fastgd demo transport`: colours of one photograph for another, and images of digits matched one to one.

Three problems on data that scikit-learn carries, each solved by every method of `fastgd.sinkhorn` to the same tolerance:

* colours: pixels drawn from the photograph of a pavilion, as many from that of a flower, the cost their squared distance in red,
  green and blue from 0 to 1. `solve` gets the costs as a matrix, `solve_points` the colours themselves.
* digits: two sets of images with every digit as often in one as in the other, the cost the squared distance of their pixels, the
  regularisation so small that the plan is nearly an assignment. Labels are used afterwards only, to see what was matched.

What the first one is good for: its potentials carry a whole picture over (see `pictures.py`), and the sheet of pictures has
both directions. The plan must use every colour of the other picture as often as that does: half of the pixels of one are bright,
most of them sky, and three quarters of the other's are dark, so part of the sky becomes dark. With `marginal_penalty` the
proportions are free, at a price, and colours go where they are near: the sheet's last column.

Errors and times over a run are those at which the solver calls back: after each sweep and each Newton step. While epsilon is
scaled down, in the first sweeps of "newton", the error is that of the larger regularisation. A method that has not converged
after `--limit` seconds is stopped, and said to be so.

References
----------
Cuturi: Sinkhorn Distances (NIPS 2013). Tang et al.: Accelerating Sinkhorn Algorithms with Sparse Newton Iterations (ICLR
2024), for "sns". Ferradans, Papadakis, Peyre, Aujol: Regularized Discrete Optimal Transport (2014), for colours under relaxed
marginals.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import fastgd
from fastgd import sinkhorn

from .command import Parser, add_outputs, check_file, check_installed, check_outputs, integer, number, progress, publish
from .pictures import Digits, digits, photographs, recolour, sample, squares
from .results import COLORS, DASHES, aligned
from .rules import Refusal
from .training import one_blas_thread

__all__ = ["main"]

METHODS = ("auto", "sinkhorn", "newton", "sns")
PROBLEMS = ("colours, solve", "colours, solve_points", "digits, solve")
FREE = "colours, proportions free"
TICKS = 100  # of the progress bar, a run


@dataclass(frozen=True)
class Settings:
    """What to solve, and how far."""

    pixels: int = 2000
    images: int = 870
    reg: float = 0.002
    digits_reg: float = 0.05
    penalty: float = 0.1
    tol: float = 1e-9
    limit: float = 5.0
    seed: int = 0


class Run(NamedTuple):
    """One solved problem: what came out, and the error at some times, in seconds since the start."""

    problem: str
    method: str
    solution: sinkhorn.Solution
    seconds: float
    times: list[float]
    errors: list[float]


class Matched(NamedTuple):
    """What the plan of the digits says: each image's likeliest partner, and how much of the mass stays within a digit."""

    data: Digits
    partner: np.ndarray
    mass: float
    cost: float
    exact_cost: float  # of the best assignment, a pair
    exact_right: float  # the part of its pairs that show one digit
    exact_seconds: float


# -------------------------------------------------------------------------------------------------------- solving


class Watch:
    """What a solver calls back: notes the error and the time, moves the bar, and stops at the limit."""

    def __init__(self, settings: Settings, tick: Callable[[int], Any]) -> None:
        self.times: list[float] = []
        self.errors: list[float] = []
        self._settings, self._tick, self._ticks = settings, tick, 0
        self._start = time.perf_counter()

    def __call__(self, iteration: int, error: float) -> bool:
        self.times.append(time.perf_counter() - self._start)
        self.errors.append(error)
        if 0.0 < error < 1.0:
            self._advance(int(TICKS * min(1.0, math.log(error) / math.log(self._settings.tol))))
        return self.times[-1] > self._settings.limit

    def end(self) -> float:
        """The bar is full; the seconds it took."""
        self._advance(TICKS)
        return time.perf_counter() - self._start

    def _advance(self, ticks: int) -> None:
        self._tick(max(0, ticks - self._ticks))
        self._ticks = max(ticks, self._ticks)


def solved(problem: str, method: str, solve: Callable[..., sinkhorn.Solution], settings: Settings, tick: Callable[[int], Any],
           **options: Any) -> Run:
    """A run of a solver on a problem whose data it already has."""
    watch = Watch(settings, tick)
    solution = solve(method=method, tol=settings.tol, callback=watch, **options)
    return Run(problem, method, solution, watch.end(), watch.times, watch.errors)


def matched(data: Digits, cost: np.ndarray, solution: sinkhorn.Solution) -> Matched:
    """The plan's matching beside the assignment of least cost."""
    from scipy.optimize import linear_sum_assignment

    n, start = len(cost), time.perf_counter()
    rows, columns = linear_sum_assignment(cost)
    seconds = time.perf_counter() - start
    mass = solution.apply(np.eye(10)[data.other_labels])[np.arange(n), data.labels].sum()
    return Matched(data, solution.plan().argmax(axis=1), float(mass), solution.cost, float(cost[rows, columns].mean()),
                   float((data.labels[rows] == data.other_labels[columns]).mean()), seconds)


# -------------------------------------------------------------------------------------------------------- results


def table(runs: list[Run], match: Matched, settings: Settings) -> str:
    """What each method took and reached."""
    rows = [["problem", "method", "ran", "seconds", "sweeps", "newton", "cg", "L1 error", "status"]]
    for run, before in zip(runs, [None, *runs], strict=False):
        name = "" if before is not None and before.problem == run.problem else run.problem
        count = run.solution.iterations
        rows.append([name, run.method, run.solution.method, f"{run.seconds:.2f}", *(f"{count[key]}" for key in count),
                     f"{run.solution.error:.1e}", run.solution.status])
    right = float((match.data.labels == match.data.other_labels[match.partner]).mean())
    n = len(match.partner)
    notes = [f"Digits: {match.mass:.1%} of the plan's mass joins images of the same digit, and {right:.1%} of the {n} likeliest",
             f"partners show it; {len(np.unique(match.partner))} images are somebody's partner. A pair costs {match.cost:.4f} in "
             f"the plan.",
             f"SciPy's assignment: {match.exact_right:.1%}, {match.exact_cost:.4f} a pair, in {match.exact_seconds:.2f} s."]
    head = (f"{settings.pixels} pixels of each photograph, regularisation {settings.reg:g}; {n} images a set, regularisation "
            f"{settings.digits_reg:g}; tolerance {settings.tol:g}")
    return "\n".join([head, "", *aligned(rows), "", *notes])


def report(runs: list[Run], match: Matched, settings: Settings, backend: str | None) -> dict[str, Any]:
    """All results, for machines."""
    return {
        "fastgd": fastgd.__version__,
        "settings": asdict(settings),
        "backend": backend or os.environ.get("FASTGD_BACKEND") or "auto",
        "digits": {"mass": match.mass, "cost": match.cost, "exact_cost": match.exact_cost, "exact_right": match.exact_right,
                   "partner": match.partner.tolist()},
        "results": [{"problem": run.problem, "method": run.method, "ran": run.solution.method, "seconds": run.seconds,
                     **run.solution.iterations, "error": run.solution.error, "status": run.solution.status,
                     "cost": run.solution.cost, "value": run.solution.value, "times": run.times, "errors": run.errors}
                    for run in runs],
    }


def draw(runs: list[Run], match: Matched, settings: Settings, path: Path) -> None:
    """Draw the errors over time, a panel a problem, and pairs of digits."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12.0, 6.6), layout="constrained")
    parts: Any = figure.subfigures(2, 1, height_ratios=(4.0, 1.0))
    top, bottom = parts
    grid = top.subplots(1, len(PROBLEMS), sharey=True)
    lines: dict[str, Any] = {}
    for axes, problem in zip(grid, PROBLEMS, strict=True):
        for run in [run for run in runs if run.problem == problem]:
            _curve(axes, run, lines)
        size = f"{settings.images} images" if problem == PROBLEMS[2] else f"{settings.pixels} pixels"
        axes.set_title(f"{problem}: {size} a side", fontsize=11)
        axes.set_yscale("log")
        axes.axhline(settings.tol, color="0.5", linewidth=0.8)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter("")
        axes.set_xlabel("seconds")
        axes.grid(color="0.9", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    grid[0].set_ylabel("L1 error of the marginals")
    top.legend(lines.values(), lines.keys(), loc="outside lower center", ncols=len(lines), frameon=False)
    figure.suptitle("Entropic optimal transport, the error of each method over time", fontsize=13)
    _pairs(bottom, match)
    figure.savefig(path, dpi=100)


def _curve(axes: Any, run: Run, lines: dict[str, Any]) -> None:
    """The errors of one run; a dot where it has converged, a cross where it was stopped."""
    place = METHODS.index(run.method)
    color, width, dashes = (("0.75", 5.0, "-"), (COLORS[0], 1.8, "-"), (COLORS[1], 1.8, "-"), (COLORS[2], 1.8, DASHES[1]))[place]
    (lines[run.method],) = axes.plot(run.times, run.errors, color=color, linewidth=width, linestyle=dashes)
    done = run.solution.status == "converged"
    axes.plot(run.times[-1:], run.errors[-1:], "o" if done else "x", color=color, markersize=5 if done else 8)


def _pairs(figure: Any, match: Matched) -> None:
    """Images above and their partners below: the first 22, then some whose digits differ."""
    wrong = np.flatnonzero(match.data.labels != match.data.other_labels[match.partner])
    shown = np.concatenate([np.arange(22), wrong[wrong >= 22][:4]])
    grid = figure.subplots(2, len(shown), gridspec_kw={"hspace": 0.0})
    for column, place in zip(grid.T, shown, strict=True):
        different = place in wrong
        for axes, image in zip(column, (match.data.images[place], match.data.others[match.partner[place]]), strict=True):
            axes.imshow(image.reshape(8, 8), cmap="gray_r", vmin=0.0, vmax=1.0)
            axes.set_xticks([])
            axes.set_yticks([])
            for spine in axes.spines.values():
                spine.set(color=COLORS[0] if different else "0.8", linewidth=2.5 if different else 0.6)
    figure.suptitle("images of the first set and below them their likeliest partners in the second, framed where digits differ "
                    f"({len(wrong)} of {len(match.partner)})", fontsize=11)


def sheet(rows: list[list[np.ndarray]], settings: Settings, path: Path) -> None:
    """Draw the photographs and what became of them, a row each."""
    from matplotlib.figure import Figure

    titles = ("photograph", "in the other's colours, as often as there", f"proportions free, penalty {settings.penalty:g}")
    figure = Figure(figsize=(13.0, 6.1), layout="constrained")
    for row, line in zip(figure.subplots(2, 3), rows, strict=True):
        for axes, picture, title in zip(row, line, titles, strict=True):
            axes.imshow(picture, interpolation="lanczos")
            axes.set_axis_off()
            if line is rows[0]:
                axes.set_title(title, fontsize=13)
    figure.savefig(path, dpi=150)


# --------------------------------------------------------------------------------------------------- command line


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demonstration. Returns 0, or 2 after one sentence on stderr saying why it cannot run."""
    try:
        args = _parser().parse_args(argv)
        check_outputs(args)
        check_file("--pictures", args.pictures, (".png", ".jpg"))
        check_installed(args, ("PIL", "pillow"))
        with fastgd.use(backend=args.backend):
            return _demonstrate(args)
    except (Refusal, OSError, fastgd.BackendError) as error:
        print(f"fastgd demo transport: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    default = Settings()
    parser = Parser(
        prog="fastgd demo transport", formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Give two photographs each other's colours and match images of digits by entropic optimal transport, and "
                    "show\nwhat each method takes for it.",
        epilog="methods: auto (measures, then chooses), sinkhorn (over-relaxed sweeps), newton (epsilon scaling, then a\n"
               "safeguarded sparse Newton method), sns (Sinkhorn-Newton-Sparse as published).\n")
    add = parser.add_argument
    add("--pixels", type=integer(10, 20_000), default=default.pixels, metavar="N",
        help="drawn from each photograph (default: %(default)s)")
    add("--images", type=integer(30, 870), default=default.images, metavar="N",
        help="of digits in each set (default: %(default)s)")
    add("--reg", type=number(1e-6, 1e6), default=default.reg, metavar="R",
        help="regularisation of colours, whose cost is at most 3 (default: %(default)s)")
    add("--digits-reg", type=number(1e-6, 1e6), default=default.digits_reg, metavar="R",
        help="regularisation of digits, whose cost is at most 64 (default: %(default)s)")
    add("--penalty", type=number(1e-6, 1e6), default=default.penalty, metavar="RHO",
        help="on the proportions of colours in the last column of pictures (default: %(default)s)")
    add("--tol", type=number(1e-15, 0.1), default=default.tol, metavar="TOL",
        help="L1 error of the marginals (default: %(default)s)")
    add("--limit", type=number(0.0, 1e6), default=default.limit, metavar="S",
        help="seconds after which a method is stopped (default: %(default)s)")
    add("--seed", type=integer(0, 2**31), default=default.seed, metavar="S",
        help="decides the pixels and the sets of images (default: %(default)s)")
    add("--backend", choices=("auto", "cpu", "reference"), default=None,
        help="which kernels solve (default: FASTGD_BACKEND, or auto)")
    add("--pictures", type=Path, default=Path("transport-colours.png"), metavar="FILE",
        help="where the photographs go, .png or .jpg, unless --no-plot (default: %(default)s)")
    add_outputs(parser, "transport.png")
    return parser


def _demonstrate(args: argparse.Namespace) -> int:
    start = time.perf_counter()
    settings = Settings(args.pixels, args.images, args.reg, args.digits_reg, args.penalty, args.tol, args.limit, args.seed)
    rng = np.random.default_rng(settings.seed)
    china, flower = photographs()
    x, y, data = sample(china, settings.pixels, rng), sample(flower, settings.pixels, rng), digits(settings.images, settings.seed)
    colours, shapes = squares(x, y), squares(data.images, data.others)
    problems: dict[str, Callable[..., sinkhorn.Solution]] = dict(zip(PROBLEMS, (
        lambda **options: sinkhorn.solve(colours, reg=settings.reg, **options),
        lambda **options: sinkhorn.solve_points(x, y, reg=settings.reg, **options),
        lambda **options: sinkhorn.solve(shapes, reg=settings.digits_reg, **options)), strict=True))
    runs = []
    with one_blas_thread(), progress(TICKS * (len(problems) * len(METHODS) + 1)) as bar:
        for problem, solve in problems.items():
            for method in METHODS:
                bar.set_description(f"{problem} / {method}")
                runs.append(solved(problem, method, solve, settings, bar.update))
        bar.set_description(FREE)
        runs.append(solved(FREE, "auto", problems[PROBLEMS[1]], settings, bar.update, marginal_penalty=settings.penalty))
        by_name = {(run.problem, run.method): run.solution for run in runs}
        match = matched(data, shapes, by_name[PROBLEMS[2], "auto"])
        if args.plot is not None:
            bar.set_description("pictures")
            held, free = by_name[PROBLEMS[1], "auto"], by_name[FREE, "auto"]
            rows = [[china, *(recolour(china, y, solution.g, settings.reg) for solution in (held, free))],
                    [flower, *(recolour(flower, x, solution.f, settings.reg) for solution in (held, free))]]
            sheet(rows, settings, args.pictures)
    text = f"{table(runs, match, settings)}\n{len(runs)} problems solved in {time.perf_counter() - start:.1f} s"
    publish(args, text + (f"; pictures in {args.pictures}" if args.plot is not None else ""),
            report(runs, match, settings, args.backend), lambda path: draw(runs, match, settings, path))
    return 0


if __name__ == "__main__":
    sys.exit(main())
