"""Entropic optimal transport: the solver to use without a thought about the size of the regularisation.

The room in one idea
--------------------
min over P >= 0 with P1 = a and P'1 = b of <C, P> + reg sum_ij P_ij (log P_ij - 1). The optimum is P_ij = exp((f_i + g_j - C_ij) /
reg), so n + m numbers are all there is to find. Sinkhorn's algorithm makes rows and columns right in turn; it contracts fast
where P is dense and slowly where it is nearly a permutation. Over-relaxation takes the square root of its count, and where P is
sparse so is the Hessian, and Newton's method pays. The solver measures both, and decides while it runs.

* *Solvers*: `solve` (stored cost), `solve_points` (cost from points, never stored), `solve_batch` (many problems). They return a
  `Solution`. KL penalties in place of fixed marginals (unbalanced transport) by `marginal_penalty=`.
* *Semi-discrete*: `semidiscrete`, from draws of a continuous source to atoms, returns a `SemiDiscrete`.

Notation
--------
============ ===========================================================================================
``C``        the cost, (n, m); +inf forbids a pair
``a, b``     marginals, (n,) and (m,), at least 0, of equal sums
``reg``      the regularisation, above 0, in units of the cost
``f, g``     potentials in units of the cost; inside the room in units of reg
``K``        C / reg
``rho``      KL penalty of a marginal; ``tau`` = rho / (rho + reg), 1 where the marginal is fixed
``error``    |P1 - a|_1 + |P'1 - b|_1
============ ===========================================================================================

Cuturi: Sinkhorn Distances (NIPS 2013). Tang and others: Accelerating Sinkhorn Algorithms with Sparse Newton Iterations (ICLR
2024).
"""

from .._dispatch import register

register("sinkhorn", ("transport",), ("cpu", "cuda", "reference"), ("float32", "float64"), folder="sweeps")
register("sinkhorn", ("descend", "assign"), ("cpu", "reference"), ("float64",), folder="semidiscrete")

from .semidiscrete.semidiscrete import SemiDiscrete, semidiscrete  # noqa: E402  (the rows above must stand in the table first)
from .solution import Solution  # noqa: E402
from .solve import solve, solve_batch, solve_points  # noqa: E402

__all__ = ["SemiDiscrete", "Solution", "semidiscrete", "solve", "solve_batch", "solve_points"]
