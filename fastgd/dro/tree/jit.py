"""The tree inside a user's own Numba code: draws and updates on its arrays, with the draws of `SumTree.sample`.

`SumTree.arrays()` shows the tree's memory as an `Arrays` tuple, which Numba takes as an argument; `numba_functions()` compiles
what works on it. Both sides see each other's updates, because nothing but this memory is the tree.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from types import FunctionType
from typing import Any, NamedTuple

import numpy as np

from ...random.scalar import njit_functions, philox

_0, _1, _11, _32 = np.uint64(0), np.uint64(1), np.uint64(11), np.uint64(32)
_STEP = 2.0**-53


class Arrays(NamedTuple):
    """A tree as Numba sees it; valid until the tree grows (`SumTree.append`) or is loaded anew."""

    data: np.ndarray  #: float64: the leaves, then the sums, level by level
    first: np.ndarray  #: int64: where each level begins
    n: int  #: leaves in use


class Functions(NamedTuple):
    """Functions for a user's `@njit` code. They check nothing: weights must be finite and >= 0, indices in [0, n)."""

    total: Callable[..., Any]  #: (arrays) -> the sum of all weights
    find: Callable[..., Any]  #: (arrays, mass) -> the leaf that 0 <= mass < total falls on
    sample: Callable[..., Any]  #: (arrays, seed, draw) -> the leaf of draw number `draw`, as `SumTree.sample` draws it
    update: Callable[..., Any]  #: (arrays, index, weight) -> None: one weight, and the sums above it


def block_sum(data: Any, at: Any) -> Any:
    total = data[at]
    for k in range(1, 8):
        total += data[at + k]
    return total


def total(arrays: Any) -> Any:
    return block_sum(arrays.data, arrays.first[len(arrays.first) - 1])


def below(x: Any) -> Any:
    """The next number below x > 0."""
    return np.nextafter(x, 0.0)


def find(arrays: Any, mass: Any) -> Any:
    data, first = arrays.data, arrays.first
    node = 0
    for level in range(len(first) - 1, -1, -1):
        at = first[level] + 8 * node
        child, before, after = 0, 0.0, data[at]
        while child < 7 and mass >= after:
            child += 1
            before = after
            after += data[at + child]
        mass = min(mass - before, below(data[at + child]))
        node = 8 * node + child
    return node


def uniform(seed: Any, draw: Any) -> Any:
    """Draw number `draw` of [0, 1): 53 bits of the words 2 draw and 2 draw + 1 of the stream (seed, step 0)."""
    first, second, third, fourth = philox(np.uint64(seed), _0, _0, np.uint64(draw) >> _1)
    if np.uint64(draw) & _1 == _1:
        first, second = third, fourth
    return np.float64((first | (second << _32)) >> _11) * _STEP


def sample(arrays: Any, seed: Any, draw: Any) -> Any:
    whole = total(arrays)
    return find(arrays, min(uniform(seed, draw) * whole, below(whole)))


def update(arrays: Any, index: Any, weight: Any) -> None:
    data, first = arrays.data, arrays.first
    data[index] = weight
    node = index
    for level in range(1, len(first)):
        node >>= 3
        data[first[level] + node] = block_sum(data, first[level - 1] + 8 * node)


@cache
def numba_functions() -> Functions:
    """The functions that work on `SumTree.arrays()` in a user's own Numba code, compiled on first use.

    Parameters
    ----------
    None

    Returns
    -------
    Functions
        `total(arrays)`, `find(arrays, mass)`, `sample(arrays, seed, draw)`, `update(arrays, index, weight)`.

    Raises
    ------
    ImportError
        Numba is not installed.

    Notes
    -----
    Draw number i of a tree is `sample(arrays, seed, i)`: after `tree.sample(k)` on a new tree, i goes on from k (`tree.draws`).
    Nothing is checked: indices lie in [0, n), weights are finite and >= 0, and the total is positive.
    Cost: a draw reads one cache line a level, log n / log 8 of them, and so does an update. A compiled loop calls without
    overhead; for batches from Python `SumTree` is faster, because it takes many draws level by level. Deterministic: the
    bits of `SumTree`.

    References
    ----------
    Wong, Easton: An Efficient Method for Weighted Sampling without Replacement (SIAM Journal on Computing, 1980).

    Examples
    --------
    >>> import fastgd, numba, numpy as np
    >>> tree = fastgd.dro.SumTree(np.array([1.0, 0.0, 3.0]), seed=7)
    >>> functions = fastgd.dro.numba_functions()
    >>> sample, update = functions.sample, functions.update
    >>> @numba.njit
    ... def draw_and_halve(arrays, seed, draws):
    ...     found = np.empty(draws, np.int64)
    ...     for draw in range(draws):
    ...         found[draw] = sample(arrays, seed, draw)
    ...         update(arrays, found[draw], arrays.data[found[draw]] / 2)
    ...     return found
    >>> found = draw_and_halve(tree.arrays(), 7, 4)
    >>> sorted(set(found.tolist())), tree.total < 4
    ([0, 2], True)
    """
    from ..._jit import kernel

    names = dict(globals()) | {"philox": njit_functions().philox}
    for source in (block_sum, total, below, find, uniform, sample, update):
        names[source.__name__] = kernel(FunctionType(source.__code__, names, source.__name__))
    return Functions(*(names[field] for field in Functions._fields))
