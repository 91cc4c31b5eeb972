"""Second order: Newton's method on the semi-dual with a sparsified Hessian, and Sinkhorn-Newton-Sparse."""

from ..._dispatch import register

register("sinkhorn", ("semidual",), ("cpu", "cuda", "reference"), ("float64",), folder="newton")
register("sinkhorn", ("sns_solve",), ("cpu", "reference"), ("float64",), folder="newton")
