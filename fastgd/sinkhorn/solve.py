"""The public solvers: arguments and errors here; what runs next is decided in `schedule`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from .. import _threads
from .._arrays import is_on_device
from .._dispatch import Operand, find, runs
from . import arguments, device
from .arguments import Options, Problem
from .schedule import Second, drive
from .solution import Solution


@runs("sinkhorn.transport", "sinkhorn.semidual:float64")
def solve(cost: Any, a: Any = None, b: Any = None, *, reg: float, method: str = "auto", tol: float = 1e-9, max_iter: int = 10_000,
          init: Any = None, precision: str = "float64", marginal_penalty: Any = None,
          callback: Callable[[int, float], Any] | None = None, backend: str | None = None,
          num_threads: int | None = None) -> Solution:
    """Entropic optimal transport between two discrete measures.

    min over P >= 0 with P1 = a, P'1 = b of <C, P> + reg sum_ij P_ij (log P_ij - 1). The optimum is P_ij = exp((f_i + g_j - C_ij)
    / reg). Unbalanced, with `marginal_penalty`: marginals are free, and rho_a KL(P1 | a) + rho_b KL(P'1 | b) is added.

    Parameters
    ----------
    cost : (n, m) array
        float32 or float64, which are kept as they are, float16 or bfloat16, which become float32 (on the host). +inf forbids a
        pair. With a cost on a GPU, marginals and `init` may be there or on the host.
    a, b : (n,), (m,) arrays, optional
        Marginals, finite and at least 0, some above 0; uniform of sum 1 by default. Sums must agree to 1e-6; then b is scaled to
        a's sum. Rows and columns of mass 0 take no part: their potential is -inf.
    reg : float, above 0
        In units of the cost.
    method : {"auto", "sinkhorn", "newton", "sns"}
        "sinkhorn": over-relaxed sweeps. "newton": epsilon scaling, then the safeguarded sparse Newton method on the semi-dual.
        "sns": Sinkhorn-Newton-Sparse as published: 20 sweeps, then Newton with a fixed density. "auto": sweeps, and Newton as
        soon as the measured contraction and density promise that it costs less; back to sweeps where that turns out wrong.
    tol : float, at least 0
        On the L1 error |P1 - a|_1 + |P'1 - b|_1, absolute.
    max_iter : int, at least 0
        Sweeps plus Newton steps. 0 evaluates the start.
    init : (f, g) or Solution, optional
        Potentials in units of the cost to start from, finite where the marginal is positive.
    precision : {"float64", "float32"}
        Arithmetic of the sweeps. float32 reaches errors of about 1e-7 to 1e-5, the larger max C / reg the larger; its error is
        measured in float64 at the end.
    marginal_penalty : float or (float, float), optional
        rho or (rho_a, rho_b), above 0; inf fixes a marginal. The error is then the residual of the fixed-point equations f =
        tau (log a - log sum_j exp(g_j - K_ij)), tau = rho / (rho + reg), weighted by P's marginals. By sweeps alone.
    callback : function of (iteration, error), optional
        Called after every counted iteration; returning True stops. It makes each sweep a call of its own.
    backend : {"auto", "cpu", "cuda", "reference"}, optional
        Where to run; see `fastgd.use`.
    num_threads : int, optional
        Threads to use at most; see `fastgd.use`.

    Returns
    -------
    Solution
        See there for the potentials' constant shift, the status, the plan and gradients. An answer that is not within `tol` says
        so in its status.

    Raises
    ------
    ValueError, TypeError
        NaN or -inf among the costs, or a row or column whose least cost is beyond 2^52 reg; marginals that are negative, not
        finite, zero everywhere or of different sums; `reg` not above 0; shapes that do not fit; an option out of range.

    Notes
    -----
    Cost: a sweep reads the cost once and takes one exponential an entry; a Newton step takes two to four such passes, and
    products with the kept entries. Memory: O(n + m), up to 2^28 entries 4 n m bytes for a kept plan, with Newton also the kept
    entries.
    Deterministic: the same bits for every number of threads and instruction set; on a GPU the same on every run, and the CPU's
    to rounding. There method="sns" has no kernel, potentials and dense plans are arrays of the cost's library, a sparse plan is
    SciPy's on the host, and only what has n or m numbers is copied to the host, to decide with.

    References
    ----------
    Cuturi: Sinkhorn Distances (NIPS 2013). Thibault, Chizat, Dossal, Papadakis: Overrelaxed Sinkhorn-Knopp (2017).
    Tang, Shavlovsky, Rahmanian, Tardini, Thekumparampil, Xiao, Ying: Accelerating Sinkhorn Algorithms with Sparse Newton
    Iterations (ICLR 2024). Chizat, Peyre, Schmitzer, Vialard: Scaling Algorithms for Unbalanced Transport Problems (2018).

    Examples
    --------
    >>> import fastgd, numpy as np
    >>> solution = fastgd.sinkhorn.solve(np.array([[0.0, 1.0], [1.0, 0.0]]), reg=0.5)
    >>> solution.status, solution.plan()
    ('converged', array([[0.4404, 0.0596], [0.0596, 0.4404]]))
    """
    reg, penalty = arguments.regularisation(reg), arguments.penalties(marginal_penalty)
    options = arguments.options(method, tol, max_iter, precision, callback, penalty)
    data, operand, wrap = arguments.matrix(cost, "cost", 2)
    kernels = _kernels(operand, options, penalty, backend)
    a, b, init = device.on_host((a, b, init), operand)
    n, m = data.shape
    a, b = arguments.marginals(a, b, n, m, penalty is None)
    reach, masked = arguments.spread(data, "cost")
    problem = arguments.resolved(Problem(data, a, b, reg, penalty, reach, masked))
    return _solved(problem, options, arguments.start(init, a, b, reg), kernels, wrap, arguments.threads(num_threads, n, m))


@runs("sinkhorn.transport:float64", "sinkhorn.semidual:float64")
def solve_points(x: Any, y: Any, a: Any = None, b: Any = None, *, reg: float, metric: str = "sqeuclidean", scale: float = 1.0,
                 method: str = "auto", tol: float = 1e-9, max_iter: int = 10_000, init: Any = None, precision: str = "float64",
                 marginal_penalty: Any = None, callback: Callable[[int, float], Any] | None = None, backend: str | None = None,
                 num_threads: int | None = None) -> Solution:
    """Entropic optimal transport between two clouds of points: `solve` with a cost that is never stored.

    C_ij = scale |x_i - y_j|^2, or scale |x_i - y_j|.

    Parameters
    ----------
    x, y : (n, d), (m, d) arrays
        float32 or float64 (halves too; all become float64), finite.
    a, b : (n,), (m,) arrays, optional
        As for `solve`.
    reg : float, above 0
        In units of the cost.
    metric : {"sqeuclidean", "euclidean"}
        The cost's metric.
    scale : float, at least 0
        The cost's factor.
    method : {"auto", "sinkhorn", "newton", "sns"}
    tol : float
    max_iter : int
    init : (f, g) or Solution, optional
    precision : {"float64", "float32"}
    marginal_penalty : float or (float, float), optional
    callback : function of (iteration, error), optional
        As for `solve`.
    backend : {"auto", "cpu", "cuda", "reference"}, optional
        Where to run; see `fastgd.use`. The reference stores the cost.
    num_threads : int, optional
        Threads to use at most; see `fastgd.use`.

    Returns
    -------
    Solution
        As of `solve`; it keeps the points.

    Raises
    ------
    ValueError, TypeError
        As `solve`; points that are not finite, of different dimension, or so far apart that the cost overflows.

    Notes
    -----
    Cost: a sweep computes every C_ij once, 3 d operations beside the exponential. Memory: O((n + m) d), with Newton also the kept
    entries. Deterministic: the same bits for every number of threads and instruction set.

    References
    ----------
    Cuturi: Sinkhorn Distances (NIPS 2013); and those of `solve`.

    Examples
    --------
    >>> import fastgd, numpy as np
    >>> x = np.array([[0.0], [1.0]])
    >>> fastgd.sinkhorn.solve_points(x, x, reg=0.5).plan()
    array([[0.4404, 0.0596], [0.0596, 0.4404]])
    """
    reg, penalty = arguments.regularisation(reg), arguments.penalties(marginal_penalty)
    options = arguments.options(method, tol, max_iter, precision, callback, penalty)
    x, operand, wrap = arguments.cloud(x, "x")
    y, other, _ = arguments.cloud(y, "y")
    if operand.device != other.device:
        raise TypeError(f"x and y must be on one device, got {operand.device} and {other.device}: move one of them")
    kernels = _kernels(operand, options, penalty, backend)
    n, m = x.shape[0], y.shape[0]
    a, b, init = device.on_host((a, b, init), operand)
    a, b = arguments.marginals(a, b, n, m, penalty is None)
    points, reach = arguments.points(x, y, metric, scale)
    problem = Problem(points, a, b, reg, penalty, reach, False)
    return _solved(problem, options, arguments.start(init, a, b, reg), kernels, wrap, arguments.threads(num_threads, n, m))


@runs("sinkhorn.transport", "sinkhorn.semidual:float64")
def solve_batch(costs: Any, a: Any = None, b: Any = None, *, reg: float, method: str = "auto", tol: float = 1e-9,
                max_iter: int = 10_000, init: Any = None, precision: str = "float64", marginal_penalty: Any = None,
                backend: str | None = None, num_threads: int | None = None) -> list[Solution]:
    """Many transport problems of one shape, a thread for each: `solve` for every one of them, with the same bits.

    Parameters
    ----------
    costs : (B, n, m) array, or (1, n, m) for one cost with many marginals
        As for `solve`.
    a, b : (n,), (m,) or (B, n), (B, m) arrays, optional
        Marginals of all problems, or of each.
    reg : float, above 0
        In units of the cost.
    method : {"auto", "sinkhorn", "newton", "sns"}
    tol : float
    max_iter : int
        As for `solve`.
    init : sequence of B pairs (f, g) or Solutions, optional
        A start for each problem.
    precision : {"float64", "float32"}
    marginal_penalty : float or (float, float), optional
        As for `solve`.
    backend : {"auto", "cpu", "cuda", "reference"}, optional
        Where to run; see `fastgd.use`.
    num_threads : int, optional
        Threads to use at most; see `fastgd.use`.

    Returns
    -------
    list of B Solution
        In the order of the problems.

    Raises
    ------
    ValueError, TypeError
        As `solve`, and for leading sizes that are neither 1 nor B. Nothing has been solved then.

    Notes
    -----
    Cost: as `solve` for each. Deterministic: the same bits for every number of threads, and as `solve` for each alone. On a GPU
    ("auto" and "sinkhorn", float64, n <= 1024, no infinite cost) the first sweeps of all problems are one launch, a block each;
    only those that have not converged by then go on one after another, and the bits are those of `solve` to within `tol` only.

    References
    ----------
    Cuturi: Sinkhorn Distances (NIPS 2013); and those of `solve`.

    Examples
    --------
    >>> import fastgd, numpy as np
    >>> cost = np.array([[[0.0, 1.0], [1.0, 0.0]]])
    >>> [s.status for s in fastgd.sinkhorn.solve_batch(cost, np.array([[0.5, 0.5], [0.3, 0.7]]), reg=0.5)]
    ['converged', 'converged']
    """
    reg, penalty = arguments.regularisation(reg), arguments.penalties(marginal_penalty)
    options = arguments.options(method, tol, max_iter, precision, None, penalty)
    data, operand, wrap = arguments.matrix(costs, "costs", 3)
    kernels = _kernels(operand, options, penalty, backend)
    a, b, init = device.on_host((a, b, init), operand)
    problems = _problems(data, a, b, reg, penalty)
    starts: list[Any] = [None] * len(problems) if init is None else list(init)
    if len(starts) != len(problems):
        raise ValueError(f"init must hold a start for each of the {len(problems)} problems, got {len(starts)}")
    starts = [arguments.start(begin, problem.a, problem.b, reg) for begin, problem in zip(starts, problems, strict=True)]
    heads = _heads(data, problems, options, starts, operand)
    solutions: list[Any] = [None] * len(problems)
    tickets = iter(range(len(problems)))

    def task() -> None:
        for ticket in tickets:  # a range's iterator hands out each number once, whoever asks
            solutions[ticket] = _solved(problems[ticket], options, starts[ticket], kernels, wrap, 1, heads[ticket])

    entries = len(problems) * data.shape[1] * data.shape[2]
    workers = 1 if operand.device == "cuda" else arguments.threads(num_threads, entries, SWEEPS)
    _threads.run(task, threads=workers, chunks=len(problems))
    return solutions


#: Of one problem, at least.
SWEEPS = 16


class _Kernels(NamedTuple):
    """What the chosen backend offers for one call."""

    transport: Callable[..., Any]
    second: Second | None  # None: sweeps alone
    backend: str | None


def _kernels(operand: Operand, options: Options, penalty: Any, backend: str | None) -> _Kernels:
    sweeps_alone = penalty is not None or options.precision == "float32" or options.method == "sinkhorn"
    wide = Operand(operand.device, "float64")
    second = None
    if not sweeps_alone:
        sparse = find("sinkhorn.sns_solve", wide, backend) if options.method == "sns" else None
        second = Second(find("sinkhorn.semidual", wide, backend), sparse)
    return _Kernels(find("sinkhorn.transport", operand, backend), second, backend)


def _problems(data: np.ndarray, a: Any, b: Any, reg: float, penalty: Any) -> list[Problem]:
    """The checked problems of a batch."""
    _, n, m = data.shape
    a, b = arguments.marginal(a, "a", n, 2), arguments.marginal(b, "b", m, 2)
    rows = {name: len(side) for name, side in (("a", a), ("b", b)) if side.ndim == 2}
    size = data.shape[0] if data.shape[0] != 1 else max(rows.values(), default=1)
    for name, count in rows.items():
        if count not in (1, size):
            raise ValueError(f"{name} must have one row for each of the {size} problems, or be one vector, got {count} rows")
    a, b = np.broadcast_to(a, (size, n)), np.broadcast_to(b, (size, m))
    if is_on_device(data):
        spreads = [arguments.spread(data, "costs")] * data.shape[0]
    else:
        spreads = [arguments.spread(cost, f"costs[{i}]") for i, cost in enumerate(data)]
    problems = []
    for i in range(size):
        own = i if data.shape[0] > 1 else 0
        columns = np.ascontiguousarray(b[i]) if penalty is not None else arguments.balance(a[i], b[i])
        problems.append(arguments.resolved(Problem(data[own], np.ascontiguousarray(a[i]), columns, reg, penalty, *spreads[own])))
    return problems


def _heads(data: Any, problems: list[Problem], options: Options, starts: list[Any], operand: Operand) -> list[Any]:
    """On a GPU the first sweeps of all problems at once, where a block can do them; else None for each."""
    nothing: list[Any] = [None] * len(problems)
    if operand.device == "cpu" or not problems or options.max_iter == 0 or any(problem.masked for problem in problems):
        return nothing
    from .sweeps import cuda_batch

    if options.precision != "float64" or options.method in ("newton", "sns") or not cuda_batch.fits(data.shape):
        return nothing
    a, b = (np.stack([getattr(problem, side) for problem in problems]) for side in ("a", "b"))
    first = problems[0]
    return cuda_batch.begin(data, a, b, first.reg, first.tau(first.reg), starts, options.tol, options.max_iter)


def _solved(problem: Problem, options: Options, init: Any, kernels: _Kernels, wrap: Callable[[Any], Any], threads: int,
            head: Any = None) -> Solution:
    """One checked problem's Solution; `head`: the sweeps it has had already, and their potentials."""
    before: list[float] = [] if head is None else head.errors.tolist()
    if before and before[-1] <= options.tol:
        return Solution(problem, (head.f, head.g), wrap, kernels.backend, threads, status="converged", error=before[-1],
                        iterations={"sweeps": len(before), "newton": 0, "cg": 0}, method="sinkhorn", history=np.array(before))
    if before:
        init, options = (head.f, head.g), options._replace(max_iter=options.max_iter - len(before))
    problem, feasible = arguments.settle(problem)
    transport = kernels.transport(problem.cost, problem.a, problem.b, reg=problem.reg, precision=options.precision,
                                  tau=problem.tau(problem.reg), threads=threads)
    run = drive(transport, problem, options, init, kernels.second, feasible)
    run.iterations["sweeps"] += len(before)
    return Solution(problem, (transport.f.copy(), transport.g.copy()), wrap, kernels.backend, threads, status=run.status,
                    error=run.error, iterations=run.iterations, method=run.method, history=np.array(before + run.history))
