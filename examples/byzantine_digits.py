"""Robust aggregation in a training loop of your own: `python examples/byzantine_digits.py` (needs scikit-learn).

Softmax regression on the digits of scikit-learn. Twelve workers send gradients as lists of layers, [W, b]; two of them
send NaN and one sends its gradient with the wrong sign, fifty times too long. The server needs one call to learn from
the rest, and sees which vectors it used.
"""

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import fastgd

WORKERS, BROKEN, STEPS, RATE = 12, 3, 100, 0.5

images, labels = load_digits(return_X_y=True)
images = (images / 16.0).astype(np.float32)
images, test_images, labels, test_labels = train_test_split(images, labels, test_size=0.25, random_state=0)


def gradient(weights, bias, x, y):
    scores = x @ weights + bias
    p = np.exp(scores - scores.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    p[np.arange(len(y)), y] -= 1.0
    p /= np.float32(len(y))
    return [x.T @ p, p.sum(axis=0)]


def train(aggregate):
    """Trains from zero, one gradient per worker and step; returns the test accuracy."""
    weights, bias = np.zeros((64, 10), np.float32), np.zeros(10, np.float32)
    for _ in range(STEPS):
        sent = [gradient(weights, bias, images[i::WORKERS], labels[i::WORKERS]) for i in range(WORKERS)]
        sent[0] = [np.full_like(layer, np.nan) for layer in sent[0]]
        sent[1] = [np.full_like(layer, np.nan) for layer in sent[1]]
        sent[2] = [-50.0 * layer for layer in sent[2]]
        change = aggregate(sent)
        weights -= RATE * change[0]
        bias -= RATE * change[1]
    return np.mean((test_images @ weights + bias).argmax(axis=1) == test_labels)


used = np.zeros(WORKERS, int)  # how often each worker was among the chosen


def robust(sent):
    change, info = fastgd.robust.multikrum(sent, BROKEN, return_info=True)
    used[info.selected] += 1
    return change


def plain(sent):
    return [np.mean(layer, axis=0) for layer in zip(*sent, strict=True)]


print(f"plain mean: {train(plain):.1%} of the test digits right")
print(f"Multi-Krum: {train(robust):.1%}; times each worker was chosen: {used.tolist()}")
