"""`SumTree`: draws in proportion to weights that change, O(log n) a draw and a change.

Blocks of eight, one cache line each: a node is the sum of its block, made from left to right in float64, up to a top block
whose sum is the total. A draw goes down: in each block the first child with mass < c_0 + .. + c_j. Sums are always made anew
from their children, so that nothing drifts and the order of changes leaves no trace; a child of weight 0 is never entered,
because what is left of the mass is kept below the child's own value after every subtraction.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..._arrays import is_on_device, to_host
from ..._checks import count
from ..._dispatch import BackendError, Operand, find, requested, runs
from .jit import Arrays

_IID = "iid"  # the default, compared by identity: `method` may be anything
_METHODS = (_IID, "stratified", "systematic", "without_replacement")
_LARGEST = 2**31
_DRAWS = 2**62  # a draw takes two words of a stream of 2^63
_INT64 = np.dtype(np.int64)
_int64, _empty = np.int64, np.empty


@runs("dro.tree")
class SumTree:
    """n weights, drawn in proportion: P(i) = w_i / sum_j w_j, with weights that change.

    Parameters
    ----------
    weights : int, or (n,) array
        How many weights, 1 <= n <= 2^31, all of them 0 at first; or the weights: finite, at least 0, with a finite sum. Any
        real dtype, kept as float64.
    seed : int, 0 <= seed < 2^64, default 0
        Of the draws. Draw number d, counted from 0 over the life of the tree, is a function of (seed, d) and the weights.
    backend : {"auto", "cpu", "cuda", "reference"}, optional
        Where the tree lives and its methods run; see `fastgd.use`.

    Raises
    ------
    ValueError
        n or seed out of range; negative, NaN or Inf weights; a sum that overflows.
    TypeError
        Wrong kinds of arguments: bool or float indices, complex weights. After an error in any method the tree is what it was.

    Notes
    -----
    Cost: `update`, `find` and `sample` touch log_8 n cache lines an item, a whole batch level by level, so that their misses
    overlap; 9.2 bytes a weight, after `append` up to twice that. Batches near n cost no more than making all sums anew.
    Rounding: a sum has a relative error of about 8 log_8 n 2^-53 at most, now and after any number of changes.
    Deterministic: the same bits on every instruction set, whatever the order of changes that led to the weights.

    Threads: one writer. `find`, `sum` and `weights` may run at the same time in several threads (kernels release the GIL),
    but not beside a method that changes the tree: `update`, `append`, `load_state_dict`, `extremes`, and `sample`, which counts
    draws. Threads that draw need trees of their own, or a lock.

    *Prioritized replay.* Keep p_i^alpha in the tree, everything in this one domain, and n p_i^alpha / total cancels against the
    largest importance weight: (n P(i))^-beta / max_j (n P(j))^-beta = (least / w_i)^beta, `least` the smallest positive weight::

        index = tree.sample(256, method="stratified")
        importance = (tree.extremes()[0] / tree.weights(index)) ** beta
        ...
        tree.update(index, (abs(td_error) + 1e-6) ** alpha)
        tree.update(slot, tree.extremes()[1] or 1.0)              # a new item comes with the largest priority

    References
    ----------
    Wong, Easton: An Efficient Method for Weighted Sampling without Replacement (SIAM J. Comput. 1980). Schaul, Quan,
    Antonoglou, Silver: Prioritized Experience Replay (ICLR 2016).

    Examples
    --------
    >>> import fastgd, numpy as np
    >>> tree = fastgd.dro.SumTree(np.array([1.0, 0.0, 3.0, 4.0]), seed=1)
    >>> tree.total, tree.find(0.5), tree.find(1.0), tree.find(7.5)
    (8.0, 0, 2, 3)
    >>> tree.update([0, 1], [0.0, 2.0])
    >>> tree.weights()
    array([0., 2., 3., 4.])
    >>> np.bincount(tree.sample(9, method="systematic"))
    array([0, 2, 3, 4])
    """

    def __init__(self, weights: Any, *, seed: int = 0, backend: str | None = None) -> None:
        self._seed = count(seed, "seed", 0, 2**64 - 1)
        self._backend, self._drawn = backend, 0
        number = isinstance(weights, int | np.integer | bool | np.bool_)
        on_gpu = requested(backend) == "cuda" if number else is_on_device(weights)
        self._operand = Operand("cuda" if on_gpu else "cpu", "float64")
        if number:
            self._tree = self._make(count(weights, "n", 1, _LARGEST))
        else:
            self._tree = self._filled(weights)

    def _make(self, n: int) -> Any:
        return find("dro.tree", self._operand, self._backend)(n)

    def _filled(self, weights: Any) -> Any:
        """A backend's tree of these weights."""
        tree = self._make(0)
        data = _vector(tree.numbers(weights, "weights"), "weights")
        if not 1 <= len(data) <= _LARGEST:
            raise ValueError(f"weights must hold 1 to 2^31 weights, got {len(data)}")
        _check(tree.append(data), data)
        return tree

    @property
    def n(self) -> int:
        """The number of weights."""
        return self._tree.n

    @property
    def total(self) -> float:
        """The sum of all weights: `find` takes any mass below it."""
        return self._tree.total()

    @property
    def drawn(self) -> int:
        """How many draws there were: the number of the next one."""
        return self._drawn

    def arrays(self) -> Arrays:
        """The tree's own memory, for `numba_functions`: not a copy. After changes made there `extremes` reads all weights.

        Raises
        ------
        BackendError
            The tree is not on the CPU.
        """
        shown = getattr(self._tree, "arrays", None)
        if shown is None:
            raise BackendError("only a tree on the CPU can be shown to Numba", {"cuda": ("its memory is the GPU's",),
                               "reference": ("it keeps its levels in a list",)})
        data, first = shown()
        return Arrays(data, first, self.n)

    def __len__(self) -> int:
        return self._tree.n

    def __repr__(self) -> str:
        return f"SumTree(n={self.n}, total={self.total:.6g}, seed={self._seed}, {self._drawn} drawn)"

    # ---- weights

    def weights(self, index: Any = None) -> Any:
        """A copy of the weights, (n,) float64; with `index`, an integer or an array of them, those weights in its shape."""
        if index is None:
            return self._tree.weights(None)
        places = self._tree.indices(index, "index")
        found = self._tree.weights(places)
        if found is None:
            self._refuse_index(places)
        return found if places.ndim else float(found)

    def update(self, index: Any, weight: Any) -> None:
        """Set weights: one (integer and number), or a batch.

        Parameters
        ----------
        index : int, or (k,) array of integers from 0 to n - 1
            Which. Of an index that comes more than once the last weight stays.
        weight : float, or (k,) array
            Finite, at least 0; one number goes to all.

        Raises
        ------
        ValueError, TypeError
            As the class; also where the new total would overflow. Nothing has changed then.
        """
        tree = self._tree
        kind = type(index)
        if (kind is int or kind is _int64) and isinstance(weight, float) and 0 <= index < _LARGEST:
            status = tree.update_one(index, weight)
            if status:
                self._refuse(status, np.array([index]), np.array([weight]))
            return
        places, values = tree.indices(index, "index"), tree.numbers(weight, "weight")
        if values.shape != places.shape or places.ndim != 1:
            places, values = self._pair(places, values)
        status = tree.update(places, values)
        if status:
            self._refuse(status, places, values)

    def _pair(self, index: Any, weight: Any) -> tuple[Any, Any]:
        """Both as (k,) arrays."""
        if index.ndim > 1 or (weight.ndim and weight.shape != index.shape):
            raise ValueError("index must be an integer or a (k,) array, weight a number or an array of the same length, got "
                             f"shapes {tuple(index.shape)} and {tuple(weight.shape)}")
        index = index.reshape(-1)
        return index, self._tree.numbers(np.full(len(index), float(weight)), "weight") if weight.ndim == 0 else weight

    def append(self, weights: Any) -> None:
        """Weights behind the last one: their indices are n, n + 1, .. O(1) each in the long run, the memory grows by doubling.

        Parameters
        ----------
        weights : float, or (k,) array
            Finite, at least 0.
        """
        data = self._tree.numbers(weights, "weights")
        data = _vector(data.reshape(1) if data.ndim == 0 else data, "weights")
        if self.n + len(data) > _LARGEST:
            raise ValueError(f"weights has {len(data)} weights, but behind the {self.n} of the tree only 2^31 - n fit")
        _check(self._tree.append(data), data)

    def extremes(self) -> tuple[float, float]:
        """The smallest positive and the largest weight; (inf, 0.0) where all are 0.

        Cost: O(1) while one of the smallest and one of the largest weights is left, which changes count from the first call
        on; else one read of all weights. A batch of k random changes removes the last one with probability about 2 k / n.
        """
        return self._tree.extremes()

    # ---- sums and draws

    def sum(self, lo: int, hi: int) -> float:
        """w_lo + .. + w_(hi - 1), 0 <= lo <= hi <= n. No differences of prefixes: small sums beside large ones keep their
        digits. `sum(0, n)` is `total`, to the bit."""
        hi = count(hi, "hi", 0, self.n)
        return self._tree.sum(count(lo, "lo", 0, hi), hi)

    def find(self, mass: Any) -> Any:
        """The leaf that a mass falls on: the i with sum(0, i) <= mass < sum(0, i + 1), up to the rounding of such sums.

        Parameters
        ----------
        mass : float or float array, 0 <= mass < total
            Positions on the line of weights laid end to end.

        Returns
        -------
        int, or int64 array of the shape of `mass`
            Never a leaf of weight 0.
        """
        if isinstance(mass, float):
            leaf = self._tree.find_one(mass)
            if leaf < 0:
                self._refuse_mass(mass)
            return leaf
        masses = self._tree.numbers(mass, "mass")
        if masses.ndim == 0:
            return self.find(float(masses))
        leaves = self._tree.find(masses)
        if leaves is None:
            self._refuse_mass(masses)
        return leaves

    def sample(self, size: int, *, method: str = _IID, out: Any = None) -> Any:
        """Draw `size` indices.

        Parameters
        ----------
        size : int, at least 0
            How many.
        method : {"iid", "stratified", "systematic", "without_replacement"}
            Independent draws; one draw from each of `size` equal parts of the total, in ascending order; the same with one
            common position inside the parts, so that i comes floor or ceil of size P(i) times; successive draws, each without
            the leaves drawn before (their weights return afterwards, to the bit).
        out : (size,) int64 array, optional
            Where to put them.

        Returns
        -------
        (size,) int64 array
            `out` if given. Every method uses up `size` draws of the stream, "systematic" one.

        Raises
        ------
        ValueError
            All weights are 0; without replacement, fewer than `size` are positive; unknown method; an `out` that does not fit.
        """
        tree = self._tree
        if out is None and type(size) is int and size == 1 and method is _IID and tree.on_host:
            leaf = tree.sample_one(self._seed, self._drawn)
            if leaf < 0:
                self._refuse_draw(1, 0)
            self._drawn += 1
            out = _empty(1, _INT64)
            out[0] = leaf
            return out
        size = count(size, "size", 0)
        if not isinstance(method, str) or method not in _METHODS:
            raise ValueError(f"method must be one of {', '.join(_METHODS)}, got {method!r}")
        if out is None:
            out = tree.empty(size)
        else:
            tree.check_out(out, size)
        if size:
            found = tree.sample(size, method, self._seed, self._drawn, out)
            if found < size:
                self._refuse_draw(size, found)
            self._drawn += 1 if method == "systematic" else size
        return out

    # ---- copies and pickles

    def state_dict(self) -> dict[str, Any]:
        """All that the next draws depend on: a copy of the weights, the seed, and how many draws there were."""
        weights = np.array(to_host(self._tree.weights(None)))
        return {"kind": "SumTree", "weights": weights, "seed": self._seed, "drawn": self._drawn}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where `state_dict` was taken, of a tree of any n: the next draws are the same, bit for bit. O(n).

        Raises
        ------
        ValueError, TypeError
            No such state, or a damaged one; nothing has changed then.
        """
        if not isinstance(state, Mapping):
            raise TypeError(f"state must be a dict made by state_dict, got {type(state).__name__}")
        if missing := {"kind", "weights", "seed", "drawn"} - set(state):
            raise ValueError(f"state lacks {', '.join(sorted(missing))}: it was not made by state_dict of a SumTree")
        if state["kind"] != "SumTree":
            raise ValueError(f"state has kind {state['kind']!r}, this is a SumTree")
        seed = count(state["seed"], "state['seed']", 0, 2**64 - 1)
        drawn = count(state["drawn"], "state['drawn']", 0, _DRAWS)
        self._tree = self._filled(state["weights"])
        self._seed, self._drawn = seed, drawn

    def __getstate__(self) -> dict[str, Any]:
        return self.state_dict() | {"operand": tuple(self._operand), "backend": self._backend}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._operand, self._backend = Operand(*state["operand"]), state["backend"]
        self.load_state_dict(state)

    # ---- refusals

    def _refuse(self, status: int, index: Any, weight: Any) -> None:
        if status == 1:
            self._refuse_index(index)
        _check(status, weight)

    def _refuse_index(self, index: Any) -> None:
        host = to_host(index)
        wrong = host[(host < 0) | (host >= self.n)]
        raise ValueError(f"index must lie from 0 to {self.n - 1}, got {wrong.flat[0]}")

    def _refuse_mass(self, mass: Any) -> None:
        host = np.atleast_1d(to_host(mass) if np.ndim(mass) else np.array(mass))
        wrong = host[~((host >= 0) & (host < self.total))]
        raise ValueError(f"mass must be at least 0 and below the total {self.total!r}, got {float(wrong.flat[0])!r}")

    def _refuse_draw(self, size: int, found: int) -> None:
        if self.total == 0.0:
            raise ValueError("all weights are 0: there is nothing to draw; give some a positive weight by update")
        raise ValueError(f"size={size} draws without replacement, but only {found} weights are positive")


def _vector(data: Any, name: str) -> Any:
    if data.ndim != 1:
        raise ValueError(f"{name} must be a (n,) array, got shape {tuple(data.shape)}")
    return data


def _check(status: int, weight: Any) -> None:
    """An error for what a change of weights was refused for."""
    if status == 2:
        host = to_host(weight)
        place = int(np.flatnonzero(~((host >= 0) & (host < np.inf)))[0])
        raise ValueError(f"weights must be finite and at least 0, got {host[place]} (number {place})")
    if status == 4:
        raise MemoryError("no memory to remember the weights that a change to very large ones may have to restore")
    if status == 3:
        raise ValueError("the sum of the weights overflows float64: divide all of them by the same large number")
