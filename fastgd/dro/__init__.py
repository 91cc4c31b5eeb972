"""Distributionally robust optimisation: draws whose probabilities follow the losses, at the cost of plain SGD.

The room in one idea
--------------------
min over x of max over p of sum_i p_i l_i(x), p in a ball around the uniform distribution. Stochastic gradient steps need
draws from a p that changes after every batch; a tree of sums draws from and changes n weights in O(log n), and the
projection onto the ball moves all coordinates at once through a few scalars.

* *The tree*: `SumTree` draws indices in proportion to weights that change (robust sampling, prioritized replay).
* *The sampler*: `DROSampler` keeps p inside a chi-squared or Kullback-Leibler ball, amortised O(log n) a drawn index.
* *The sets*: `worst_case` (chi-squared, KL, CVaR; as a ball or as a penalty), `project`.
* *Around them*: `allocate`, `pacing`, `mlmc_estimate`, `group_weights`.

Notation
--------
============ ===========================================================================================
``n``        examples; ``m`` of them above the floor
``p``        probabilities; ``q`` the same without the floor: p = delta / n + (1 - delta) q
``l``        losses, finite and >= 0
``R``        radius of the ball: D_f(p || 1/n) = (1/n) sum_i f(n p_i) <= R, f''(1) = 1
``delta``    the floor: p_i >= delta / n
``alpha``    level of the conditional value at risk, 0 < alpha <= 1
============ ===========================================================================================

Namkoong and Duchi, Stochastic Gradient Methods for Distributionally Robust Optimization with f-divergences (NIPS 2016); their
rho is n R.
"""

from .._dispatch import register

_BACKENDS = ("cpu", "cuda", "reference")
register("dro", ("tree",), _BACKENDS, ("float64",), folder="tree")
register("dro", ("chi2", "kl", "cressie_read"), ("cpu", "reference"), ("float64",), folder="sampler")
register("dro", ("linear",), _BACKENDS, ("float32", "float64"), folder="sets")
register("dro", ("tilted", "capped", "quantile", "power"), ("cpu", "reference"), ("float32", "float64"), folder="sets")

from .allocation import allocate  # noqa: E402  (the rows above must stand in the table first)
from .groups import group_losses, group_weights  # noqa: E402
from .multilevel import mlmc_estimate  # noqa: E402
from .pacing import pacing  # noqa: E402
from .sampler.sampler import DROSampler  # noqa: E402
from .sets.sets import project, worst_case  # noqa: E402
from .tree.jit import numba_functions  # noqa: E402
from .tree.sumtree import SumTree  # noqa: E402

__all__ = [
    "DROSampler", "SumTree", "allocate", "group_losses", "group_weights", "mlmc_estimate", "numba_functions", "pacing", "project",
    "worst_case",
]
