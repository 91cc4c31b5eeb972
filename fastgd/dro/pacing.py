"""How many examples a curriculum uses at a step."""

from __future__ import annotations

import math

from .._checks import count
from .._dispatch import check_host

KINDS = ("linear", "quadratic", "root", "exponential", "log", "step")


def pacing(kind: str, t: int, *, total: int, start: int, end: int, backend: str | None = None) -> int:
    """The size of the training set at step t: start + (end - start) h(t / total), rounded down.

    h(r) is r, r^2, sqrt(r), (e^(10 r) - 1) / (e^10 - 1), 1 + log(r + e^-10) / 10, or floor(r); `start` up to step 0, `end` from
    step `total` on.

    Parameters
    ----------
    kind : {"linear", "quadratic", "root", "exponential", "log", "step"}
        The shape h.
    t : int
        The step; any integer.
    total : int
        Steps until all is used, at least 1.
    start, end : int
        Sizes, 0 <= start <= end.
    backend : {"auto", "cpu", "reference"}, optional
        See `fastgd.use`; both are the same plain code on the host.

    Returns
    -------
    int
        It never decreases with t.

    Raises
    ------
    ValueError, TypeError
        An unknown kind, or a number out of its range.

    Notes
    -----
    With scores to order by, the examples to use are `numpy.argpartition(scores, size - 1)[:size]`.
    Cost: O(1). Deterministic; the first three kinds are exact integer arithmetic.

    References
    ----------
    Wu, Dyer, Neyshabur: When Do Curricula Work? (ICLR 2021).

    Examples
    --------
    >>> import fastgd
    >>> [fastgd.dro.pacing("root", t, total=4, start=10, end=110) for t in range(6)]
    [10, 60, 80, 96, 110, 110]
    """
    check_host("dro.pacing", backend)
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    total, start = count(total, "total", 1), count(start, "start", 0)
    end, t = count(end, "end", start), min(max(count(t, "t", -(2**63)), 0), total)
    span = end - start
    if t == total:
        return end
    if kind == "linear":
        return start + span * t // total
    if kind == "quadratic":
        return start + span * t * t // (total * total)
    if kind == "root":
        return start + math.isqrt(span * span * t // total)
    if kind == "step" or t == 0:
        return start
    r = t / total
    share = math.expm1(10.0 * r) / math.expm1(10.0) if kind == "exponential" else 1.0 + 0.1 * math.log(r + math.exp(-10.0))
    return start + math.floor(span * min(max(share, 0.0), 1.0))
