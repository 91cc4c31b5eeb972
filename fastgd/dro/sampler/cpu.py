"""The CPU kernels' front: holds csrc/dro_chi2.c's and csrc/dro_kl.c's structs and their memory. Classes as in `reference.py`.

`cressie_read` is the reference's class: other exponents than those two have no C kernel, and the NumPy path is the one there is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..._native import ffi, lib
from .reference import cressie_read

__all__ = ["chi2", "cressie_read", "kl"]

_INDEX, _DOUBLE, _INT = ffi.typeof("int64_t[]"), ffi.typeof("double[]"), ffi.typeof("int32_t[]")
_from_buffer = ffi.from_buffer
_CLOSE = 1e-9  # how well running sums agree with sums made anew
_RANGE = 2500.0  # of a (z_i - s) in the KL sampler: csrc/dro_kl.c lets it grow to 2000, and by one step's gains


class _Player:
    """A struct whose arrays Python owns. Its state is its numbers and, for the active elements, what they are and their z."""

    backend = "cpu"
    _type: str
    _functions: tuple[Any, Any, Any, Any, Any]
    _numbers: tuple[str, ...]

    def __init__(self, n: int, radius: float, floor: float, step_size: float, seed: int, exponent: float) -> None:
        self._arguments = (n, radius, floor, step_size, seed, exponent)
        self._n = n
        self._keep: list[Any] = []
        self._w = w = ffi.new(self._type)
        w.own.n, w.own.floor, w.own.step_size, w.own.seed = n, floor, step_size, seed
        w.own.fixed = n == 1 or 2.0 * radius * n < 2.0**-110  # no n p_i differs from 1 by a rounding error then
        self._update, self._sample, self._probability, self._update_one, self._sample_one = self._functions
        self._start(radius)

    def _start(self, radius: float) -> None:
        raise NotImplementedError

    def _zeros(self, size: int, dtype: Any, ctype: Any, offset: int = 0) -> Any:
        """Zeroed memory, `offset` elements behind a boundary of 64 bytes: pages that are never touched cost nothing."""
        itemsize = np.dtype(dtype).itemsize
        raw = np.zeros(size + offset + 64 // itemsize, dtype)
        start = (-raw.ctypes.data % 64) // itemsize + offset
        pointer = _from_buffer(ctype, raw[start : start + size])
        self._keep.append(pointer)
        return pointer

    def sample(self, size: int) -> np.ndarray:
        out = np.empty(size, np.int64)
        self._sample(self._w, size, _from_buffer(_INDEX, out))
        return out

    def update(self, index: np.ndarray, loss: np.ndarray) -> int:
        refused = self._update(self._w, len(index), _from_buffer(_INDEX, index), _from_buffer(_DOUBLE, loss))
        if refused < 0:
            raise MemoryError("no memory for the gains of this batch")
        return refused

    def sample_one(self) -> int:
        return self._sample_one(self._w)

    def update_one(self, index: int, loss: float) -> int:
        return self._update_one(self._w, index, loss)

    def probability(self, index: np.ndarray) -> np.ndarray:
        out = np.empty(len(index))
        self._probability(self._w, len(index), _from_buffer(_INDEX, index), _from_buffer(_DOUBLE, out))
        return out

    def probabilities(self) -> np.ndarray:
        out = np.empty(self._n)
        self._probability(self._w, self._n, ffi.NULL, _from_buffer(_DOUBLE, out))
        return out

    def state(self) -> dict[str, Any]:
        item = _copied(self._w.item, self._w.active, np.int32)
        return {"drawn": self._w.own.drawn, **{name: getattr(self._w, name) for name in self._numbers}, "item": item,
                "z": self._z(item)}

    def restored(self, state: Mapping[str, Any]) -> _Player:
        """Another one of the same arguments in that state; ValueError where it is none."""
        other = type(self)(*self._arguments)
        w = other._w
        w.own.drawn = state["drawn"]
        for name in self._numbers:
            setattr(w, name, state[name])
        item, z = _array(state, "item", np.int32), _array(state, "z", np.float64)
        if not all(np.isfinite(getattr(w, name)) for name in self._numbers) or w.a <= 0.0 or w.s < 0.0:
            raise ValueError("numbers")
        if not (len(item) == len(z) == w.active and len(np.unique(item)) == len(item)):
            raise ValueError("item and z")
        if len(item) and (item.min() < 0 or item.max() >= self._n or not np.isfinite(z).all() or z.min() <= w.s):
            raise ValueError("item and z")
        with np.errstate(all="ignore"):
            if not abs(other._total(z) - 1.0) <= 1e-9:  # NaN is no distribution either
                raise ValueError("the probabilities")
            other._fill(state, item, z)
        return other

    def _total(self, z: np.ndarray) -> float:
        """The sum of all probabilities, from the numbers and the active elements' z; NaN where they are none."""
        raise NotImplementedError

    def _z(self, item: np.ndarray) -> np.ndarray:
        raise NotImplementedError

    def _fill(self, state: Mapping[str, Any], item: np.ndarray, z: np.ndarray) -> None:
        raise NotImplementedError


def _copied(pointer: Any, size: int, dtype: Any) -> np.ndarray:
    """`size` numbers from there on."""
    out = np.empty(size, dtype)
    ffi.memmove(_from_buffer(out), pointer, out.nbytes)
    return out


def _array(state: Mapping[str, Any], name: str, dtype: Any, ndim: int = 1) -> np.ndarray:
    array = np.array(state[name])
    if array.dtype != dtype or array.ndim != ndim:
        raise ValueError(name)
    return array


