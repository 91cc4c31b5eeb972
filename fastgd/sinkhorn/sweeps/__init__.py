"""One transport problem on one backend: Sinkhorn sweeps, errors, products with the plan."""
