"""n vectors of d coordinates, in any of the forms a caller may hold them.

Three forms, one view: a stacked (n, ...) array; a sequence of n arrays; a sequence of n sequences of layer arrays. A
vector is the concatenation of its layers, which is never made: kernels walk the layers. A stacked array or a sequence
of single arrays is the case of one layer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ._arrays import ITEMSIZE, Unpacked, copy, empty_like_array, finite, unpack, widen
from ._checks import array_out
from ._dispatch import Operand


class Layer:
    """One layer of all n vectors: `data` is an (n, *shape) array whose rows are contiguous, or a list of n arrays."""

    __slots__ = ("data", "dtype", "shape", "size", "wrap")

    def __init__(self, data: Any, dtype: str, shape: tuple[int, ...], wrap: Callable[[Any], Any]) -> None:
        self.data = data
        self.dtype = dtype
        self.shape = shape
        self.wrap = wrap
        self.size = shape[0] if len(shape) == 1 else math.prod(shape)

    def matrix(self) -> np.ndarray:
        """The layer as a float64 (n, size) copy on the host."""
        return np.stack([np.ravel(widen(row, self.dtype)) for row in self.data])


class Rows:
    """n vectors in layers; see the module. `parse` makes one from a caller's argument.

    A *stack* is memory for m vectors: one (m, *shape) array per layer. *Parts* are one vector's layer arrays.
    """

    __slots__ = ("d", "form", "layers", "n", "name", "nbytes", "operand")

    def __init__(self, name: str, n: int, layers: list[Layer], operand: Operand, form: str) -> None:
        self.name = name
        self.n = n
        self.layers = layers
        self.operand = operand
        self.form = form
        if len(layers) == 1:
            self.d = layers[0].size
            self.nbytes = n * self.d * ITEMSIZE[layers[0].dtype]
        else:
            self.d = sum(layer.size for layer in layers)
            self.nbytes = n * sum(layer.size * ITEMSIZE[layer.dtype] for layer in layers)

    def wrap(self, data: Any) -> Any:
        """A kernel's result as the caller's type of array."""
        return self.layers[0].wrap(data)

    # ---- reading the vectors

    def matrix(self) -> np.ndarray:
        """The vectors as a float64 (n, d) copy on the host: for the reference and for error messages."""
        return np.concatenate([layer.matrix() for layer in self.layers], axis=1)

    def bad_rows(self) -> np.ndarray:
        """(n,) bool: which vectors have a NaN or an Inf."""
        bad = np.zeros(self.n, bool)
        for layer in self.layers:
            bad |= [not finite(row, layer.dtype).all() for row in layer.data]
        return bad

    def bad_at(self, coordinate: int) -> np.ndarray:
        """(n,) bool: which vectors have a NaN or an Inf at one coordinate."""
        for layer in self.layers:
            if coordinate < layer.size:
                return np.array([not finite(row.reshape(-1)[coordinate : coordinate + 1], layer.dtype)[0] for row in layer.data])
            coordinate -= layer.size
        raise IndexError(coordinate)

    def take(self, indices: Sequence[int]) -> Rows:
        """The vectors at `indices`, in that order, without copying them."""
        return self._with([[_row(layer, i) for i in indices] for layer in self.layers])

    def append(self, parts: Sequence[Any]) -> Rows:
        """The vectors and one more, whose layer arrays are `parts` (shape, dtype and device as theirs)."""
        return self._with([[*(_row(layer, i) for i in range(self.n)), part]
                           for layer, part in zip(self.layers, parts, strict=True)])

    def single(self, parts: Sequence[Any]) -> Rows:
        """One vector, whose layer arrays are `parts`, as rows."""
        return self._with([[part] for part in parts])

    def parse_one(self, vector: Any, name: str) -> list[Any]:
        """The layer arrays of an argument that must be structured like one of the vectors."""
        arrays = vector if self.form == "layers" else [vector]
        if not isinstance(arrays, list | tuple) or len(arrays) != len(self.layers):
            raise ValueError(f"{name} must be a list of {len(self.layers)} arrays, one per layer of a vector of {self.name}")
        parts = []
        for k, (array, layer) in enumerate(zip(arrays, self.layers, strict=True)):
            label = f"{name}[{k}]" if self.form == "layers" else name
            data, operand, _ = unpack(array, label)
            if tuple(data.shape) != layer.shape or operand != (self.operand.device, layer.dtype):
                raise ValueError(f"{label} is {operand.dtype} {tuple(data.shape)} on {operand.device}, but the vectors of "
                                 f"{self.name} are {layer.dtype} {layer.shape} on {self.operand.device}")
            contiguous = operand.device != "cpu" or data.flags.c_contiguous
            parts.append(data if contiguous else np.ascontiguousarray(data).reshape(data.shape))
        return parts

    def clone(self) -> Rows:
        """The vectors in memory of their own."""
        layers = []
        for layer, stack in zip(self.layers, self.empty(self.n), strict=True):
            for i in range(self.n):
                stack[i, ...] = _row(layer, i)
            layers.append(Layer(stack, layer.dtype, layer.shape, layer.wrap))
        return Rows(self.name, self.n, layers, self.operand, self.form)

    def _with(self, data: list[list[Any]]) -> Rows:
        layers = [Layer(rows, layer.dtype, layer.shape, layer.wrap) for rows, layer in zip(data, self.layers, strict=True)]
        return Rows(self.name, len(data[0]), layers, self.operand, "vectors" if self.form == "stacked" else self.form)

    # ---- making results

    def empty(self, m: int) -> list[Any]:
        """Memory for m vectors of this structure, on the device of the vectors: one (m, *shape) array per layer."""
        return [empty_like_array(layer.data, (m, *layer.shape), layer.dtype) for layer in self.layers]

    def check_out(self, out: Any) -> list[Any]:
        """The parts of `out=` for one vector; TypeError or ValueError when it does not fit."""
        outs = out if self.form == "layers" else [out]
        if not isinstance(outs, list | tuple) or len(outs) != len(self.layers):
            raise ValueError(f"out must be a list of {len(self.layers)} arrays, one per layer")
        return [array_out(part, layer.shape, layer.dtype, self.operand.device, f"out[{k}]" if self.form == "layers" else "out")
                for k, (part, layer) in enumerate(zip(outs, self.layers, strict=True))]

    def check_outs(self, out: Any, m: int) -> list[list[Any]]:
        """The parts of `out=` for m vectors, per vector."""
        if self.form == "stacked":
            layer = self.layers[0]
            stack = array_out(out, (m, *layer.shape), layer.dtype, self.operand.device)
            return [[stack[a, ...]] for a in range(m)]
        if not isinstance(out, list | tuple) or len(out) != m:
            raise ValueError(f"out must be a list of {m} vectors structured like those of {self.name}")
        return [self.check_out(vector) for vector in out]

    def vector(self, parts: Sequence[Any]) -> Any:
        """One vector in the caller's structure and array types."""
        if self.form != "layers":
            return self.layers[0].wrap(parts[0])
        return [layer.wrap(part) for layer, part in zip(self.layers, parts, strict=True)]

    def vectors(self, stacks: Sequence[Any]) -> Any:
        """m vectors in the caller's structure and array types."""
        if self.form == "stacked":
            return self.layers[0].wrap(stacks[0])
        return [self.vector([stack[a, ...] for stack in stacks]) for a in range(len(stacks[0]))]

    def may_overlap(self, parts: Sequence[Any]) -> bool:
        """Whether the parts of `out=` may share memory with the vectors. On a device, where that is not known, True."""
        if self.operand.device != "cpu":
            return True
        arrays = [a for layer in self.layers for a in (layer.data if isinstance(layer.data, list) else [layer.data])]
        return any(np.may_share_memory(part, a) for part in parts for a in arrays)

    def copy_row(self, index: int, out: Any, parts: Sequence[Any] | None) -> Any:
        """A copy of vector `index`, in `out` when there is one (`parts` are its parts)."""
        if parts is None and len(self.layers) == 1 and type(self.layers[0].data) is np.ndarray:  # the hot path
            return self.layers[0].wrap(self.layers[0].data[index, ...].copy())
        rows = [_row(layer, index) for layer in self.layers]
        if parts is None:
            return self.vector([copy(row) for row in rows])
        return self.store([copy(row) for row in rows] if self.may_overlap(parts) else rows, out, parts)

    def store(self, result: Sequence[Any], out: Any, parts: Sequence[Any] | None) -> Any:
        """The parts of a result as a new vector, or copied into `out`."""
        if parts is None:
            return self.vector(result)
        for part, value in zip(parts, result, strict=True):
            part[...] = value
        return out