def _heaped(z: np.ndarray, children: int) -> bool:
    """Whether no element is smaller than its parent."""
    return bool((z[1:] >= z[np.arange(len(z) - 1) // children]).all())


class chi2(_Player):
    _type = "fgd_chi2 *"
    _functions = (lib.fgd_chi2_update, lib.fgd_chi2_sample, lib.fgd_chi2_probability, lib.fgd_chi2_update_one,
                  lib.fgd_chi2_sample_one)
    _numbers = ("v", "a", "s", "sum", "square", "active", "age")

    def _start(self, radius: float) -> None:
        w, n = self._w, self._n
        keep = 1.0 - w.own.floor
        w.excess, w.v, w.a = 2.0 * radius / keep / keep, 1.0 / n, 1.0
        w.tree.data = self._zeros(lib.fgd_chi2_layout(w, n), np.float64, _DOUBLE)
        nodes = w.tree.first[w.tree.levels] - w.tree.first[1]
        w.count = self._zeros(nodes, np.int32, _INT)
        w.key, w.item = self._zeros(n, np.float64, _DOUBLE, 7), self._zeros(n, np.int32, _INT)
        w.slot = self._zeros(n, np.int32, _INT)

    def divergence(self) -> float:
        return lib.fgd_chi2_divergence(self._w)

    def _z(self, item: np.ndarray) -> np.ndarray:
        return _copied(self._w.key, len(item), np.float64)

    def _total(self, z: np.ndarray) -> float:
        w = self._w
        return self._n * w.v + w.a * float((z - w.s).sum()) if w.v >= 0.0 else np.nan

    def _fill(self, state: Mapping[str, Any], item: np.ndarray, z: np.ndarray) -> None:
        w = self._w
        if not _heaped(z, 8) or w.age < 0:
            raise ValueError("z and age")
        if not (abs(w.sum - z.sum()) <= _CLOSE * (z.sum() + 1.0 / w.a)
                and abs(w.square - (z * z).sum()) <= _CLOSE * ((z * z).sum() + 1.0 / w.a / w.a)):
            raise ValueError("sum and square")
        lib.fgd_chi2_restore(self._w, len(item), _from_buffer(_INT, item), _from_buffer(_DOUBLE, z))


class kl(_Player):
    _type = "fgd_kl *"
    _functions = (lib.fgd_kl_update, lib.fgd_kl_sample, lib.fgd_kl_probability, lib.fgd_kl_update_one, lib.fgd_kl_sample_one)
    _numbers = ("log_v", "a", "s", "active", "width", "base", "top", "heaped")

    def _start(self, radius: float) -> None:
        w, n = self._w, self._n
        w.radius = radius
        w.z = self._zeros(n, np.float64, _DOUBLE)
        w.item, w.slot = self._zeros(n, np.int32, _INT), self._zeros(n, np.int32, _INT)
        lib.fgd_kl_start(w)

    def divergence(self) -> float:
        return lib.fgd_kl_divergence(self._w)

    def _views(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Of z, and of the bins in use: where they start, elements taken out, moments."""
        w = self._w
        bins = w.top + 1
        return (np.frombuffer(ffi.buffer(w.z, 8 * self._n)), np.frombuffer(ffi.buffer(w.start), np.int64)[: bins + 1],
                np.frombuffer(ffi.buffer(w.taken), np.int64)[:bins], np.frombuffer(ffi.buffer(w.moment)).reshape(-1, 16)[:bins])

    def state(self) -> dict[str, Any]:
        _, start, taken, moment = self._views()
        return {**super().state(), "start": start.copy(), "taken": taken.copy(), "moment": moment.copy()}

    def _z(self, item: np.ndarray) -> np.ndarray:
        return self._views()[0][item]

    def _total(self, z: np.ndarray) -> float:
        w = self._w
        return (self._n - len(z)) * np.exp(w.log_v) + float(np.exp(w.log_v + w.a * (z - w.s)).sum())

    def _fill(self, state: Mapping[str, Any], item: np.ndarray, z: np.ndarray) -> None:
        w = self._w
        arrays = [_array(state, name, dtype, ndim)
                  for name, dtype, ndim in (("start", np.int64, 1), ("taken", np.int64, 1), ("moment", np.float64, 2))]
        if not (0 <= w.top < 512 and w.base >= 0 and w.width > 0.0 and -1 <= w.heaped <= w.top):
            raise ValueError("bins")
        views = self._views()
        if any(array.shape != view.shape for array, view in zip(arrays, views[1:], strict=True)):
            raise ValueError("start, taken and moment")
        start, taken, moment = arrays
        size = np.diff(start)
        if start[0] != 0 or start[-1] != len(item) or size.min() < 0 or taken.min() < 0 or not np.isfinite(moment).all():
            raise ValueError("start, taken and moment")
        if not w.a * w.width <= 1.0 or not w.a * (w.width * (w.base + w.top + 1) - w.s) <= _RANGE:
            raise ValueError("width, base and top")
        bin = np.repeat(np.arange(len(size)), size)
        if (np.maximum((z / w.width).astype(np.int64) - w.base, 0) != bin).any():
            raise ValueError("start")
        kept = slice(1 if w.base > 0 else 0, None)  # bins that keep moments
        powers = np.zeros_like(moment)
        np.add.at(powers, bin, (z / w.width - w.base - bin)[:, None] ** np.arange(moment.shape[1]))
        if not np.allclose(moment[kept], powers[kept], rtol=1e-6, atol=1e-6 * (1 + taken.max())):
            raise ValueError("moment")
        if w.heaped >= 0 and not (start[w.heaped] == 0 and size[w.heaped] > 0 and _heaped(z[: size[w.heaped]], 4)):
            raise ValueError("heaped")
        views[0][item] = z
        for array, view in zip(arrays, views[1:], strict=True):
            view[...] = array
        ffi.memmove(w.item, _from_buffer(item), item.nbytes)
        lib.fgd_kl_restore(w)
