"""Answers to compare `fastgd.sinkhorn` with, from the formulas alone: slow, plain, sharing no code with the package.

What a solution claims is evaluated in long double; answers come from log-domain iterations, a dense damped Newton method, linear
programs, roots of one equation and closed forms. Potentials are in cost units, P = exp((f_i + g_j - C_ij) / reg).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import dro_oracle
import numpy as np
from scipy import optimize, sparse, stats

Long = np.longdouble
inf = math.inf
Pair = tuple[np.ndarray, np.ndarray]


# ----------------------------------------------------------------------------------------------------- evaluation


def uniform(n: int) -> np.ndarray:
    return np.full(n, 1.0 / n)


def plan(cost: Any, f: Any, g: Any, reg: float) -> np.ndarray:
    """exp((f_i + g_j - C_ij) / reg); 0 where a potential is -inf or the cost +inf. Long double."""
    cost, f, g = (np.asarray(x, Long) for x in (cost, f, g))
    return np.exp((f[:, None] + g - cost) / Long(reg))


def l1(p: Any, a: Any, b: Any) -> float:
    """||P1 - a||_1 + ||P'1 - b||_1, b scaled to a's sum."""
    p, a, b = (np.asarray(x, Long) for x in (p, a, b))
    if b.sum() != a.sum():
        b = b * (a.sum() / b.sum())
    return float(np.abs(p.sum(1) - a).sum() + np.abs(p.sum(0) - b).sum())


def inner(cost: Any, p: Any) -> float:
    """<C, P> with inf * 0 = 0."""
    cost, p = np.asarray(cost, Long), np.asarray(p, Long)
    return float((np.where(p > 0, cost, 0) * p).sum())


def entropy(p: Any) -> float:
    """sum P (log P - 1)."""
    p = np.asarray(p, Long)
    return float((p * (np.log(np.where(p > 0, p, 1)) - 1)).sum())


def divergence(p: Any, a: Any) -> float:
    """KL(p | a) = sum p log(p / a) - p + a."""
    p, a = np.asarray(p, Long), np.asarray(a, Long)
    assert not p[a == 0].any()
    safe = np.where(a > 0, a, 1)
    ratio = np.where((p > 0) & (a > 0), p, safe) / safe
    return float((p * np.log(ratio) - p + a).sum())


def value(cost: Any, p: Any, reg: float, a: Any = None, b: Any = None, rho: tuple[float, float] = (inf, inf)) -> float:
    """<C, P> + reg sum P (log P - 1), with the penalties on the marginals that have one."""
    total = inner(cost, p) + reg * entropy(p)
    for penalty, marginal, wanted in zip(rho, (p.sum(1), p.sum(0)), (a, b), strict=True):
        if penalty < inf:
            total += penalty * divergence(marginal, wanted)
    return total


def residual(cost: Any, f: Any, g: Any, a: Any, b: Any, reg: float, rho: tuple[float, float]) -> float:
    """sum_i p_i |f_i + rho log(p_i / a_i)| / (rho + reg), and the same of the columns: how far an update would move them."""
    p, total = plan(cost, f, g, reg), Long(0)
    for penalty, marginal, potential, wanted in zip(rho, (p.sum(1), p.sum(0)), (f, g), (a, b), strict=True):
        seen = marginal > 0
        ratio = np.log(marginal[seen] / np.asarray(wanted, Long)[seen])
        if penalty < inf:
            move = (np.asarray(potential, Long)[seen] + penalty * ratio) / (penalty + reg)
        else:
            move = ratio
        total += (marginal[seen] * np.abs(move)).sum()
    return float(total)


# ------------------------------------------------------------------------------------------------------ solutions


class Answer(NamedTuple):
    f: np.ndarray
    g: np.ndarray
    errors: list[float]


def _lse(x: np.ndarray, axis: int) -> np.ndarray:
    top = x.max(axis, keepdims=True)
    top = np.where(np.isfinite(top), top, 0)
    return np.squeeze(np.log(np.exp(x - top).sum(axis, keepdims=True)) + top, axis)


def sinkhorn(cost: Any, a: Any, b: Any, reg: float, *, rho: tuple[float, float] = (inf, inf), tol: float = 1e-14,
             max_iter: int = 10_000, g: Any = None, dtype: Any = np.float64) -> Answer:
    """Rows, then columns, each by a shifted log-sum-exp; the errors are those after the rows, where only columns are wrong."""
    k = np.asarray(cost, dtype) / dtype(reg)
    a, b = (np.asarray(x, dtype) for x in (a, b))
    tau = [dtype(1) if r == inf else dtype(r) / (dtype(r) + dtype(reg)) for r in rho]
    with np.errstate(divide="ignore"):
        log_a, log_b = np.log(a), np.log(b)
    g = np.where(b > 0, np.zeros(len(b), dtype) if g is None else np.asarray(g, dtype) / dtype(reg), -np.inf)
    f, errors = np.full(len(a), -np.inf, dtype), []

    def update(log_w: np.ndarray, t: Any, scores: np.ndarray, axis: int) -> np.ndarray:
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(log_w > -np.inf, t * (log_w - _lse(scores, axis)), -np.inf)

    for _ in range(max_iter):
        f = update(log_a, tau[0], g - k, 1)
        new = update(log_b, tau[1], f[:, None] - k, 0)
        c = np.exp(f[:, None] + g - k).sum(0)
        seen = np.isfinite(g) & (c > 0)
        moved = np.abs(new[seen] - g[seen]) * c[seen]
        errors.append(float(np.abs(c - b).sum() if rho[1] == inf else moved.sum()))
        if errors[-1] <= tol:
            break
        g = new
    return Answer(f * dtype(reg), g * dtype(reg), errors)


def newton(cost: Any, a: Any, b: Any, reg: float, *, tol: float = 1e-13, max_iter: int = 100) -> Answer:
    """Epsilon scaling, then damped Newton steps on the semi-dual with the whole matrix; positive marginals."""
    cost, a, b = (np.asarray(x, float) for x in (cost, a, b))
    eps, g = float(np.ptp(cost[np.isfinite(cost)])) + reg, None
    while eps > reg:
        g = sinkhorn(cost, a, b, eps, g=g, max_iter=5, tol=0).g
        eps /= 2
    f, g, errors = sinkhorn(cost, a, b, reg, g=g, max_iter=10, tol=tol)
    k, v = cost / reg, g / reg

    def rows(v: np.ndarray) -> tuple[np.ndarray, float, np.ndarray]:
        s = _lse(v - k, 1)
        return np.log(a) - s, float(a @ s - b @ v), np.exp((np.log(a) - s)[:, None] + v - k)

    f, now, p = rows(v)
    for _ in range(max_iter):
        c = p.sum(0)
        errors.append(float(np.abs(c - b).sum()))
        if errors[-1] <= tol or (len(errors) > 40 and errors[-1] >= errors[-2]):
            break
        matrix = np.diag(c) - p.T @ (p / a[:, None])
        shift = 1e-3 * min(1.0, errors[-1]) * np.maximum(c, b)
        x = np.linalg.solve(matrix + np.diag(shift) + np.ones((len(b), len(b))) * c.mean(), b - c)
        t = min(1.0, 8 / np.abs(x).max())
        while True:
            trial = rows(v + t * x)
            if trial[1] <= now + 1e-14 * abs(now) or t < 1e-3:
                break
            t /= 2
        v = v + t * x
        f, now, p = trial
    return Answer(f * reg, v * reg, errors)


def two_by_two(cost: Any, a: Any, b: Any, reg: float) -> np.ndarray:
    """P from the one equation of a 2 x 2 plan: log P11 P22 - log P12 P21 = -(C11 + C22 - C12 - C21) / reg."""
    (c11, c12), (c21, c22) = np.asarray(cost, float)
    low, high = max(0.0, a[0] + b[0] - 1), min(a[0], b[0])
    log_kappa = -(c11 + c22 - c12 - c21) / reg

    def made(p: float) -> np.ndarray:
        return np.array([[p, a[0] - p], [b[0] - p, 1 - a[0] - b[0] + p]])

    def excess(p: float) -> float:
        q = np.maximum(made(p), 5e-324)
        return math.log(q[0, 0]) + math.log(q[1, 1]) - math.log(q[0, 1]) - math.log(q[1, 0]) - log_kappa

    return made(optimize.brentq(excess, low, high, xtol=1e-17, rtol=8.9e-16))


def transport(cost: Any, a: Any, b: Any) -> float:
    """The least <C, P> without regularisation, by linear programming."""
    cost = np.asarray(cost, float)
    n, m = cost.shape
    rows, columns = np.nonzero(np.isfinite(cost))
    kept = np.arange(len(rows))
    sums = sparse.coo_matrix((np.ones(2 * len(rows)), (np.r_[rows, n + columns], np.r_[kept, kept])), shape=(n + m, len(rows)))
    wanted = np.r_[a, np.asarray(b) * (np.sum(a) / np.sum(b))]
    done = optimize.linprog(cost[rows, columns], A_eq=sums.tocsr(), b_eq=wanted)
    assert done.status == 0, done.message
    return float(done.fun)


def unmatched(cost: Any, a: Any, b: Any) -> float:
    """The mass of a that finite costs cannot bring to b, by Hall: the most that a set of rows has beyond the columns it reaches.

    0, up to rounding, where a plan exists; else half of the least L1 error of any P >= 0.
    """
    reaches = np.isfinite(np.asarray(cost, float))
    sets = (np.arange(2 ** len(reaches))[:, None] >> np.arange(len(reaches))) & 1
    return float((sets @ np.asarray(a, Long) - ((sets @ reaches) > 0) @ np.asarray(b, Long)).max())


def rate(p: Any, a: Any, b: Any) -> float:
    """sigma_2^2 of diag(a)^-1/2 P diag(b)^-1/2: Sinkhorn's contraction per iteration."""
    return float(np.linalg.svd(np.asarray(p, float) / np.sqrt(np.outer(a, b)), compute_uv=False)[1] ** 2)


