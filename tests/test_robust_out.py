"""`out=` of every function of fastgd.robust: honoured, returned, refused when it does not fit, untouched by errors."""

from __future__ import annotations

import numpy as np
import pytest
from robust_calls import CALLS, D, X, calls, refuses, vector_calls
from robust_oracle import DTYPES, bits, floats, make

from fastgd import robust


@calls
def test_out_is_filled_and_returned(x: np.ndarray, call, backend: str) -> None:
    expected = call(x, backend=backend)
    out = np.full_like(expected, 7.0)
    assert call(x, out=out, backend=backend) is out
    assert bits(out) == bits(expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("library", ["numpy", "torch"])
@calls
def test_out_of_any_host_library(x: np.ndarray, call, library: str, dtype: str, backend: str) -> None:
    """The library of `out` need not be that of the input."""
    pytest.importorskip(library)
    values = make(x, dtype) if x is X else x
    expected = call(values, backend=backend)
    out = make(np.zeros(expected.shape), "float64" if expected.dtype == np.float64 else dtype, library)
    assert call(values, out=out, backend=backend) is out
    assert bits(out) == bits(expected)


@calls
def test_out_that_does_not_fit(x: np.ndarray, call, backend: str) -> None:
    good = call(x, backend=backend)
    shape, dtype = good.shape, good.dtype
    read_only = np.zeros(shape, dtype)
    read_only.flags.writeable = False
    other = "float32" if dtype == np.float64 else "float64"
    for out in (
        np.zeros((*shape, 1), dtype),
        np.zeros(tuple(size + 1 for size in shape), dtype),
        np.zeros(shape, other),
        np.zeros(shape, "int64"),
        np.zeros(shape, dtype.newbyteorder()),
        read_only,
        np.zeros((*shape, 2), dtype)[..., 0],
        [],
        [0.0],
        "out",
        0,
        False,
        np.zeros((), dtype),
        np.zeros(0, dtype),
        (np.zeros(shape, dtype),),
    ):
        refuses("out", call, x, out=out, backend=backend)
    assert not read_only.any()


def test_out_for_sequences(backend: str) -> None:
    layers = [[row[:1], row[1:].reshape(1, 1)] for row in X]
    for call in (
        robust.median,
        robust.mean,
        lambda x, **kw: robust.krum(x, 1, **kw),
        lambda x, **kw: robust.multikrum(x, 1, **kw),
    ):
        out = [np.zeros(1, np.float32), np.zeros((1, 1), np.float32)]
        assert call(layers, out=out, backend=backend) is out
        assert [part.tolist() for part in out] == [part.tolist() for part in call(layers, backend=backend)]
        for wrong in (
            np.zeros(2, np.float32),
            out[:1],
            [out[0], out[0]],
            [out[1], out[0]],
            [*out, out[0]],
            [out],
            [None, None],
            5,
        ):
            refuses("out", call, layers, out=wrong, backend=backend)
        message = refuses("out[1]", call, layers, out=[out[0], np.zeros(1, np.float32)], backend=backend)
        assert "(1, 1)" in message
        vector = np.zeros(2, np.float32)
        assert call(list(X), out=vector, backend=backend) is vector
    many = [[np.zeros(1, np.float32), np.zeros((1, 1), np.float32)] for _ in range(2)]
    assert robust.combine(layers, np.eye(6)[4:], out=many, backend=backend) is many
    assert [float(part[0][0]) for part in many] == [float(row[0]) for row in X[4:]]
    stacked = [np.zeros(2, np.float32) for _ in range(2)]
    assert robust.combine(list(X), np.eye(6)[4:], out=stacked, backend=backend) is stacked
    assert np.array_equal(stacked, X[4:])
    for wrong in (many[:1], [*many, many[0]], np.zeros((2, 2), np.float32), [many[0], many[0][:1]], 5):
        refuses("out", robust.combine, layers, np.eye(6)[4:], out=wrong, backend=backend)


@vector_calls
def test_out_may_be_one_of_the_vectors(call, backend: str) -> None:
    for n, d in ((6, 2), (9, 3000), (9, 100_001)):
        x = np.random.default_rng(n).standard_normal((n, d)).astype(np.float32)
        expected = bits(call(x, backend=backend))
        for row in (0, n - 1):
            y = x.copy()
            out = y[row]
            assert call(y, out=out, backend=backend) is out
            assert bits(out) == expected
            assert bits(np.delete(y, row, 0)) == bits(np.delete(x, row, 0))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_out_may_overlap_the_vectors_anyhow(dtype: str, backend: str) -> None:
    """Memory shared at an offset: the result is that of separate memory, as in NumPy."""
    n, d = 6, 3000
    values = make(np.random.default_rng(0).standard_normal(n * d + 64), dtype)
    weights = np.arange(1.0, 7.0)
    rules = [
        robust.mean,
        robust.median,
        lambda x, **kw: robust.trimmed_mean(x, 2, **kw),
        lambda x, **kw: robust.krum(x, 1, **kw),
        lambda x, **kw: robust.multikrum(x, 1, **kw),
        lambda x, **kw: robust.combine(x, weights, **kw),
    ]
    for rule in rules:
        for offset in (0, 1, 17, d // 2, d + 5):
            memory = values.copy()
            x = memory[: n * d].reshape(n, d)
            expected = bits(rule(x.copy(), backend=backend))
            out = memory[offset : offset + d]
            rule(x, out=out, backend=backend)
            assert bits(out) == expected, offset


def test_out_of_combine_may_be_the_input(backend: str) -> None:
    x = np.random.default_rng(1).standard_normal((4, 5000)).astype(np.float32)
    w = np.random.default_rng(2).standard_normal((4, 4))
    expected = bits(robust.combine(x, w, backend=backend))
    assert robust.combine(x, w, out=x, backend=backend) is x
    assert bits(x) == expected


def test_errors_leave_out_untouched(backend: str) -> None:
    bad = X.copy()
    bad[[1, 3, 4, 5]] = np.nan
    out = np.full(2, 7.0, np.float32)
    for call in (CALLS[name][1] for name in ("krum", "multikrum", "mean", "median", "trimmed_mean")):
        with pytest.raises(ValueError):
            call(bad, out=out, backend=backend)
    for arguments in ({"backend": "nope"}, {"num_threads": 0}, {"backend": "cuda"}):
        for x, call in CALLS.values():
            if x is X and call is not CALLS["combine_many"][1] and call is not CALLS["pairwise_sqdist"][1]:
                with pytest.raises((ValueError, NotImplementedError)):
                    call(x, out=out, **arguments)
    assert (out == 7).all()
    scores = np.full(6, 7.0)
    refuses("sqdist", robust.krum_scores, -D, 1, out=scores, backend=backend)
    assert (scores == 7).all()


@pytest.mark.parametrize("library", ["numpy", "torch", "jax"])
def test_zero_dimensional_layers_stay_arrays(library: str, backend: str) -> None:
    """A model may hold scalars (a temperature, a counter): they come back as arrays of shape ()."""
    pytest.importorskip(library)
    x = [[make(np.float64(i), "float32", library), make(np.full(3, i), "float32", library)] for i in range(7)]
    for name in ("krum", "multikrum", "mean", "median", "trimmed_mean"):
        scalar, vector = CALLS[name][1](x, backend=backend)
        assert type(scalar) is type(vector) is type(x[0][0])
        assert tuple(scalar.shape) == ()
        assert floats(scalar) == floats(vector)[0]
    assert tuple(robust.combine(x, np.eye(7)[:2], backend=backend)[1][0].shape) == ()
