"""Krum with memory: n vectors that change one at a time, as in asynchronous training."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import _threads
from .._arrays import narrow, to_host, widen
from .._checks import count, index_list
from .._dispatch import Operand, find, runs
from .._rows import Layer, Rows, parse
from .distances import KrumInfo, _check_krum

_HOST = Operand("cpu", "float64")
#: How far two computations of one squared distance may differ, relatively: float32 and the halves, float64.
_AGREE = {"float64": 1e-13, "other": 8e-6}
_TINY = 1e-290  # where squares underflow, no relative bound holds


@runs("robust.pairwise_sqdist", "robust.select", "robust.krum_scores:float64")
class KrumState:
    """Krum over n vectors that arrive one at a time: an update costs one row of distances, O(n d), not O(n^2 d).

    Parameters
    ----------
    x : (n, d) array, or sequence of n arrays, or sequence of n sequences of layer arrays
        The first vectors; float32, float64, float16 or bfloat16. They are copied: the state owns its vectors, and later
        changes of `x` do not reach it.
    f : int
        Byzantine vectors to tolerate, f >= 0 and n >= 2 f + 3 (n > 2 f when `neighbors` is given).
    neighbors : int, optional
        k, from 1 to n - 1. Default n - f - 2 as in the paper.
    backend : {"auto", "cpu", "cuda", "reference"}, optional
        Where the state's methods run; see `fastgd.use`.
    num_threads : int, optional
        Threads they use at most; see `fastgd.use`.

    Raises
    ------
    ValueError, TypeError
        As `krum`, except that bad vectors are no error before `select`. After an error in a method the state is what it was.

    Notes
    -----
    `select()` gives what `krum` gives for the current vectors, to the bit, whatever the order of updates: on the host an
    update computes the bits that `pairwise_sqdist` would. Sparse updates are cheaper and inexact; the state keeps a bound
    on their error, and computes a row anew as soon as a result could depend on it.
    Cost: an update reads all vectors once; a sparse one takes O(n s); `select` O(n^2 log^2 n), and one vector copied.
    Memory: one copy of the vectors, O(n^2) numbers. States can be pickled. Methods of one state must not run at the same
    time in several threads. Deterministic.

    References
    ----------
    Blanchard, El Mhamdi, Guerraoui, Stainer: Machine Learning with Adversaries (NIPS 2017).

    Examples
    --------
    >>> import fastgd, numpy as np
    >>> state = fastgd.robust.KrumState(np.array([[1.0], [2.0], [3.0], [2.5], [50.0]]), 1)
    >>> state.select()
    array([2.])
    >>> state.update(0, np.array([3.1]))
    >>> state.select()
    array([3.])
    """

    def __init__(self, x: Any, f: int, *, neighbors: int | None = None, backend: str | None = None,
                 num_threads: int | None = None) -> None:
        rows = parse(x)
        self._k = _check_krum(rows.n, f, neighbors)
        self._f = count(f, "f", 0)
        self._options = (neighbors, backend, num_threads)
        self._rows = rows.clone()
        self._compute_all()

    # ---- the vectors

    @property
    def n(self) -> int:
        """The number of vectors."""
        return self._rows.n

    @property
    def bad_rows(self) -> np.ndarray:
        """(n,) bool: which vectors have a NaN or an Inf now; a copy."""
        return self._bad.copy()

    @property
    def sqdist(self) -> np.ndarray:
        """(n, n) float64: what `pairwise_sqdist` gives for the current vectors; a copy, on the host."""
        self._refresh()
        return self._sqdist.copy()

    def vector(self, row: int) -> Any:
        """A copy of the current vector `row`, in the structure of x."""
        return self._rows.copy_row(count(row, "row", 0, self.n - 1), None, None)

    def update(self, row: int, value: Any) -> None:
        """Replace vector `row` by `value`, an array or list of layer arrays structured like it.

        A value with a NaN or an Inf is stored, and counts as a bad vector until the next update. Cost: one read of all
        vectors.
        """
        row = count(row, "row", 0, self.n - 1)
        self._replace(row, self._rows.parse_one(value, "value"))

    def update_sparse(self, row: int, index: Any, values: Any) -> None:
        """Set the coordinates `index` of vector `row` to `values`: O(n s) for s coordinates. On the host only.

        Parameters
        ----------
        row : int
            Which vector.
        index : (s,) array of integers, without duplicates
            Coordinates in the flattened vector, layers one behind the other, from 0 to d - 1.
        values : (s,) array of numbers
            Their new values, rounded to the dtype of their layer.
        """
        row = count(row, "row", 0, self.n - 1)
        places = self._check_sparse(index, values)
        others = np.concatenate([widen(layer.data.reshape(self.n, -1)[:, place], layer.dtype)
                                 for layer, place, _ in places], axis=1)
        old, new = others[row], np.concatenate([widen(value, layer.dtype) for layer, _, value in places])
        if self._bad[row] or not np.isfinite(new).all():
            parts = [layer.data[row, ...].copy() for layer in self._rows.layers]
            for part, (_, place, value) in zip(parts, places, strict=True):
                part.reshape(-1)[place] = value
            self._replace(row, parts)
            return
        with np.errstate(over="ignore", invalid="ignore"):
            gained, lost = (new - others) ** 2, (old - others) ** 2
            change, size = (gained - lost).sum(axis=1), (gained + lost).sum(axis=1)
            before = self._sqdist[row]
            after = np.maximum(before + change, 0.0)
            rounding = (len(new) + 4) * 2.0**-52 * (size + before + after)
            error = np.maximum(self._error[row], self._relative() * before) + rounding
        known = np.isfinite(after) & np.isfinite(error)
        known[row] = True
        after, error = np.where(known, after, np.inf), np.where(known, error, np.inf)
        after[row] = error[row] = 0.0
        for layer, place, value in places:
            layer.data[row, ...].reshape(-1)[place] = value
        self._set(row, np.where(self._bad, np.inf, after))
        self._error[row], self._error[:, row] = error, error
        self._stale[row] = True

    def _check_sparse(self, index: Any, values: Any) -> list[tuple[Layer, np.ndarray, np.ndarray]]:
        """For each layer the coordinates in it that change, and their values in its dtype."""
        if self._rows.operand.device != "cpu":
            raise TypeError("update_sparse works on host arrays alone: pass the whole vector to update")
        index, values = np.asarray(index), np.asarray(values)
        if index.dtype.kind not in "iu" and index.size:
            raise TypeError(f"index must hold integers, got dtype {index.dtype}")
        if values.dtype.kind not in "fiu":
            raise TypeError(f"values must hold real numbers, got dtype {values.dtype}")
        if index.ndim != 1 or values.shape != index.shape:
            raise ValueError(f"index and values must be (s,) arrays of one length, got {index.shape} and {values.shape}")
        index = index.astype(np.int64)
        if index.size and (index.min() < 0 or index.max() >= self._rows.d):
            raise ValueError(f"index must lie from 0 to {self._rows.d - 1}, got {index.min()} to {index.max()}")
        if len(np.unique(index)) < len(index):
            raise ValueError("index holds a coordinate twice: give each its last value alone")
        places, start = [], 0
        for layer in self._rows.layers:
            inside = (start <= index) & (index < start + layer.size)
            places.append((layer, index[inside] - start, narrow(values[inside].astype(np.float64), layer.dtype)))
            start += layer.size
        return places

    # ---- Krum

    def scores(self) -> np.ndarray:
        """(n,) float64: the Krum scores of the current vectors, +inf for bad ones."""
        self._refresh()
        return self._scores(self._sqdist)

    def select(self, *, return_info: bool = False) -> Any:
        """What `krum` returns for the current vectors: a copy of the chosen one, with `return_info` also a `KrumInfo`.

        Raises
        ------
        ValueError
            More than f vectors are bad.
        """
        if np.count_nonzero(self._bad) > self._f:
            raise ValueError(f"rows {index_list(self._bad)} of the state have a NaN or an Inf: {self._bad.sum()} bad vectors, "
                             f"but only f={self._f} were declared: update them, or make a state with a larger f")
        if self._certified() and (return_info or not self._certain()):
            kernel = find("robust.select", self._rows.operand, self._options[1])
            selected, scores, _ = kernel(self._rows, self._k, 1, self._threads())
            vector = self._rows.copy_row(int(selected[0]), None, None)
            return (vector, KrumInfo(selected, scores, self._bad.copy())) if return_info else vector
        if return_info or not self._certain():
            self._refresh()
        scores = self._scores(self._sqdist)
        best = int(np.lexsort((scores, self._bad))[0])
        vector = self._rows.copy_row(best, None, None)
        return (vector, KrumInfo(np.array([best]), scores, self._bad.copy())) if return_info else vector

    # ---- copies and pickles

    def __getstate__(self) -> dict[str, Any]:
        kept = {name: value for name, value in self.__dict__.items() if name != "_rows"}
        return kept | {"x": self._rows.vectors([layer.data for layer in self._rows.layers])}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._rows = parse(state.pop("x")).clone()
        self.__dict__.update({name: value.copy() if isinstance(value, np.ndarray) else value for name, value in state.items()})

    # ---- the distances

    def _compute_all(self) -> None:
        sqdist, bad = map(to_host, find("robust.pairwise_sqdist", self._rows.operand, self._options[1])(
            self._rows, self._threads()))
        n = self.n
        self._sqdist, self._bad = np.array(sqdist), np.array(bad)
        self._error, self._stale = np.zeros((n, n)), np.zeros(n, bool)

    def _replace(self, row: int, parts: list[Any]) -> None:
        """Vector `row` becomes `parts`; its distances are computed before anything changes."""
        rows = self._rows.take(range(self.n))
        for layer, part in zip(rows.layers, parts, strict=True):
            layer.data[row] = part
        sqdist, bad = self._distances(rows, row)
        for layer, part in zip(self._rows.layers, parts, strict=True):
            layer.data[row, ...] = part
        self._bad[row] = bad
        self._store(row, sqdist)

    def _distances(self, rows: Rows, row: int) -> tuple[np.ndarray, bool]:
        """The squared distances of a vector to all, and whether it is bad."""
        if rows.operand.device == "cpu":
            sqdist, bad = find("robust.pairwise_row", rows.operand, self._options[1])(rows, row, self._threads())
        else:
            point = rows.take([row])
            sqdist, bad = map(to_host, find("robust.sqdist_to", rows.operand, self._options[1])(rows, point, self._threads()))
        return np.array(sqdist), bool(bad[row])

    def _store(self, row: int, sqdist: np.ndarray) -> None:
        """New distances of vector `row`. On a device they have other bits than a full computation gives."""
        self._set(row, np.where(self._bad | self._bad[row], np.inf, sqdist))
        self._stale[row] = self._rows.operand.device != "cpu"
        self._error[row] = self._error[:, row] = self._relative() * self._sqdist[row] if self._stale[row] else 0.0

    def _set(self, row: int, sqdist: np.ndarray) -> None:
        self._sqdist[row] = self._sqdist[:, row] = sqdist
        self._sqdist[row, row] = 0.0

    def _refresh(self) -> None:
        """Give every distance the bits of a full computation."""
        stale = np.flatnonzero(self._stale).tolist()
        if 2 * len(stale) > self.n or (len(stale) and self._rows.operand.device != "cpu"):
            self._compute_all()
            return
        for row in stale:
            self._store(row, self._distances(self._rows, row)[0])

    def _certified(self) -> bool:
        """Whether `krum` answers for the errors of all its distances on these vectors (see docs/robust.md)."""
        operand = self._rows.operand
        return self.n > 96 and operand.device == "cpu" and operand.dtype != "float64"

    def _certain(self) -> bool:
        """Whether the choice cannot depend on the errors of stale rows, or of all rows where `krum` does not depend on them."""
        if not self._stale.any() and not self._certified():
            return True
        with np.errstate(invalid="ignore"):  # Inf - Inf, where something is not known
            error = self._error + 2 * self._relative() * (self._sqdist + self._error) + _TINY
            if not self._certified():
                error[~(self._stale | self._stale[:, None])] = 0.0
            known = np.isfinite(error) & np.isfinite(self._sqdist)
            low = np.where(known, np.maximum(self._sqdist - error, 0.0), np.where(error > 0.0, 0.0, self._sqdist))
            high = np.where(known, self._sqdist + error, np.inf)
        low[self._bad], low[:, self._bad] = np.inf, np.inf
        np.fill_diagonal(low, 0.0)
        np.fill_diagonal(high, 0.0)
        least, most = self._scores(low) * (1 - 1e-12), self._scores(high) * (1 + 1e-12)
        best = int(np.argmin(most))
        return bool((np.delete(least, best) > most[best]).all())

    def _scores(self, sqdist: np.ndarray) -> np.ndarray:
        choice = "reference" if self._options[1] == "reference" else None
        scores = np.array(find("robust.krum_scores", _HOST, choice)(sqdist.copy(), self._k))
        scores[self._bad] = np.inf
        return scores

    def _relative(self) -> float:
        return _AGREE["float64" if self._rows.operand.dtype == "float64" else "other"]

    def _threads(self) -> int:
        return _threads.budget(self._options[2], self._rows.nbytes)
