"""Wrong arguments of fastgd.robust: an error that names the argument, before anything is written."""

from __future__ import annotations

import collections
import pickle
import re

import numpy as np
import pytest
from robust_calls import CALLS, D, X, calls, refuses, vector_calls
from robust_oracle import bits

import fastgd
from fastgd import robust

NOT_COUNTS = [
    True,
    False,
    1.0,
    2.5,
    "2",
    b"2",
    [2],
    (2,),
    {},
    1j,
    np.float64(2),
    np.bool_(True),
    np.array([2]),
    np.array([1, 2]),
    np.array(2.0),
    object(),
    int,
    float("nan"),
]


# ------------------------------------------------------------------------------------------------------------ counts


@pytest.mark.parametrize("value", [*NOT_COUNTS, None, -1, -(10**30)], ids=lambda value: repr(value)[:18])
def test_f_must_be_a_count(value: object) -> None:
    for call in (
        lambda: robust.krum(X, value),
        lambda: robust.multikrum(X, value),
        lambda: robust.trimmed_mean(X, value),
        lambda: robust.krum_scores(D, value),
        lambda: robust.krum(X, value, neighbors=2),
    ):
        refuses("f ", call)


@pytest.mark.parametrize("value", [*NOT_COUNTS, -1, 0, 6, 10**30], ids=lambda value: repr(value)[:18])
def test_neighbors_must_be_a_count(value: object) -> None:
    for call in (robust.krum, robust.multikrum):
        refuses("neighbors", call, X, 1, neighbors=value)
    refuses("neighbors", robust.krum_scores, D, 1, neighbors=value)


@pytest.mark.parametrize("value", [*NOT_COUNTS, -1, 0, 7, 10**30], ids=lambda value: repr(value)[:18])
def test_m_must_be_a_count(value: object) -> None:
    refuses("m ", robust.multikrum, X, 1, m=value)


@pytest.mark.parametrize("value", [*NOT_COUNTS, -1, 0], ids=lambda value: repr(value)[:18])
def test_num_threads_must_be_a_count(value: object, backend: str) -> None:
    refuses("num_threads", fastgd.use, num_threads=value)
    for x, call in CALLS.values():
        if x is X:  # krum_scores has nothing to split
            refuses("num_threads", call, x, num_threads=value, backend=backend)


@pytest.mark.parametrize("value", [np.int64(2), np.uint8(2), np.array(2)], ids=lambda value: repr(value)[:18])
def test_integers_of_any_kind_count(value: object, backend: str) -> None:
    assert bits(robust.trimmed_mean(X, value, num_threads=value, backend=backend)) == bits(
        robust.trimmed_mean(X, 2, backend=backend)
    )
    got = robust.multikrum(X, 1, m=value, neighbors=value, backend=backend)
    assert bits(got) == bits(robust.multikrum(X, 1, m=2, neighbors=2, backend=backend))


@pytest.mark.parametrize(
    "value",
    [
        "",
        "gpu",
        "CPU",
        " cpu",
        "numpy",
        b"cpu",
        0,
        1,
        False,
        1.5,
        ["cpu"],
        ("cpu",),
        {"cpu"},
        np.array(["cpu"]),
        np.array(["cpu", "cuda"]),
        object(),
    ],
    ids=lambda value: repr(value)[:18],
)
def test_backend_must_be_one_of_the_names(value: object) -> None:
    refuses("backend", fastgd.use, backend=value)
    for x, call in CALLS.values():
        message = refuses("backend", call, x, backend=value)
        assert "cpu" in message and "reference" in message


# ------------------------------------------------------------------------------------------------- how many vectors


def test_too_few_vectors() -> None:
    for f in range(4):
        for n in range(1, 2 * f + 3):
            x = np.ones((n, 2))
            for call in (
                lambda x=x, f=f: robust.krum(x, f),
                lambda x=x, f=f: robust.multikrum(x, f, m=1),
                lambda n=n, f=f: robust.krum_scores(np.zeros((n, n)), f),
            ):
                message = refuses("n >= 2 f + 3", call)
                assert f"n={n}" in message and f"f={f}" in message
            if n <= 2 * f:
                refuses("n > 2 f", robust.krum, x, f, neighbors=1)
                refuses("n > 2 f", robust.trimmed_mean, x, f)
            else:
                robust.trimmed_mean(x, f)
                if n > 1:
                    robust.krum(x, f, neighbors=1)
        robust.krum(np.ones((2 * f + 3, 2)), f)


def test_one_vector_has_no_neighbors() -> None:
    """A range "from 1 to 0" would help nobody."""
    message = refuses("n", robust.krum, np.ones((1, 2)), 0, neighbors=1)
    assert "1 to 0" not in message


def test_m_counts_finite_vectors_only(backend: str) -> None:
    x = X.copy()
    x[2] = np.nan
    robust.multikrum(x, 1, m=5, backend=backend)
    message = refuses("m=6", robust.multikrum, x, 1, m=6, backend=backend)
    assert "2" in message


# ------------------------------------------------------------------------------------------------------- the vectors


