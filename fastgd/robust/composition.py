"""Pre-aggregations and a rule in one call, without making the vectors between them."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from .. import _threads
from .._checks import count, number
from .._dispatch import find, runs
from .._rows import Rows, parse
from . import centers, clipping, distances, filters, mixing, subsets
from .blocks import Image
from .combinations import weighted_sum

#: The rules, and the options each takes besides x and f.
RULES: dict[str, tuple[str, ...]] = {
    "bulyan": (), "caf": (), "centered_clip": ("radius", "start", "iterations"),
    "geometric_median": ("weights", "smoothing", "tol", "max_iter"), "krum": ("neighbors",), "mda": (), "meamed": (),
    "mean": (), "median": (), "monna": ("trusted",), "multikrum": ("m", "neighbors"), "smea": (), "trimmed_mean": (),
}
WITHOUT_F = ("centered_clip", "geometric_median", "mean", "median")
COORDINATEWISE = ("meamed", "median", "trimmed_mean")
WEIGHTED = ("caf", "geometric_median")
WITHOUT_WEIGHTS = (*COORDINATEWISE, "centered_clip")
PRE = ("arc", "nnm")


class AggregateInfo(NamedTuple):
    """What `aggregate` did with the vectors."""

    weights: np.ndarray | None  #: (n,) float64, the result is sum_i weights_i x_i; None where it is no such sum
    selected: np.ndarray | None  #: int64, the pre-aggregated vectors that the rule chose, ascending; None if it chose none
    bad_rows: np.ndarray  #: (n,) bool, True where a vector has a NaN or an Inf


@runs("robust.pairwise_sqdist", "robust.combine")
def aggregate(x: Any, f: int, *, rule: str = "krum", pre: Sequence[str] = (), out: Any = None, return_info: bool = False,
              backend: str | None = None, num_threads: int | None = None, **options: Any) -> Any:
    """A rule on pre-aggregated vectors: `rule(nnm(x, f), f)`, `rule(nnm(arc(x, f), f), f)`, with one pass for distances.

    The distances of mixed vectors y = W x follow from those of x, and so do the weights of the rule's result on x itself:
    on the CPU the pre-aggregated vectors are never stored.

    Parameters
    ----------
    x : (n, d) array, or sequence of n arrays, or sequence of n sequences of layer arrays
        The vectors; float32, float64, float16 or bfloat16.
    f : int
        Byzantine vectors to tolerate, by the pre-aggregations and by the rule.
    rule : str, optional
        The name of a rule: bulyan, caf, centered_clip, geometric_median, krum, mda, meamed, mean, median, monna,
        multikrum, smea or trimmed_mean.
    pre : sequence of {"arc", "nnm"}, optional
        Pre-aggregations, applied in this order.
    out : array or list of layer arrays, shaped like one vector, optional
        Where to put the result.
    return_info : bool, optional
        Also return an `AggregateInfo`.
    backend : {"auto", "cpu", "cuda", "reference"}, optional
        Where to run; see `fastgd.use`.
    num_threads : int, optional
        Threads to use at most; see `fastgd.use`.
    **options : Any
        The rule's own options, such as `m` for multikrum or `trusted` for monna.

    Returns
    -------
    vector, or (vector, AggregateInfo)
        Equal to the separate calls but for the rounding of the vectors in between to the dtype of x, which does not
        happen here when the result is a weighted sum of x.

    Raises
    ------
    ValueError, TypeError
        As the rule and the pre-aggregations; an unknown rule, pre-aggregation or option.

    Notes
    -----
    Cost: that of `pairwise_sqdist`, with "arc" one more read of the data (after "nnm" one more distance pass); then one
    read of the vectors that have a weight, or, for coordinate-wise rules and the second phase of Bulyan, one that mixes
    and sorts block by block. Scratch memory: some n x n matrices and 1 MiB a thread; on CUDA, the mixed vectors.
    Deterministic.

    References
    ----------
    Allouah, Farhadkhani, Guerraoui, Gupta, Pinot, Stephan: Fixing by Mixing (AISTATS 2023). Allouah, Guerraoui, Gupta,
    Jellouli, Rizk, Stephan: Adaptive Gradient Clipping for Robust Federated Learning (ICLR 2025).

    Examples
    --------
    >>> import fastgd, numpy as np
    >>> x = np.array([[1.0], [2.0], [3.0], [4.0], [np.nan]])
    >>> fastgd.robust.aggregate(x, 1, rule="median", pre=["nnm"])
    array([2.5])
    """
    _check_names(rule, pre, options)
    rows = parse(x)
    f = count(f, "f", 0, rows.n - 1)
    if not pre and (not return_info or rule in WITHOUT_WEIGHTS):
        arguments = () if rule in WITHOUT_F else (f,)
        function = getattr(importlib.import_module("fastgd.robust"), rule)
        vector = function(x, *arguments, **options, out=out, backend=backend, num_threads=num_threads)
        return (vector, AggregateInfo(None, None, rows.bad_rows())) if return_info else vector
    parts = None if out is None else rows.check_out(out)
    call = _Composition(rows, f, backend, num_threads)
    call.check(rule, pre, options)
    for name in pre:
        call.clip() if name == "arc" else call.mix()
    weights, stacks = call.run(rule, options)
    chosen = None if weights is None or rule in WEIGHTED else np.flatnonzero(weights)
    if stacks is None:
        total = float(weights.sum()) * call.divisor
        weights = weights @ call.weights
        vector = weighted_sum(rows, weights[None], total, out, parts, backend, num_threads)
        info = AggregateInfo(weights / total, chosen, call.bad)
    else:
        vector = rows.store([stack[0, ...] for stack in stacks], out, parts)
        info = AggregateInfo(None, chosen, call.bad)
    return (vector, info) if return_info else vector


def _check_names(rule: str, pre: Sequence[str], options: dict[str, Any]) -> None:
    if rule not in RULES:
        raise ValueError(f"rule must be one of {', '.join(RULES)}, got {rule!r}")
    if isinstance(pre, str) or any(name not in PRE for name in pre):
        raise ValueError(f"pre must be a sequence of {' and '.join(map(repr, PRE))}, got {pre!r}")
    for name in options:
        if name not in RULES[rule]:
            raise TypeError(f"{name} is no option of {rule}, which takes {', '.join(RULES[rule]) or 'none'}")


class _Composition:
    """The pre-aggregated vectors y = weights x / divisor, their distances, and the rules on them."""

    def __init__(self, rows: Rows, f: int, backend: str | None, num_threads: int | None) -> None:
        self.rows, self.f, self.backend, self.num_threads = rows, f, backend, num_threads
        self.operand = rows.operand._replace(dtype="float64")
        self.weights, self.divisor = np.eye(rows.n), 1.0
        self.bad: Any = None  #: vectors of x that have a NaN or an Inf, once they were looked for
        self.missing: Any = None  #: those of them that are among the y
        self._sqdist: Any = None

    def check(self, rule: str, pre: Sequence[str], options: dict[str, Any]) -> None:
        """Refuse what the rule would refuse, before any pass over the data."""
        n, f = self.rows.n, self.f
        if rule in ("krum", "multikrum"):
            distances._check_krum(n, f, options.get("neighbors"))
            count(1 if options.get("m") is None else options["m"], "m", 1, n)
        elif rule == "bulyan":
            subsets.check_bulyan(n, f)
        elif rule not in WITHOUT_F or "arc" in pre:
            subsets.check_majority("arc" if rule in WITHOUT_F else rule, n, f)
        if rule == "centered_clip":
            if "radius" not in options:
                raise TypeError("centered_clip needs the option radius: a positive number")
            number(options["radius"], "radius", 0.0, above=True)
            count(options.get("iterations", 1), "iterations", 1)
        if rule == "monna":
            if "trusted" not in options:
                raise TypeError("monna needs the option trusted: the index of a trusted vector")
            options["trusted"] = count(options["trusted"], "trusted", 0, n - 1)

    # ---- the vectors

    def image(self, chosen: Any = slice(None)) -> Image:
        return Image(self.rows, self.weights[chosen], self.divisor, self.backend, self.num_threads)

    def sqdist(self) -> np.ndarray:
        """Squared distances of the y."""
        if self.bad is None:
            self._sqdist, self.bad = subsets.finite_sqdist(self.rows, self.f, self.backend, self.num_threads)
            self.missing = self.bad
        elif self._sqdist is None:
            self._sqdist = self.image().sqdist()
        elif isinstance(self._sqdist, tuple):
            self._sqdist = mixed_sqdist(*self._sqdist)
        return self._sqdist

    def mix(self) -> None:
        """Nearest-neighbour mixing. A missing vector becomes the mean of the others."""
        n, keep, sqdist = self.rows.n, self.rows.n - self.f, self.sqdist()
        counts = mixing.nnm_counts(self.operand, sqdist, self.missing, self.f, self.backend)
        counts[self.missing] = np.where(self.missing, 0.0, keep / max(1, n - np.count_nonzero(self.missing)))
        self._sqdist = sqdist, counts / keep
        self.weights, self.divisor = counts @ self.weights, self.divisor * keep
        self.missing = np.zeros(n, bool)

    def clip(self) -> None:
        """Adaptive clipping. A missing vector becomes zero."""
        if self.bad is None:
            norms, self.bad = clipping.distances_to(self.rows, None, self.backend, self.num_threads)
            subsets.refuse_bad(self.rows, self.bad, self.f)
        else:
            norms = np.where(self.missing, np.inf, self.image().distance_to(None))
        self.weights = clipping.scales(norms, clipping.arc_limit(norms, self.f))[:, None] * self.weights
        self._sqdist, self.missing = None, np.zeros(self.rows.n, bool)

    # ---- the rules: 0/1 or other weights of the y, or a result, or both

    def run(self, rule: str, options: dict[str, Any]) -> tuple[Any, list[Any] | None]:
        n, f = self.rows.n, self.f
        if rule in COORDINATEWISE:
            operation, arguments = {"median": ("robust.median", ((n - 1) // 2,)), "trimmed_mean": ("robust.trimmed_mean", (f,)),
                                    "meamed": ("robust.nearest_mean", (n - f, f))}[rule]
            return None, self.image().reduce(operation, *arguments)
        if rule == "mean":
            return np.ones(n), None
        if rule == "centered_clip":
            return None, self._centered_clip(**options)
        sqdist = self.sqdist()
        if rule == "geometric_median":
            backend = self.backend if self.rows.operand.device == "cpu" else "auto"
            return centers.geometric_median_weights(sqdist, **options, backend=backend), None
        if rule == "bulyan":
            selected = subsets.bulyan_selection(self.rows, sqdist, self.missing, f, self.backend)
            return _ones(n, selected), self.image(selected).reduce("robust.nearest_mean", n - 4 * f, 0)
        if rule in ("krum", "multikrum"):
            return self._krum(sqdist, 1 if rule == "krum" else options.get("m"), options.get("neighbors")), None
        if rule == "monna":
            trusted = options["trusted"]
            if self.missing[trusted]:
                raise ValueError(f"the trusted vector {trusted} has a NaN or an Inf: pass the index of a finite one")
            own = np.array([trusted])
            return subsets.nearest(self.operand, sqdist[own], self.missing, own, n - f, self.backend)[0], None
        logic = {"caf": filters._caf_logic, "mda": subsets._mda_logic, "smea": subsets._smea_logic}[rule]
        return logic(sqdist, self.missing, f), None

    def _centered_clip(self, radius: float, start: Any = None, iterations: int = 1) -> list[Any]:
        n, rows = self.rows.n, self.rows
        if start is None:
            parts = [stack[0, ...] for stack in self.image().reduce("robust.median", (n - 1) // 2)]
        else:
            parts = rows.parse_one(start, "start")
        combine, threads = find("robust.combine", rows.operand, self.backend), _threads.budget(self.num_threads, rows.nbytes)
        for _ in range(iterations):
            both = rows.append(parts)
            pulls = centers._pulls(self.image().distance_to(both.take([n])), radius)
            weights = np.append(pulls[:-1] @ self.weights / self.divisor, pulls[-1])
            stacks = rows.empty(1)
            combine(both, weights[None], float(n), stacks, threads)
            parts = [stack[0, ...] for stack in stacks]
        return stacks

    def _krum(self, sqdist: np.ndarray, m: int | None, neighbors: int | None) -> np.ndarray:
        n = self.rows.n
        m = max(1, n - self.f - 2) if m is None else m
        scores = find("robust.krum_scores", self.operand, self.backend)(sqdist, distances._check_krum(n, self.f, neighbors))
        if m > n - np.count_nonzero(self.missing):
            raise ValueError(distances._too_many_bad(self.rows, self.f, m))
        return _ones(n, np.lexsort((scores, self.missing))[:m])  # stable: the lowest index on ties


def _ones(n: int, chosen: np.ndarray) -> np.ndarray:
    weights = np.zeros(n)
    weights[chosen] = 1.0
    return weights


def mixed_sqdist(sqdist: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Squared distances of y = W x, each row of W summing to 1, from those of x.

    By inner products about a centre among the nearest vectors: what two rows of W have in common cancels there at the
    scale of those, and a vector far away spoils only the y that have it. Equal rows of W are at distance 0, to the bit.
    """
    places: dict[bytes, int] = {}
    place = np.array([places.setdefault(row.tobytes(), len(places)) for row in weights])
    unique = weights[np.unique(place, return_index=True)[1]]
    centre = weights[np.where(weights > 0.0, sqdist, 0.0).max(axis=1).argmin()]
    used = np.flatnonzero(centre)
    means = sqdist[:, used] @ centre[used]
    far = np.isinf(means)
    far |= np.isinf(sqdist[:, ~far]).any(axis=1) & (centre == 0.0)
    inner = np.where(far | far[:, None], 0.0, sqdist)
    means = np.where(far, 0.0, means)
    inner = -0.5 * (inner - means - means[:, None] + centre[used] @ means[used])
    inner[far] = 0.0
    inner[:, far] = 0.0
    products = unique @ inner @ unique.T
    squares = np.diagonal(products)
    mixed = np.maximum(squares + squares[:, None] - (products + products.T), 0.0)
    apart = unique[:, far]
    mixed[(apart[:, None] != apart).any(axis=2)] = np.inf
    np.fill_diagonal(mixed, 0.0)
    return mixed[np.ix_(place, place)]