def _row(layer: Layer, index: int) -> Any:
    """One vector's array of a layer; never a scalar, so that layers without dimensions keep their array."""
    return layer.data[index] if isinstance(layer.data, list) else layer.data[index, ...]


def parse(x: Any, name: str = "x") -> Rows:
    """The vectors of an argument in any of the three forms.

    Copies only a layer whose rows are not contiguous. Raises TypeError or ValueError, naming the element at fault, when
    the argument has none of the forms, its vectors differ in structure, shape or dtype, or host and device mix.
    """
    if type(x) is not np.ndarray and isinstance(x, list | tuple):
        if not x:
            raise ValueError(f"{name} is empty: it must hold at least one vector")
        return _parse_layers(x, name) if isinstance(x[0], list | tuple) else _parse_vectors(x, name)
    data, operand, wrap = unpack(x, name)
    shape = data.shape if type(data) is np.ndarray else tuple(data.shape)
    if len(shape) < 2 or shape[0] == 0:
        raise ValueError(f"{name} has shape {shape}, but must be (n, d) with n >= 1: one row per vector")
    if operand.device == "cpu" and not data.flags.c_contiguous and not data[0].flags.c_contiguous:
        data = np.ascontiguousarray(data)
    return Rows(name, shape[0], [Layer(data, operand.dtype, shape[1:], wrap)], operand, "stacked")