@pytest.mark.parametrize(
    "wrong",
    [
        None,
        "abc",
        b"abc",
        1.0,
        3,
        {},
        {0: X},
        {1},
        iter([X]),
        (row for row in X),
        memoryview(X),
        np.ndarray,
        collections.deque(X),
        np.float32(1),
        np.str_("a"),
    ],
    ids=lambda x: type(x).__name__,
)
@calls
def test_not_an_array(x: np.ndarray, call, wrong: object) -> None:
    refuses("sqdist" if x is D else "x ", call, wrong)


@pytest.mark.parametrize(
    "dtype", ["int64", "uint8", "bool", "complex64", "object", ">f4", ">f8", ">f2", "longdouble", "U3", "S3", "m8[s]"]
)
@calls
def test_wrong_dtypes(x: np.ndarray, call, dtype: str) -> None:
    name = "sqdist" if x is D else "x"
    wrong = np.zeros(x.shape, dtype)
    with pytest.raises(TypeError, match=rf"^{name} .*{re.escape(str(wrong.dtype))}.*float32") as error:
        call(wrong)
    assert "astype" in str(error.value)
    if x is X:
        with pytest.raises(TypeError, match=r"^x\[0\]"):
            call(list(wrong))
        with pytest.raises(TypeError, match=r"^x\[1\]"):
            call([X[0], wrong[1]])


@pytest.mark.parametrize("x", [np.ones(6), np.ones(()), np.ones((0, 3)), np.ones((0,))], ids=lambda x: str(x.shape))
@vector_calls
def test_wrong_shapes(x: np.ndarray, call) -> None:
    message = refuses("x has shape", call, x)
    assert str(x.shape) in message and "(n, d)" in message


@pytest.mark.parametrize(
    "x, name",
    [
        ([], "x"),
        ((), "x"),
        ([[], []], "x[0]"),
        ([1.0, 2.0], "x[0]"),
        ([[1.0], [2.0]], "x[0][0]"),
        ([X[0], X[0][:1]], "x[1]"),
        ([X[0], None], "x[1]"),
        ([[X[0]], [X[0], X[0]]], "x[1]"),
        ([[X[0], X[0]], [X[0]]], "x[1]"),
        ([[X[0]], X[0]], "x[1]"),
        ([X[0], [X[0]]], "x[1]"),
        ([X[0], X[0].astype(float)], "x[1]"),
        ([[X[0]], [X[0].astype(float)]], "x[1][0]"),
        ([[X[0], X], [X[0], X.T]], "x[1][1]"),
        ([[[X[0]]]], "x[0][0]"),
        ([X[0], X[:1]], "x[1]"),
        ([np.float32(1)] * 3, "x[0]"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@vector_calls
def test_wrong_sequences(x: list, name: str, call) -> None:
    assert refuses(name, call, x).startswith(name + " ")


def test_torch_tensors_that_are_refused() -> None:
    torch = pytest.importorskip("torch")
    for x in (
        torch.ones(6, 2, requires_grad=True),
        torch.ones(6, 2, device="meta"),
        torch.eye(6).to_sparse(),
        torch.ones(6, 2, dtype=torch.int32),
        torch.ones(6, 2, dtype=torch.complex64),
        torch.ones(6, 2).to(torch.float8_e4m3fn),
    ):
        refuses("x ", robust.median, x)
        refuses("x[0]", robust.median, [x, x])
    negated = torch.ones(6, 2, dtype=torch.complex64).conj().imag  # a view whose sign is still to be applied
    try:
        result = robust.median(negated)
    except (ValueError, TypeError) as error:
        assert str(error).startswith("x ")
    else:
        assert (result == negated[0]).all()


def test_masked_arrays_do_not_lose_their_mask() -> None:
    refuses("x ", robust.median, np.ma.masked_array(X, mask=X > 3))


@pytest.mark.parametrize(
    "sqdist",
    [D[:5], D[0], D.astype(np.float32), -D, np.where(D > 9, np.nan, D), np.ones((6, 6, 6)), list(D)],
    ids=["not square", "1-D", "float32", "negative", "NaN", "3-D", "list"],
)
def test_wrong_distance_matrices(sqdist: object, backend: str) -> None:
    refuses("sqdist", robust.krum_scores, sqdist, 1, backend=backend)


def test_krum_scores_reads_rows_and_ignores_the_diagonal(backend: str) -> None:
    d = np.array([[np.nan, 1, 2, 9], [5, -1, 7, 8], [9, 3, np.inf, 4], [1, 1, np.inf, 0.0]])
    assert robust.krum_scores(d, 0, backend=backend).tolist() == [3, 12, 7, 2]
    assert robust.krum_scores(d, 0, neighbors=3, backend=backend).tolist() == [12, 20, 16, np.inf]


def test_info_can_be_pickled(backend: str) -> None:
    for rule in (robust.krum, robust.multikrum):
        info = rule(X, 1, return_info=True, backend=backend)[1]
        copy = pickle.loads(pickle.dumps(info))
        assert type(copy) is robust.KrumInfo
        assert all(map(np.array_equal, copy, info))
        assert [part.dtype for part in info] == [np.dtype("int64"), np.dtype("float64"), np.dtype("bool")]
