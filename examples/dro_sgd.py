"""Robust descent in a training loop of your own: `python examples/dro_sgd.py` (needs scikit-learn).

Softmax regression on the digits of scikit-learn, with all but six of the 8s missing from the training set. Plain descent seldom
sees an 8; the robust loop differs in two lines, the draw and the report of the losses. Means over five splits of the data, each
method with the step size that is best for it.
"""

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import fastgd

STEPS, BATCH = 1000, 32


def losses(weights, x, y):
    """Each example's loss -log p[y], and its derivatives by the scores."""
    scores = x @ weights
    p = np.exp(scores - scores.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    loss = -np.log(p[np.arange(len(y)), y])
    p[np.arange(len(y)), y] -= 1.0
    return loss, p


def train(robust, rate, seed):
    """Trains from zero; returns the loss of the worst tenth of the test images, and the accuracy on all and on the 8s."""
    x, y = load_digits(return_X_y=True)
    x = np.hstack([x / 16.0, np.ones((len(y), 1))])
    x, test_x, y, test_y = train_test_split(x, y, test_size=0.3, random_state=seed, stratify=y)
    missing = np.flatnonzero(y == 8)[6:]
    x, y = np.delete(x, missing, axis=0), np.delete(y, missing)
    n, weights, rng = len(y), np.zeros((65, 10)), np.random.default_rng(seed)
    sampler = fastgd.dro.DROSampler(n, radius=0.5, floor=0.1, step_size=30.0 / n**2, seed=seed)
    for _ in range(STEPS):
        index = sampler.sample(BATCH) if robust else rng.integers(n, size=BATCH)
        loss, slope = losses(weights, x[index], y[index])
        if robust:
            sampler.update(index, loss)
        weights -= rate / BATCH * x[index].T @ slope
    right = (test_x @ weights).argmax(axis=1) == test_y
    _, tail = fastgd.dro.worst_case(losses(weights, test_x, test_y)[0], divergence="cvar", alpha=0.1)
    return tail, right.mean(), right[test_y == 8].mean()


for name, robust, rate in (("plain descent", False, 1.0), ("robust descent", True, 0.3)):
    tail, accuracy, eights = np.mean([train(robust, rate, seed) for seed in range(5)], axis=0)
    print(f"{name:<15} loss of the worst tenth {tail:.2f}, {accuracy:.1%} of the test digits right, {eights:.0%} of the 8s")
