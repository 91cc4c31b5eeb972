"""BR-MTRL: the server's round for a representation that honest and Byzantine clients share."""

from __future__ import annotations

from typing import Any

import numpy as np

from ... import _threads, robust
from ..._checks import count, number
from ..._dispatch import find, runs
from ..._rows import parse

RULES = ("geometric_median", "krum")


@runs("robust.pairwise_sqdist", "robust.combine")
def br_mtrl_round(representations: Any, *, rule: str = "geometric_median", f: int | None = None, weights: Any = None,
                  reference: Any = None, step_size: float = 1.0, out: Any = None, backend: str | None = None,
                  num_threads: int | None = None) -> Any:
    """One server round of Byzantine-resilient multi-task representation learning: phi + step_size F({phi_i - phi}).

    Client i has trained its own head with the representation fixed, then the representation with its head fixed, from
    the server's phi, and sends phi_i; heads stay with the clients. F is the geometric median or Krum.

    What is aggregated are model weights, far from the origin and close to each other. Both rules move along with a
    translation of their input, and the kernels take differences before they square, so F({phi_i - phi}) is evaluated as
    F({phi_i}) - phi: nothing is subtracted from n models, and nothing cancels.

    Parameters
    ----------
    representations : (n, d) array, or sequence of n arrays, or sequence of n sequences of layer arrays
        phi_1 .. phi_n; float32, float64, float16 or bfloat16.
    rule : {"geometric_median", "krum"}, optional
        F.
    f : int, optional
        Byzantine clients to tolerate: needed by Krum, n >= 2 f + 3; the geometric median needs no such number and
        tolerates less than half of the weight.
    weights : (n,) array of numbers >= 0, optional
        The clients' weights in the geometric median, such as their numbers of samples. Default: all equal.
    reference : array or sequence of layer arrays like one representation, optional
        phi, the representation that the server sent out. Needed when `step_size` is not 1.
    step_size : float, optional
        The server's step: 1 takes over F({phi_i}), less damps the round.
    out : like one representation, optional
        Where to put the result; may be `reference`.
    backend : {"auto", "cpu", "cuda", "reference"}, optional
        Where to run; see `fastgd.use`.
    num_threads : int, optional
        Threads to use at most; see `fastgd.use`.

    Returns
    -------
    vector
        The new phi. With Krum and a step size of 1, a bitwise copy of one client's.

    Raises
    ------
    ValueError, TypeError
        `representations` has none of the three forms; the rule is unknown, lacks its `f` or gets `weights` or `f` that it
        does not take; `reference` is missing, differs from a representation in structure, shape or dtype, or holds a NaN or
        an Inf where a step starts there; the rule refuses the vectors, for example because more than f have a NaN or an Inf.

    Notes
    -----
    Cost: that of the rule, one read for the distances and at most one for the result; with a step size other than 1, two
    vectors read and one written. Deterministic. Without attackers and with clients that hold the same data, a round is
    the clients' plain alternating step.

    References
    ----------
    Le, Moothedath: Byzantine-Resilient Federated Multi-Task Representation Learning (2025), arXiv 2503.19209.

    Examples
    --------
    >>> import numpy as np
    >>> from fastgd.optim.federated import br_mtrl_round
    >>> sent = [[np.full((2, 2), 1.0 + 0.01 * i), np.zeros(2)] for i in range(6)] + [[np.full((2, 2), 1e9), np.ones(2)]]
    >>> kernel, bias = br_mtrl_round(sent, rule="krum", f=1)
    >>> kernel
    array([[1.02, 1.02],
           [1.02, 1.02]])
    """
    step_size = number(step_size, "step_size")
    rows = parse(representations, "representations")
    options = _options(rule, f, weights, rows.n)
    moves = step_size != 1.0
    if moves and reference is None:
        raise ValueError(f"reference must be given for a step_size of {step_size:g}: it is where the step starts")
    if reference is not None:
        parse((representations[0], reference), "(representations[0], reference)")
    parts = None if out is None else rows.check_out(out)
    aggregate = getattr(robust, rule)(representations, **options, backend=backend, num_threads=num_threads,
                                      out=None if moves else out)
    return _between(reference, aggregate, step_size, out, parts, backend, num_threads) if moves else aggregate


def _between(start: Any, end: Any, step_size: float, out: Any, parts: list[Any] | None, backend: str | None,
             num_threads: int | None) -> Any:
    """start + step_size (end - start), checked before anything is written to `out`."""
    pair = parse((start, end))
    weights, stacks = np.array([[1.0 - step_size, step_size]]), pair.empty(1)
    broken = find("robust.combine", pair.operand, backend)(pair, weights, 1.0, stacks,
                                                           _threads.budget(num_threads, pair.nbytes))
    if broken >= 0 and pair.bad_rows()[0]:
        raise ValueError("reference holds a NaN or an Inf: pass the representation that the server sent out")
    return pair.store([stack[0, ...] for stack in stacks], out, parts)


def _options(rule: str, f: int | None, weights: Any, n: int) -> dict[str, Any]:
    """The rule's own arguments."""
    if rule not in RULES:
        raise ValueError(f"rule must be one of {', '.join(RULES)}, got {rule!r}")
    if rule == "krum":
        if f is None:
            raise ValueError("rule='krum' needs f=, the number of Byzantine clients to tolerate")
        if weights is not None:
            raise ValueError("weights are not used by rule='krum': leave them out, or take the geometric median")
        return {"f": count(f, "f", 0)}
    if f is not None:
        raise ValueError("f is not used by rule='geometric_median': leave it out, or take rule='krum'")
    return {"weights": weights}
