"""Array libraries, memory layouts and structures: the same values anywhere give the same bits."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from robust_oracle import DTYPES, bits, flat, flat_vector, floats, make

from fastgd import robust


@functools.cache
def sample(n: int, d: int, dtype: str = "float32") -> np.ndarray:
    """Vectors of very different lengths around a common centre."""
    rng = np.random.default_rng(1000 * n + d)
    x = make(3.0 + rng.standard_normal((n, d)) * rng.choice([0.1, 1.0, 30.0], (n, 1)), dtype)
    x.flags.writeable = False
    return x


def results(x: object, backend: str) -> list[object]:
    """Every rule on one input of at least 5 vectors."""
    w = np.linspace(-1.0, 2.0, len(x))
    return [
        robust.pairwise_sqdist(x, backend=backend),
        robust.krum(x, 1, backend=backend),
        robust.multikrum(x, 1, backend=backend),
        robust.median(x, backend=backend),
        robust.trimmed_mean(x, 1, backend=backend),
        robust.mean(x, backend=backend),
        robust.combine(x, w, backend=backend),
    ]


LIBRARIES = [
    (library, dtype)
    for library in ("numpy", "torch", "jax")
    for dtype in DTYPES
    if (library, dtype) != ("jax", "float64")
]


@pytest.mark.parametrize("library, dtype", LIBRARIES)
def test_the_result_is_of_the_library_of_the_input(library: str, dtype: str, backend: str) -> None:
    pytest.importorskip(library)
    x = make(flat(sample(8, 129, dtype)), dtype, library)
    before = bits(x)
    for got, expected in zip(results(x, backend)[1:], results(sample(8, 129, dtype), backend)[1:], strict=True):
        assert type(got) is type(x)
        assert got.dtype == x.dtype
        np.testing.assert_array_equal(floats(got), floats(expected))
    assert bits(x) == before


@pytest.mark.parametrize("library, dtype", LIBRARIES)
def test_distances_are_float64_in_every_library(library: str, dtype: str, backend: str) -> None:
    """Also where the library's default would make them float32 (JAX), and they go straight into krum_scores."""
    pytest.importorskip(library)
    x = make(flat(sample(8, 129, dtype)), dtype, library)
    got = robust.pairwise_sqdist(x, backend=backend)
    assert str(got.dtype).endswith("float64")
    assert bits(got) == bits(robust.pairwise_sqdist(sample(8, 129, dtype), backend=backend))
    scores = robust.krum_scores(got, 1, backend=backend)
    assert type(scores) is type(got)
    np.testing.assert_array_equal(floats(scores), robust.krum(x, 1, return_info=True, backend=backend)[1].scores)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_lists_may_mix_host_libraries(dtype: str, backend: str) -> None:
    torch = pytest.importorskip("torch")
    x = sample(8, 129, dtype)
    mixed = [torch.from_numpy(row.copy()) if i % 2 else row for i, row in enumerate(x)]
    for vectors, kind in ((mixed, np.ndarray), (mixed[::-1], torch.Tensor), (tuple(mixed), np.ndarray)):
        for got, expected in zip(results(vectors, backend), results(flat(vectors).astype(dtype), backend), strict=True):
            assert type(got) is kind
            assert bits(got) == bits(expected)
    layers = [[row, mixed[i][:5]] for i, row in enumerate(x)]
    average = robust.mean(layers, backend=backend)
    assert [type(part) for part in average] == [np.ndarray, np.ndarray]


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_torch_memory_is_shared_in_no_direction(dtype: str, backend: str) -> None:
    torch = pytest.importorskip("torch")
    x = torch.ones((5, 7), dtype=getattr(torch, dtype))
    for got in results(x, backend)[1:]:
        got += 1
    assert (x == 1).all()


