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

from ._arrays import STORAGE, Unpacked, unpack
from ._dispatch import Operand


class Layer:
    """One layer of all n vectors: `data` is an (n, *shape) array whose rows are contiguous, or a list of n arrays."""

    __slots__ = ("data", "dtype", "shape", "size", "wrap")

    def __init__(self, data: Any, dtype: str, shape: tuple[int, ...], wrap: Callable[[Any], Any]) -> None:
        self.data, self.dtype, self.shape, self.wrap = data, dtype, shape, wrap
        self.size = math.prod(shape)


class Rows:
    """n vectors in layers; see the module. `parse` makes one from a caller's argument."""

    __slots__ = ("d", "form", "layers", "n", "name", "operand")

    def __init__(self, name: str, n: int, layers: list[Layer], operand: Operand, form: str) -> None:
        self.name, self.n, self.layers, self.operand, self.form = name, n, layers, operand, form
        self.d = layers[0].size if len(layers) == 1 else sum(layer.size for layer in layers)

    @property
    def nbytes(self) -> int:
        """Bytes of the n vectors."""
        return self.n * sum(layer.size * STORAGE[layer.dtype].itemsize for layer in self.layers)

    def empty(self, m: int) -> list[np.ndarray]:
        """Host memory for m vectors of this structure: one (m, *shape) array per layer."""
        return [np.empty((m, *layer.shape), STORAGE[layer.dtype]) for layer in self.layers]

    def row(self, index: int) -> list[Any]:
        """Vector `index` as its layer views."""
        return [layer.data[index] for layer in self.layers]

    def vector(self, parts: Sequence[Any]) -> Any:
        """One vector, given as its layer arrays, in the caller's structure and array types."""
        wrapped = [layer.wrap(part) for layer, part in zip(self.layers, parts, strict=True)]
        return wrapped if self.form == "layers" else wrapped[0]

    def vectors(self, stacks: Sequence[Any]) -> Any:
        """m vectors, given as one (m, *shape) array per layer, in the caller's structure and array types."""
        if self.form == "stacked":
            return self.layers[0].wrap(stacks[0])
        return [self.vector([stack[i] for stack in stacks]) for i in range(len(stacks[0]))]


def parse(x: Any, name: str = "x") -> Rows:
    """The vectors of an argument in any of the three forms.

    Copies only a layer whose rows are not contiguous. Raises TypeError or ValueError, naming the element at fault, when
    the argument has none of the forms, its vectors differ in structure, shape or dtype, or host and device mix.
    """
    if isinstance(x, list | tuple):
        if not x:
            raise ValueError(f"{name} is empty: it must hold at least one vector")
        return _parse_layers(x, name) if isinstance(x[0], list | tuple) else _parse_vectors(x, name)
    data, operand, wrap = unpack(x, name)
    if data.ndim < 2:
        raise ValueError(f"{name} has shape {tuple(data.shape)}, but must be (n, d): one row per vector")
    if data.shape[0] == 0:
        raise ValueError(f"{name} has shape {tuple(data.shape)}: it must hold at least one vector")
    if operand.device == "cpu" and not data.flags.c_contiguous and not data[0].flags.c_contiguous:
        data = np.ascontiguousarray(data)
    return Rows(name, data.shape[0], [Layer(data, operand.dtype, tuple(data.shape[1:]), wrap)], operand, "stacked")


def _parse_vectors(x: Sequence[Any], name: str) -> Rows:
    unpacked = [unpack(vector, f"{name}[{i}]") for i, vector in enumerate(x)]
    layer = _layer(unpacked, name, "")
    return Rows(name, len(x), [layer], unpacked[0].operand, "vectors")


def _parse_layers(x: Sequence[Sequence[Any]], name: str) -> Rows:
    count = len(x[0])
    if count == 0:
        raise ValueError(f"{name}[0] is empty: a vector must have at least one layer")
    for i, vector in enumerate(x):
        if not isinstance(vector, list | tuple) or len(vector) != count:
            raise ValueError(f"{name}[{i}] must be a sequence of {count} layers like {name}[0]")
    layers = []
    first = None
    for k in range(count):
        unpacked = [unpack(vector[k], f"{name}[{i}][{k}]") for i, vector in enumerate(x)]
        first = first or unpacked[0].operand
        if unpacked[0].operand.device != first.device:
            raise TypeError(f"{name}[0][{k}] is on {unpacked[0].operand.device}, but {name}[0][0] is on {first.device}: "
                            "move all layers to one device")
        layers.append(_layer(unpacked, name, f"[{k}]"))
    assert first is not None
    widest = "float64" if any(layer.dtype == "float64" for layer in layers) else first.dtype
    return Rows(name, len(x), layers, first._replace(dtype=widest), "layers")


def _layer(unpacked: list[Unpacked], name: str, suffix: str) -> Layer:
    """One layer from n arrays, after checking that they agree."""
    head = unpacked[0]
    shape = tuple(head.data.shape)
    rows = []
    for i, (data, operand, _) in enumerate(unpacked):
        if operand.device != head.operand.device:
            raise TypeError(f"{name}[{i}]{suffix} is on {operand.device}, but {name}[0]{suffix} is on "
                            f"{head.operand.device}: move all vectors to one device")
        if tuple(data.shape) != shape or operand.dtype != head.operand.dtype:
            raise ValueError(f"{name}[{i}]{suffix} is {operand.dtype} {tuple(data.shape)}, but must be "
                             f"{head.operand.dtype} {shape} like {name}[0]{suffix}")
        if operand.device == "cpu" and not data.flags.c_contiguous:
            data = np.ascontiguousarray(data)
        rows.append(data)
    return Layer(rows, head.operand.dtype, shape, head.wrap)
