"""What `fastgd demo transport` transports: the colours of two photographs and images of digits.

The entropic map. Potentials of a transport between samples x_i and y_j say where any other colour z goes, too:

    T(z) = sum_j y_j exp((g_j - |z - y_j|^2) / reg) / sum_j exp((g_j - |z - y_j|^2) / reg),

which at the samples is the barycentric map (P y)_i / (P 1)_i. It is evaluated on a grid of colours, where pixels need it, and
interpolated. The map tears colours apart that are neighbours, as a sky that must become dark and light; compression's
blocks then show. So what is added to a picture, T(z) - z, is smoothed along the picture: within a window it is
the linear function of the brightness that fits best, which keeps edges and drops what the brightness does not explain.

References
----------
Pooladian, Niles-Weed: Entropic Estimation of Optimal Transport Maps (2021). He, Sun, Tang: Guided Image Filtering (ECCV 2010).
Rabin, Delon, Gousseau: Regularization of Transportation Maps for Color and Contrast Transfer (ICIP 2010).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

GRID = 33  # colours of the grid a channel, as in the tables that cameras and films use
WINDOW, SOFTNESS = 25, 1e-3  # of the smoothing: pixels, and the variance of brightness that counts as an edge
BRIGHTNESS = np.array([0.299, 0.587, 0.114])


def photographs() -> tuple[np.ndarray, np.ndarray]:
    """The two photographs that scikit-learn carries, red, green and blue from 0 to 1: a pavilion in China, a flower."""
    from sklearn.datasets import load_sample_image

    china, flower = (load_sample_image(f"{name}.jpg") / 255.0 for name in ("china", "flower"))
    return china, flower


def sample(picture: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """The colours of so many pixels, drawn without replacement."""
    colours = picture.reshape(-1, 3)
    return np.ascontiguousarray(colours[rng.choice(len(colours), size, replace=False)])


def squares(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """|x_i - y_j|^2 as a matrix."""
    from scipy.spatial.distance import cdist

    distances: np.ndarray = cdist(x, y, "sqeuclidean")
    return distances


def entropic_map(z: np.ndarray, y: np.ndarray, g: np.ndarray, reg: float) -> np.ndarray:
    """T(z) of the module's description for the rows of z."""
    images = np.empty_like(z)
    for start in range(0, len(z), 1024):
        part = slice(start, start + 1024)
        weights = g - squares(z[part], y)
        weights -= weights.max(axis=1, keepdims=True)
        np.exp(weights / reg, out=weights)
        images[part] = weights @ y / weights.sum(axis=1, keepdims=True)
    return images


def recolour(picture: np.ndarray, y: np.ndarray, g: np.ndarray, reg: float) -> np.ndarray:
    """A picture in the colours y, from the potential g of a transport of its own colours to them."""
    from scipy.ndimage import map_coordinates

    places = picture.reshape(-1, 3) * (GRID - 1)
    low = np.minimum(places.astype(int), GRID - 2)
    used = np.zeros((GRID,) * 3, bool)
    for corner in np.ndindex(2, 2, 2):
        used[tuple((low + corner).T)] = True
    table = np.zeros((GRID,) * 3 + (3,))
    table[used] = entropic_map(np.argwhere(used) / (GRID - 1), y, g, reg)
    mapped = np.stack([map_coordinates(table[..., channel], places.T, order=1) for channel in range(3)], axis=1)
    change = guided(picture @ BRIGHTNESS, mapped.reshape(picture.shape) - picture)
    return np.clip(picture + change, 0.0, 1.0)


def guided(guide: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Each channel of the values, smoothed where the guide is smooth."""
    from scipy.ndimage import uniform_filter

    def mean(image: np.ndarray) -> np.ndarray:
        smooth: np.ndarray = uniform_filter(image, WINDOW, mode="nearest")
        return smooth

    centre = mean(guide)
    variance = mean(guide * guide) - centre * centre
    result = np.empty_like(values)
    for channel in range(values.shape[2]):
        value = values[..., channel]
        level = mean(value)
        slope = (mean(guide * value) - centre * level) / (variance + SOFTNESS)
        result[..., channel] = mean(slope) * guide + mean(level - slope * centre)
    return result


class Digits(NamedTuple):
    """Two sets of images of digits, pixels from 0 to 1, an image a row, and which digit each is."""

    images: np.ndarray
    labels: np.ndarray
    others: np.ndarray
    other_labels: np.ndarray


def digits(size: int, seed: int) -> Digits:
    """Disjoint sets of so many images each, at most 870, every digit as often in one as in the other."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    rng = np.random.default_rng(seed)
    halves: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for digit in range(10):
        count = size // 10 + (digit < size % 10)
        drawn = rng.permutation(np.flatnonzero(labels == digit))
        for half, part in zip(halves, (drawn[:count], drawn[count : 2 * count]), strict=True):
            half.append(part)
    first, second = (rng.permutation(np.concatenate(half)) for half in halves)
    return Digits(images[first] / 16.0, labels[first], images[second] / 16.0, labels[second])