def layouts(x: np.ndarray) -> dict[str, np.ndarray]:
    """The same values in other places."""
    n, d = x.shape
    size = x.itemsize
    wide = np.zeros((2 * n, 3 * d), x.dtype)
    wide[::2, : 3 * d : 3] = x
    padded = np.zeros((n, d + 5), x.dtype)
    padded[:, 2 : d + 2] = x
    odd = np.frombuffer(b"\xff" + x.tobytes() + b"\xff" * size, x.dtype, n * d, offset=1).reshape(n, d)
    ragged = np.frombuffer(b"\xff" + b"".join(row.tobytes() + b"\xff" for row in x), np.uint8)
    stride = d * size + 1
    odd_rows = np.lib.stride_tricks.as_strided(ragged[1:], (n, d * size), (stride, 1), writeable=False)
    return {
        "strided": wide[::2, : 3 * d : 3],
        "padded rows": padded[:, 2 : d + 2],
        "every second row": np.repeat(x, 2, 0)[::2],
        "Fortran": np.asfortranarray(x),
        "reversed rows": x[::-1].copy()[::-1],
        "reversed columns": x[:, ::-1].copy()[:, ::-1],
        "both reversed": x[::-1, ::-1].copy()[::-1, ::-1],
        "odd offset": odd,
        "odd row stride": odd_rows.view(x.dtype),
        "subclass": x.view(type("Sub", (np.ndarray,), {})),
        "swapped axes": x.T.copy().T,
    }


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n, d", [(5, 1), (7, 33), (17, 1025)])
def test_memory_layouts(n: int, d: int, dtype: str, backend: str) -> None:
    x = sample(n, d, dtype)
    expected = [bits(result) for result in results(x, backend)]
    for name, view in layouts(x).items():
        assert [bits(result) for result in results(view, backend)] == expected, name
        assert [bits(result) for result in results(list(view), backend)] == expected, f"list of rows, {name}"


@pytest.mark.parametrize("dtype", DTYPES)
def test_broadcast_rows(dtype: str, backend: str) -> None:
    x = sample(1, 1000, dtype)
    expected = [bits(result) for result in results(np.repeat(x, 6, 0), backend)]
    assert [bits(result) for result in results(np.broadcast_to(x[0], (6, 1000)), backend)] == expected
    assert [bits(result) for result in results([x[0]] * 6, backend)] == expected


def split(x: np.ndarray, shapes: list[tuple[int, ...]]) -> list[list[np.ndarray]]:
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes])[:-1]
    return [
        [np.ascontiguousarray(part).reshape(shape) for part, shape in zip(np.split(row, ends), shapes, strict=True)]
        for row in x
    ]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "shapes",
    [
        [(3, 5), (17,), (1, 2, 3)],
        [(), (4,), (), (2, 2)],
        [(1024,), (0,), (33, 31), (1,)],
        [(1,)] * 40,
        [(4099,)],
        [(0,), (0, 3)],
    ],
    ids=str,
)
def test_layers_equal_their_concatenation(shapes: list[tuple[int, ...]], dtype: str, backend: str) -> None:
    x = sample(7, int(sum(np.prod(shape) for shape in shapes)), dtype)
    layers = split(x, shapes)
    for got, expected in zip(results(layers, backend), results(x, backend), strict=True):
        if isinstance(got, list):
            assert [type(part) for part in got] == [np.ndarray] * len(shapes)
            assert [part.shape for part in got] == shapes
            assert {part.dtype for part in got} == {x.dtype}
            assert b"".join(map(bits, got)) == bits(expected)
        else:
            assert bits(got) == bits(expected)
    stacked = robust.combine(layers, np.eye(7)[[6, 0]], backend=backend)
    assert [flat_vector(vector).tolist() for vector in stacked] == [
        flat_vector(layers[6]).tolist(),
        flat_vector(layers[0]).tolist(),
    ]


def test_layers_of_different_dtypes(backend: str) -> None:
    """Each layer keeps its dtype and is treated as if it were alone; distances add up."""
    rng = np.random.default_rng(0)
    plan = [
        ((7,), "float64"),
        ((), "bfloat16"),
        ((3, 5), "float32"),
        ((0,), "float16"),
        ((33,), "float16"),
        ((1,), "float64"),
    ]
    x = [[make(rng.standard_normal(shape), dtype) for shape, dtype in plan] for _ in range(9)]
    for rule in (robust.median, robust.mean, lambda x, **kw: robust.trimmed_mean(x, 2, **kw)):
        for k, (part, (shape, dtype)) in enumerate(zip(rule(x, backend=backend), plan, strict=True)):
            assert (part.shape, part.dtype.name) == (shape, dtype)
            assert bits(part) == bits(rule([vector[k] for vector in x], backend=backend))
    distances = sum(robust.pairwise_sqdist([vector[k] for vector in x], backend=backend) for k in range(len(plan)))
    np.testing.assert_allclose(robust.pairwise_sqdist(x, backend=backend), distances, rtol=1e-6)
    chosen, info = robust.krum(x, 3, return_info=True, backend=backend)
    assert list(map(bits, chosen)) == list(map(bits, x[info.selected[0]]))
    for wrong in ([[vector[1], *vector[1:]] for vector in x[:1]] + x[1:], [*x[:-1], x[0][::-1]]):
        with pytest.raises(ValueError, match=r"^x\[\d\]\[0\] "):
            robust.median(wrong, backend=backend)
