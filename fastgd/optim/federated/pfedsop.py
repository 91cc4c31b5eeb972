"""pFedSOP: a personalised step from a client's own update and the global one, preconditioned in closed form."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from ... import _threads
from ..._checks import number
from ..._dispatch import find, runs
from ..._rows import Rows, parse
from .gram import gram


class PFedSOPInfo(NamedTuple):
    """How the two updates were blended."""

    cosine: float  #: of the angle between the updates; NaN where one of them is zero
    angle: float  #: phi, in radians; NaN where one of them is zero
    beta: float  #: weight of the global update
    sqnorm: float  #: ||p||^2 of the blended update p
    scale: float  #: what multiplies p in the step: step_size / (rho + ||p||^2)


@runs("optim.gram", "optim.step")
def pfedsop_step(x: Any, local_update: Any, global_update: Any, *, rho: float = 1.0, sharpness: float = 1.0,
                 step_size: float = 1.0, return_info: bool = False, out: Any = None, backend: str | None = None,
                 num_threads: int | None = None) -> Any:
    """A client's personalised second-order step: x - step_size (p p' + rho I)^-1 p, p = (1 - beta) D_i + beta D.

    The weight of the global update D follows from its angle phi to the client's own update D_i by a Gompertz curve,

        beta = 1 - exp(-exp(-sharpness (phi - 1))),    cos(phi) = <D_i, D> / (||D_i|| ||D||),

    near 1 for updates that agree, 1 - 1/e at one radian for every sharpness, near 0 for opposite ones. The inverse is
    never formed: (p p' + rho I)^-1 p = p / (rho + ||p||^2) exactly, whose length is at most 1 / (2 sqrt(rho)).

    Parameters
    ----------
    x : array, or sequence of layer arrays
        The client's model; float32, float64, float16 or bfloat16, on the host.
    local_update : like x
        D_i, the client's own last update (model before its steps minus model after, over their step size).
    global_update : like x
        D, the mean of the participants' updates.
    rho : float, optional
        Regulariser of the rank-one Fisher matrix, above 0.
    sharpness : float, optional
        The curve's lambda, at least 0.
    step_size : float, optional
        Factor of the whole step, any finite number.
    return_info : bool, optional
        Also return a `PFedSOPInfo`.
    out : like x, optional
        Where to put the result; may be x.
    backend : {"auto", "cpu", "reference"}, optional
        Where to run; see `fastgd.use`.
    num_threads : int, optional
        Threads to use at most; see `fastgd.use`.

    Returns
    -------
    vector, or (vector, PFedSOPInfo)
        Shaped like x; computed in float64 and rounded once to the dtype of x. An update of length zero, as every
        update is in the first round, leaves the step to the other one; where both are zero, x is returned.

    Raises
    ------
    ValueError, TypeError
        The three differ in structure, shape or dtype; an update holds a NaN or an Inf, or has coordinates beyond
        1e150; `rho` is not above 0; another number does not fit. A NaN or an Inf in x is no error: it stays in place.
    BackendError
        The arrays are on a GPU.

    Notes
    -----
    Cost: two passes, one reading both updates for three inner products, one reading all three vectors and writing one;
    with an `out=` that overlaps an argument without being it, one vector of scratch memory. Deterministic, same bits for
    every number of threads.

    References
    ----------
    Sen, Mohan: pFedSOP, Accelerating Training of Personalized Federated Learning Using Second-Order Optimization (2025),
    arXiv 2506.07159.

    Examples
    --------
    >>> import numpy as np
    >>> from fastgd.optim.federated import pfedsop_step
    >>> update = np.array([3.0, 4.0])
    >>> pfedsop_step(np.zeros(2), update, update).round(6)
    array([-0.115385, -0.153846])
    """
    rho, sharpness = number(rho, "rho", 0.0, above=True), number(sharpness, "sharpness", 0.0)
    step_size = number(step_size, "step_size")
    rows = parse((x, local_update, global_update), "(x, local_update, global_update)")
    parts = None if out is None else rows.check_out(out)
    products = gram(rows.take([1, 2]), ("local_update", "global_update"), backend, num_threads)
    info = _blend(products, rho, sharpness, step_size)
    direct = parts is not None and _writable(rows, parts)
    stacks = [part[None] for part in parts] if parts is not None and direct else rows.empty(1)
    move = find("optim.step", rows.operand, backend)
    move(rows, info.scale * (1.0 - info.beta), info.scale * info.beta, stacks, _threads.budget(num_threads, rows.nbytes))
    stepped = out if direct else rows.store([stack[0, ...] for stack in stacks], out, parts)
    return (stepped, info) if return_info else stepped


def _writable(rows: Rows, parts: list[Any]) -> bool:
    """Whether the step may be written straight into the parts of `out=`: each is one of the vectors' or touches none."""
    for k, layer in enumerate(rows.layers):
        for row in layer.data:
            for j, part in enumerate(parts):
                same = j == k and part.__array_interface__["data"] == row.__array_interface__["data"]
                if not same and np.may_share_memory(part, row):
                    return False
    return True


def _blend(products: np.ndarray, rho: float, sharpness: float, step_size: float) -> PFedSOPInfo:
    (local, cross), (_, other) = products.tolist()
    if local == 0.0 or other == 0.0:
        cosine = angle = math.nan
        beta = 0.0 if other == 0.0 else 1.0
    else:
        cosine = min(1.0, max(-1.0, cross / (math.sqrt(local) * math.sqrt(other))))
        angle = math.acos(cosine)
        # Beyond e^40 the outer exponential is 0 in float64, and the inner one would overflow further on.
        beta = -math.expm1(-math.exp(min(40.0, -sharpness * (angle - 1.0))))
    sqnorm = max(0.0, (1.0 - beta) ** 2 * local + 2.0 * beta * (1.0 - beta) * cross + beta**2 * other)
    # Never p / rho - p ||p||^2 / (rho^2 + rho ||p||^2), as the rank-one inverse is written: it cancels for long p.
    return PFedSOPInfo(cosine, angle, beta, sqnorm, step_size / (rho + sqnorm))
