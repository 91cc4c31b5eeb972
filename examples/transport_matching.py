"""Who is who, by entropic transport: `python examples/transport_matching.py` (needs scikit-learn).

The same 800 images of digits twice: once clean, once with noise and in another order. Which belongs to which? Looking for the
nearest clean image uses some of them many times and others never. A transport plan with uniform marginals uses each once; with
reg = 2 sigma^2, the likelihood of the noise, its entries also say which pairs to trust, and rather too little than too much.
"""

import numpy as np
from scipy.spatial.distance import cdist
from sklearn.datasets import load_digits

import fastgd

SIZE, SIGMA = 800, 0.35

rng = np.random.default_rng(0)
clean = load_digits().data[:SIZE] / 16.0
order = rng.permutation(SIZE)
noisy = clean[order] + SIGMA * rng.standard_normal(clean.shape)

cost = cdist(noisy, clean, "sqeuclidean")
solution = fastgd.sinkhorn.solve(cost, reg=2.0 * SIGMA**2, tol=1e-6)
plan = SIZE * solution.plan()  # rows of sum 1
partner, belief = plan.argmax(axis=1), plan.max(axis=1)
right, sure = partner == order, belief > 0.95
candidates = solution.plan(sparse=True, threshold=1e-3 / SIZE).nnz / SIZE

print(f"nearest image: {np.mean(cost.argmin(axis=1) == order):.1%} right, of the clean images "
      f"{len(np.unique(cost.argmin(axis=1))) / SIZE:.0%} are used")
print(f"transport plan: {right.mean():.1%} right, {belief.mean():.1%} in its own opinion; {solution.status}")
print(f"of the {sure.sum()} pairs it is sure of, {right[sure].mean():.1%} are right; {candidates:.1f} candidates an image have a "
      "chance of one in a thousand")
