"""Second order: Newton's method on the semi-dual with a sparsified Hessian, and Sinkhorn-Newton-Sparse."""
