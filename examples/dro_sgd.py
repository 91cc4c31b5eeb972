"""Robust descent in a training loop of your own: `python examples/dro_sgd.py` (needs scikit-learn).

Softmax regression on the digits of scikit-learn, with all but six of the 8s missing from the training set. Plain descent hardly
ever sees an 8 and does not learn it; the robust loop differs in two lines, the draw and the report of the losses.
"""

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import fastgd

STEPS, BATCH, RATE = 1000, 32, 0.5

images, labels = load_digits(return_X_y=True)
images = np.hstack([images / 16.0, np.ones((len(labels), 1))])
images, test_images, labels, test_labels = train_test_split(images, labels, test_size=0.3, random_state=0, stratify=labels)
missing = np.flatnonzero(labels == 8)[6:]
images, labels = np.delete(images, missing, axis=0), np.delete(labels, missing)
n = len(labels)


def losses(weights, x, y):
    """Each example's loss -log p[y], and its derivatives by the scores."""
    scores = x @ weights
    p = np.exp(scores - scores.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    loss = -np.log(p[np.arange(len(y)), y])
    p[np.arange(len(y)), y] -= 1.0
    return loss, p


def train(robust):
    """Trains from zero; returns the loss of the worst tenth of the test images, and the accuracy on all and on the 8s."""
    sampler = fastgd.dro.DROSampler(n, radius=0.5, floor=0.1, step_size=10.0 / n**2)
    weights, rng = np.zeros((65, 10)), np.random.default_rng(0)
    for _ in range(STEPS):
        index = sampler.sample(BATCH) if robust else rng.integers(n, size=BATCH)
        loss, slope = losses(weights, images[index], labels[index])
        if robust:
            sampler.update(index, loss)
        weights -= RATE / BATCH * images[index].T @ slope
    right = (test_images @ weights).argmax(axis=1) == test_labels
    _, tail = fastgd.dro.worst_case(losses(weights, test_images, test_labels)[0], divergence="cvar", alpha=0.1)
    return tail, right.mean(), right[test_labels == 8].mean()


for name, robust in (("plain descent", False), ("robust descent", True)):
    tail, accuracy, eights = train(robust)
    print(f"{name:<15} loss of the worst tenth {tail:.2f}, {accuracy:.1%} of the test digits right, {eights:.0%} of the 8s")
