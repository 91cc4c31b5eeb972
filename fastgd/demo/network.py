"""The learning problem of the demonstrations: a small network on the handwritten digits that scikit-learn carries.

A network is a list of four float32 arrays [W1, b1, W2, b2]; so is a gradient. With x a batch of images, one per row,

    h = max(0, x W1 + b1),    p = softmax(h W2 + b2),    loss = mean over the batch of -log p[label].
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

#: Shapes of W1, b1, W2, b2: 64 pixels, 32 hidden units, 10 digits.
SHAPES = ((64, 32), (32,), (32, 10), (10,))
_ENDS = [int(end) for end in np.cumsum([math.prod(shape) for shape in SHAPES])]
SIZE = _ENDS[-1]  # 2,410
CLASSES = 10


class Batch(NamedTuple):
    """Images and what they show."""

    images: np.ndarray  # (count, 64) float32 from 0 to 1
    labels: np.ndarray  # (count,) int64 from 0 to 9


def digits(workers: int, skew: float = 0.0, seed: int = 0) -> tuple[list[Batch], Batch]:
    """Every worker's share of the training images, and the test images (a quarter of all, the same for every seed).

    `skew` is the fraction of the training images that is dealt out sorted by label, so that a worker sees few of the
    digits: 0 gives alike workers, 1 the greatest difference (as Karimireddy et al. 2022).
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    images = (images / 16.0).astype(np.float32)
    images, test_images, labels, test_labels = train_test_split(images, labels, test_size=0.25, random_state=0,
                                                                stratify=labels)
    order = np.random.default_rng(seed).permutation(len(labels))
    cut = round(skew * len(order))
    ordered = order[:cut][np.argsort(labels[order[:cut]], kind="stable")]
    dealt = zip(np.array_split(ordered, workers), np.array_split(order[cut:], workers), strict=True)
    shares = [np.concatenate(parts) for parts in dealt]
    return [Batch(images[share], labels[share]) for share in shares], Batch(test_images, test_labels)


def layers(vector: np.ndarray) -> list[np.ndarray]:
    """A vector of SIZE coordinates as [W1, b1, W2, b2]: views, no copies."""
    return [vector[end - math.prod(shape) : end].reshape(shape) for end, shape in zip(_ENDS, SHAPES, strict=True)]


def initial(seed: int) -> list[np.ndarray]:
    """A network before training: normal weights of variance 2 / inputs (He et al. 2015), zero biases."""
    rng = np.random.default_rng(seed)
    return [(rng.standard_normal(shape) * np.sqrt(2.0 / shape[0]) * (len(shape) == 2)).astype(np.float32)
            for shape in SHAPES]


def gradient(network: list[np.ndarray], batch: Batch) -> list[np.ndarray]:
    """The gradient of the loss on a batch, by backpropagation."""
    weights1, bias1, weights2, bias2 = network
    images, labels = batch
    hidden = np.maximum(images @ weights1 + bias1, 0.0)
    scores = hidden @ weights2 + bias2
    scores -= scores.max(axis=1, keepdims=True)  # softmax does not change, and exp cannot overflow
    slope = np.exp(scores)
    slope /= slope.sum(axis=1, keepdims=True)
    slope[np.arange(len(labels)), labels] -= 1.0  # d loss / d scores = (p - one_hot(label)) / count
    slope /= np.float32(len(labels))
    slope_hidden = (slope @ weights2.T) * (hidden > 0.0)
    return [images.T @ slope_hidden, slope_hidden.sum(axis=0), hidden.T @ slope, slope.sum(axis=0)]


def accuracy(network: list[np.ndarray], batch: Batch) -> float:
    """The fraction of images whose digit has the highest score. A network of NaN answers 0 to everything."""
    weights1, bias1, weights2, bias2 = network
    scores = np.maximum(batch.images @ weights1 + bias1, 0.0) @ weights2 + bias2
    return float((scores.argmax(axis=1) == batch.labels).mean())