# ------------------------------------------------------------------------------------------------------- problems


class Problem(NamedTuple):
    cost: np.ndarray
    a: np.ndarray
    b: np.ndarray


def assign(n: int, seed: int = 0) -> Problem:
    return Problem(np.random.default_rng(seed).random((n, n)), uniform(n), uniform(n))


def sqdist(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return ((x[:, None] - y) ** 2).sum(2)


def cloud_points(n: int, seed: int = 0) -> Pair:
    rng = np.random.default_rng(seed)
    x = rng.random((n, 2))
    return x, 0.5 * rng.random((n, 2)) + 0.5 * rng.random((n, 2)) ** 2


def cloud(n: int, seed: int = 0) -> Problem:
    cost = sqdist(*cloud_points(n, seed))
    return Problem(cost / cost.max(), uniform(n), uniform(n))


def cloudw(n: int, seed: int = 0) -> Problem:
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal((n, 5)), rng.standard_normal((n, 5)) + 0.5
    a, b = (np.maximum(rng.dirichlet(np.ones(n)), 1e-8) for _ in range(2))
    cost = sqdist(x, y)
    return Problem(cost / cost.max(), a / a.sum(), b / b.sum())


def grid(side: int, power: int) -> Problem:
    """Two mixtures of five Gaussians on the cells of a square."""
    line = (np.arange(side) + 0.5) / side
    points = np.stack(np.meshgrid(line, line, indexing="ij"), -1).reshape(-1, 2)

    def density(seed: int) -> np.ndarray:
        rng = np.random.default_rng(seed)
        w = np.zeros(len(points))
        for _ in range(5):
            center, width, weight = rng.random(2), rng.uniform(0.03, 0.1), rng.random()
            w += weight * np.exp(-((points - center) ** 2).sum(1) / (2 * width**2))
        w = w / w.sum() + 1e-4 / len(points)
        return w / w.sum()

    cost = (np.abs(points[:, None] - points) ** power).sum(2)
    return Problem(cost / cost.max(), density(1), density(2))


def gaussians(n: int, m: int, means: tuple[float, float], variances: tuple[float, float], *, width: float = 8.0) -> Problem:
    """Squared distances between two lines with normal weights; each line reaches `width` standard deviations."""
    lines, weights = [], []
    for size, mean, variance in zip((n, m), means, variances, strict=True):
        x = mean + width * math.sqrt(variance) * np.linspace(-1, 1, size)
        w = stats.norm.pdf(x, mean, math.sqrt(variance))
        lines.append(x)
        weights.append(w / w.sum())
    return Problem((lines[0][:, None] - lines[1]) ** 2, *weights)


def random_problem(rng: np.random.Generator, n: int, m: int) -> Problem:
    """Any costs, any positive marginals."""
    a, b = rng.dirichlet(np.ones(n)), rng.dirichlet(np.ones(m))
    return Problem(rng.random((n, m)), a, b / b.sum() * a.sum())


# -------------------------------------------------------------------------------------------- semi-discrete plans


def steps_of_potential(y: np.ndarray, weights: np.ndarray, quantile: Callable[[float], float], half: bool) -> np.ndarray:
    """g_{k+1} - g_k of a line's atoms y (ascending): the cells end at the quantiles of the cumulated weights."""
    ends = np.array([quantile(w) for w in np.cumsum(weights)[:-1]])
    differences = 0.5 * (y[1:] ** 2 - y[:-1] ** 2) - ends * np.diff(y)
    return differences if half else 2 * differences


def centred(g: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    return g - np.average(g, weights=weights)


# ----------------------------------------------------------------------------------------------- refusals, claims


def refuses(names: str | list[str], call: Callable[..., Any], *args: Any, **kw: Any) -> str:
    """As in dro_oracle; names of one letter, which are words of any sentence, must be its first."""
    names = [names] if isinstance(names, str) else names
    text = dro_oracle.refuses(names, call, *args, **kw)
    first = text.replace("[", " ").split()[0].strip("`':,")
    assert max(map(len, names)) > 1 or first in names, text
    return text


def check(solution: Any, cost: Any, a: Any, b: Any, reg: float, *, tol: float, rho: tuple[float, float] | None = None,
          slack: float = 0.0) -> np.ndarray:
    """Every claim of a solution, against its own potentials; returns their plan (float64)."""
    cost = np.asarray(cost, float)
    scale = float(np.sum(a)) + float(np.sum(b))
    assert solution.status in ("converged", "max_iter", "stalled", "stopped", "infeasible"), solution.status
    f, g = np.asarray(solution.f), np.asarray(solution.g)
    assert f.shape == (cost.shape[0],) and g.shape == (cost.shape[1],) and f.dtype == g.dtype == np.float64
    assert not np.isnan(f).any() and not np.isnan(g).any() and not (f == inf).any() and not (g == inf).any()
    assert (f[np.asarray(a) == 0] == -inf).all() and (g[np.asarray(b) == 0] == -inf).all()
    for count in ("sweeps", "newton", "cg"):
        assert solution.iterations[count] >= 0
    assert isinstance(solution.error, float) and solution.error >= 0 and isinstance(solution.method, str)
    p = plan(cost, f, g, reg)
    size = max(float(np.abs(x[np.isfinite(x)]).max(initial=0)) for x in (f, g, cost)) / reg
    noise = slack + (math.expm1(min(1e-15 * size, 700)) + 1e-14) * max(scale, float(p.sum()))  # ulps of the exponents
    if rho is None:
        assert abs(l1(p, a, b) - solution.error) <= noise + 1e-9 * solution.error, (l1(p, a, b), solution.error)
    if solution.status == "converged":
        assert solution.error <= tol
    entry = slack / max(scale, 1e-300) + 1e-14 + math.expm1(min(4e-16 * size, 700))
    entry *= 1 + float(np.abs(cost[np.isfinite(cost)]).max(initial=0))
    assert abs(solution.cost - inner(cost, p)) <= entry * max(float(p.sum()), scale) + 1e-300
    wanted = value(cost, p, reg, a, b, rho or (inf, inf))
    penalties = sum(r / reg for r in rho or () if r < inf)
    room = entry + 1e-14 * reg * (1 + size) * (1 + penalties) * (1 + abs(math.log(max(scale, 1e-300))))
    assert abs(solution.value - wanted) <= room * max(float(p.sum()), scale) + 1e-300, (solution.value, wanted)
    return p.astype(float)