def _parse_vectors(x: Sequence[Any], name: str) -> Rows:
    unpacked = [unpack(vector, f"{name}[{i}]") for i, vector in enumerate(x)]
    return Rows(name, len(x), [_layer(unpacked, name, "")], unpacked[0][1], "vectors")


def _parse_layers(x: Sequence[Sequence[Any]], name: str) -> Rows:
    layer_count = len(x[0])
    if layer_count == 0:
        raise ValueError(f"{name}[0] is empty: a vector must have at least one layer")
    for i, vector in enumerate(x):
        if not isinstance(vector, list | tuple) or len(vector) != layer_count:
            raise ValueError(f"{name}[{i}] must be a sequence of {layer_count} layers like {name}[0]")
    layers = []
    first = unpack(x[0][0], f"{name}[0][0]")[1]
    for k in range(layer_count):
        unpacked = [unpack(vector[k], f"{name}[{i}][{k}]") for i, vector in enumerate(x)]
        _same_device(unpacked[0][1], first, f"{name}[0][{k}]", f"{name}[0][0]")
        layers.append(_layer(unpacked, name, f"[{k}]"))
    widest = "float64" if any(layer.dtype == "float64" for layer in layers) else first.dtype
    return Rows(name, len(x), layers, first._replace(dtype=widest), "layers")


def _layer(unpacked: list[Unpacked], name: str, suffix: str) -> Layer:
    """One layer from n arrays, after checking that they agree."""
    head, first, wrap = unpacked[0]
    shape = tuple(head.shape)
    rows = []
    for i, (data, operand, _) in enumerate(unpacked):
        if operand is not first or data.shape != shape:
            _same_device(operand, first, f"{name}[{i}]{suffix}", f"{name}[0]{suffix}")
            if tuple(data.shape) != shape or operand.dtype != first.dtype:
                raise ValueError(f"{name}[{i}]{suffix} is {operand.dtype} {tuple(data.shape)}, but must be "
                                 f"{first.dtype} {shape} like {name}[0]{suffix}")
        if operand.device == "cpu" and not data.flags.c_contiguous:
            data = np.ascontiguousarray(data)
        rows.append(data)
    return Layer(rows, first.dtype, shape, wrap)


def _same_device(operand: Operand, first: Operand, name: str, first_name: str) -> None:
    if operand.device != first.device:
        raise TypeError(f"{name} is on {operand.device}, but {first_name} is on {first.device}: move all to one device")
