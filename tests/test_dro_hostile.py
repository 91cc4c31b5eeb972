"""Bad arguments to `fastgd.dro` are refused by name and change nothing, odd ones are right; threads, forks, tampered states."""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import itertools
import math
import os
import pickle
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import dro_oracle as oracle
import numpy as np
import pytest
from dro_oracle import frozen, refuses

from fastgd import BackendError, dro

pytestmark = pytest.mark.timeout(120)

nan, inf = math.nan, math.inf
W = np.array([0.0, 1.0, 2.5, 0.0, 4.0])
METHODS = ("iid", "stratified", "systematic", "without_replacement")


def tree(backend: str | None = None) -> dro.SumTree:
    made = dro.SumTree(W, seed=3, backend=backend)
    made.sample(2)
    return made


def sampler(kind: str = "chi2", floor: float = 0.1, backend: str | None = None, **kw: Any) -> dro.DROSampler:
    made = dro.DROSampler(5, divergence=kind, floor=floor, **{"radius": 0.4, "step_size": 0.05} | kw, backend=backend)
    made.update(np.array([1, 1, 3]), np.array([1.0, 0.5, 2.0]))
    return made


# ------------------------------------------------------------------------------------------------------ tables of values

#: For any argument that must be an integer; for any that must be a finite number >= 0.
NO_INTEGER = [1.5, 1.0, nan, inf, "1", b"1", True, np.bool_(True), None, 1j, [1], np.array([1.0]), object()]
NO_NUMBER = [nan, inf, -inf, "1", b"1", True, np.bool_(False), None, 1j, [1.0, 2.0], np.array([1.0, 2.0]), object(), -1.0]
NO_NUMBER.append(-1e-300)
NO_SEED = [-1, 2**64, 1.5, nan, "1", True, None, [1], 1j]
NO_NAME = ["", "CHI2", "chi2 ", "chi-squared", "hellinger", None, nan, -1.0, True, ["chi2"], b"chi2", object()]

#: Arrays of values >= 0 that are none. The first few are the values' fault, the others the type's or the shape's.
NO_VALUES = {
    "negative": np.array([1.0, -1.0]),
    "just negative": np.array([1.0, -5e-324]),
    "NaN": np.array([nan, 1.0]),
    "Inf": np.array([1.0, inf]),
    "-Inf": np.array([-inf, 1.0]),
    "bool": np.array([True, False]),
    "complex": np.array([1.0, 2j]),
    "strings": np.array(["1", "2"]),
    "objects": np.array([1.0, None], object),
    "dates": np.array(["2020-01-01", "2020-01-02"], "datetime64[D]"),
    "records": np.zeros(2, [("a", "f8")]),
    "masked": np.ma.masked_array([1.0, 2.0], [False, True]),
    "two rows": np.ones((2, 2)),
    "a column": np.ones((2, 1)),
    "string": "12",
    "None": None,
    "dictionary": {0: 1.0},
    "set": {1.0, 2.0},
}
values = pytest.mark.parametrize("bad", NO_VALUES.values(), ids=NO_VALUES)

#: Indices of a family of 5 that are none.
NO_INDEX = {
    "negative": np.array([0, -1]),
    "just outside": np.array([0, 5]),
    "far": np.array([0, 2**62]),
    "farther": np.array([0, 2**63 + 1], np.uint64),
    "least": np.array([0, -(2**63)]),
    "wraps in 32 bits": np.array([0, 2**32 + 1]),
    "floats": np.array([0.0, 1.0]),
    "NaN": np.array([nan, 1.0]),
    "bool": np.array([True, False]),
    "strings": np.array(["0", "1"]),
    "objects": np.array([0, None], object),
    "complex": np.array([0j, 1.0]),
    "masked": np.ma.masked_array([0, 1], [False, True]),
    "string": "01",
    "None in a list": [0, None],
    "scalar negative": -1,
    "scalar outside": 5,
    "scalar float": 1.0,
    "scalar bool": True,
    "scalar string": "1",
    "scalar NaN": nan,
    "scalar huge": 2**70,
    "slice": slice(0, 2),
}
indices = pytest.mark.parametrize("bad", NO_INDEX.values(), ids=NO_INDEX)


def unchanged(target: Any, names: str | list[str], call: Callable[..., Any], *args: Any, **kw: Any) -> str:
    before = frozen(target.state_dict())
    message = refuses(names, call, *args, **kw)
    assert frozen(target.state_dict()) == before
    return message


def soft(names: str | list[str], call: Callable[[], Any], right: Callable[[Any], Any]) -> None:
    """Refused by name (a dtype also by dispatch, with its reasons), or right: where the contract leaves the choice."""
    try:
        got = call()
    except BackendError as error:
        assert "dtype" in str(error)
        return
    except (ValueError, TypeError):
        refuses(names, call)
        return
    assert right(got), got


# -------------------------------------------------------------------------------------------------------------- the tree


@values
def test_a_tree_refuses_weights(bad: Any, backend: str) -> None:
    refuses(["weights", "n"], dro.SumTree, bad, backend=backend)
    made = tree(backend)
    unchanged(made, ["weights", "weight"], made.append, bad)
    unchanged(made, ["weight", "weights", "index"], made.update, np.array([1, 2]), bad)


NO_SIZE = [0, -1, 2**31 + 1, 2**63, 10**30, 1.5, nan, "5", True, None, 1j, np.zeros(0), np.float64(4.0)]


@pytest.mark.parametrize("bad", NO_SIZE, ids=repr)
def test_a_tree_refuses_sizes(bad: Any, backend: str) -> None:
    refuses(["weights", "n"], dro.SumTree, bad, backend=backend)


def test_other_arguments_of_a_tree(backend: str) -> None:
    for bad in NO_SEED:
        refuses("seed", dro.SumTree, W, seed=bad, backend=backend)
    for bad in ("gpu", "", 3, b"cpu", True):
        refuses("backend", dro.SumTree, W, backend=bad)
    with pytest.raises(TypeError):
        dro.SumTree(W, 3)  # the seed is keyword-only
    with pytest.raises(TypeError):
        dro.SumTree()


@indices
def test_a_tree_refuses_indices(bad: Any, backend: str) -> None:
    made = tree(backend)
    size = len(bad) if isinstance(bad, np.ndarray | list) else 1
    weight = np.ones(size) if isinstance(bad, np.ndarray | list) else 1.0
    unchanged(made, "index", made.update, bad, weight)
    unchanged(made, "index", made.weights, bad)


def test_an_update_is_all_or_nothing(backend: str) -> None:
    made = tree(backend)
    many = np.arange(5)
    for weight in ([1.0, 2, 3, 4, nan], [1.0, 2, 3, 4, -1], [1.0, 2, 3, 4, inf], [1e308] * 5, [1.7e308, 0, 0, 0, 1.7e308]):
        unchanged(made, ["weight", "weights", "total"], made.update, many, np.array(weight))
    for index in ([0, 1, 2, 3, 5], [0, 1, 2, 3, -1]):
        unchanged(made, "index", made.update, np.array(index), np.ones(5))
    for size in (0, 4, 6):
        unchanged(made, ["weight", "weights", "index"], made.update, many, np.ones(size))
    # a bad weight counts even where a later duplicate would overwrite it
    unchanged(made, ["weight", "weights"], made.update, np.array([1, 1]), np.array([nan, 1.0]))
    made.update(np.zeros(0, np.int64), np.zeros(0))
    assert made.weights().tolist() == W.tolist()


def test_totals_that_overflow(backend: str) -> None:
    refuses(["weights", "total"], dro.SumTree, np.full(2, 1e308), backend=backend)
    refuses(["weights", "total"], dro.SumTree, np.full(1000, 1e306), backend=backend)
    made = dro.SumTree(np.array([1e308, 0.0, 1.0]), backend=backend)
    unchanged(made, ["weight", "weights", "total"], made.update, 1, 1e308)
    unchanged(made, ["weight", "weights", "total"], made.update, np.array([2, 1]), np.array([0.0, 1e308]))
    unchanged(made, ["weights", "total"], made.append, np.array([1e308]))
    unchanged(made, ["weights", "total"], made.append, np.full(100, 1e307))
    # what counts is the new total: one goes down as the other goes up, and the last of duplicates wins
    made.update(np.array([1, 0]), np.array([1.7e308, 0.0]))
    assert made.total == 1.7e308
    made.update(np.array([0, 0, 2]), np.array([1.7e308, 0.0, 0.0]))
    assert made.weights().tolist() == [0.0, 1.7e308, 0.0] and made.total == 1.7e308
    made.update(np.array([0, 1]), np.array([1.7e308, 1.0]))
    assert made.find(1.69e308) == 0
    big = dro.SumTree(np.full(1000, 1e305), backend=backend)
    unchanged(big, ["weight", "weights", "total"], big.update, np.arange(1000), np.full(1000, 1e306))
    assert big.total == pytest.approx(1e308) and big.sample(5).shape == (5,)


def test_finds_outside_the_total(backend: str) -> None:
    made = tree(backend)
    for bad in (-1.0, -5e-324, 7.5, np.nextafter(7.5, 8), 1e308, inf, -inf, nan):
        unchanged(made, "mass", made.find, bad)
        unchanged(made, "mass", made.find, np.array([0.0, bad]))
        unchanged(made, "mass", made.find, np.array([bad]))
    for bad in ("1", None, 1j, "x", np.array(["1"]), np.array([1j]), np.array([None]), np.array([True]), True):
        unchanged(made, "mass", made.find, bad)
    assert made.find(0.0) == 1 == made.find(-0.0)
    assert made.find(np.nextafter(7.5, 0)) == 4 and made.find(1.0) == 2 and made.find(3.5) == 4
    assert made.find(np.zeros(0)).shape == (0,)
    empty = dro.SumTree(4, backend=backend)
    assert empty.total == 0.0 and empty.n == 4
    refuses(["mass", "total"], empty.find, 0.0)
    assert empty.find(np.zeros(0)).dtype == np.int64


def test_sums_outside_the_leaves(backend: str) -> None:
    made = tree(backend)
    for bad in (-1, 6, 2**40, 2**63, -(2**63) - 1, *NO_INTEGER):
        unchanged(made, "lo", made.sum, bad, 5)
        unchanged(made, "hi", made.sum, 0, bad)
    soft(["lo", "hi"], lambda: made.sum(3, 1), lambda got: got == 0.0)
    assert made.sum(np.int32(1), np.uint8(3)) == 3.5


@pytest.mark.parametrize("method", METHODS)
def test_samples_of_no_size(method: str, backend: str) -> None:
    made = tree(backend)
    for bad in (-1, -(2**70), *NO_INTEGER):
        unchanged(made, "size", made.sample, bad, method=method)
    for bad in (2**62, 2**70):
        before = frozen(made.state_dict())
        with pytest.raises((ValueError, MemoryError, OverflowError)):
            made.sample(bad, method=method)
        assert frozen(made.state_dict()) == before
    empty = dro.SumTree(3, backend=backend)
    unchanged(empty, ["total", "weights", "weight", "size"], empty.sample, 1, method=method)
    assert made.sample(np.uint8(2), method=method).shape == (2,)


def test_samples_of_no_method(backend: str) -> None:
    made = tree(backend)
    for bad in ("IID", "", "multinomial", None, 1, True, ["iid"], b"iid", np.array(["iid", "iid"])):
        unchanged(made, "method", made.sample, 2, method=bad)
    for size in (4, 5, 6, 10**6):
        unchanged(made, "size", made.sample, size, method="without_replacement")
    assert sorted(made.sample(3, method="without_replacement").tolist()) == [1, 2, 4]


# --------------------------------------------------------------------------------------------- odd but valid arrays


class Sub(np.ndarray):
    """A subclass that adds nothing."""


def odd(x: np.ndarray) -> dict[str, Any]:
    read_only = x.copy()
    read_only.flags.writeable = False
    wide = np.empty((len(x), 3), x.dtype)
    wide[:, 1] = x
    unaligned = np.zeros(x.nbytes + 1, np.uint8)[1:].view(x.dtype)
    unaligned[:] = x
    return {
        "read-only": read_only,
        "strided": wide[:, 1],
        "backwards": x[::-1].copy()[::-1],
        "unaligned": unaligned,
        "subclass": x.view(Sub),
        "swapped": x.astype(x.dtype.newbyteorder()),
        "list": x.tolist(),
        "tuple": tuple(x.tolist()),
    }


ODD = list(odd(W))


@pytest.mark.parametrize("form", ODD)
def test_odd_arrays_are_read_right_and_left_alone(form: str, backend: str) -> None:
    index, weight = np.array([4, 0, 2, 0]), np.array([0.5, 9.0, 1.0, 3.0])
    after = np.array([3.0, 1.0, 1.0, 0.0, 0.5])
    refusable = form in ("swapped", "list", "tuple")  # these may be refused by type, never misread

    def of_tree() -> Any:
        made = dro.SumTree(odd(W)[form], backend=backend)
        made.update(odd(index)[form], odd(weight)[form])
        made.append(odd(W)[form])
        found = made.find(odd(np.array([0.0, 4.75, 2.0]))[form])
        return made.weights().tolist() == [*after, *W] and made.weights(odd(index)[form]).tolist() == after[index].tolist() and (
            found.tolist() == [0, 2, 0]
        )

    def of_sampler() -> Any:
        made, plain = sampler(backend=backend), sampler(backend=backend)
        made.update(odd(index)[form], odd(weight)[form])
        plain.update(index, weight)
        same = made.probabilities().tobytes() == plain.probabilities().tobytes()
        return same and made.probability(odd(index)[form]).tolist() == plain.probabilities()[index].tolist()

    def of_functions() -> Any:
        worst, value = dro.worst_case(odd(W)[form], radius=0.3, backend=backend)
        plain, best = dro.worst_case(W, radius=0.3, backend=backend)
        near = dro.project(odd(W)[form], radius=0.3, backend=backend)
        given = dro.allocate(odd(W)[form], 11, backend=backend)
        return (
            np.asarray(worst).tolist() == plain.tolist()
            and value == best
            and np.asarray(near).tolist() == dro.project(W, radius=0.3, backend=backend).tolist()
            and np.asarray(given).tolist() == dro.allocate(W, 11, backend=backend).tolist()
        )

    for call in (of_tree, of_sampler, of_functions):
        if refusable:
            soft(["weights", "weight", "index", "loss", "losses", "scores", "mass"], call, bool)
        else:
            assert call()


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "intp"])
def test_every_integer_type_indexes(dtype: str, backend: str) -> None:
    made, other = tree(backend), sampler(backend=backend)
    index = np.array([4, 1], dtype)
    made.update(index, np.array([2.0, 3.0]))
    made.update(index.dtype.type(0), 1.0)
    assert made.weights(index).tolist() == [2.0, 3.0] and made.weights().tolist() == [1.0, 3.0, 2.5, 0.0, 2.0]
    other.update(index, np.array([2.0, 3.0]))
    assert other.probability(index).tolist() == other.probabilities()[index].tolist()


@pytest.mark.parametrize("dtype", ["float32", "float16", "int64", "uint8", "longdouble"])
def test_other_types_of_values_are_exact_or_refused(dtype: str, backend: str) -> None:
    x = np.array([0, 1, 2, 0, 4], dtype)
    same = x.astype(np.float64)
    names = ["weights", "losses", "scores", "loss", "weight"]
    soft(names, lambda: dro.SumTree(x, backend=backend).weights().tolist(), lambda got: got == same.tolist())
    soft(names, lambda: dro.allocate(x, 9, backend=backend).tolist(), lambda got: got == oracle.allocate(same.tolist(), 9))
    error = 1e-3 if dtype == "float16" else 1e-6
    worst = dro.worst_case(same, radius=0.3, backend=backend)[1]
    near = dro.project(same, radius=0.3, backend=backend)
    soft(names, lambda: dro.worst_case(x, radius=0.3, backend=backend)[1], lambda got: got == pytest.approx(worst, rel=error))
    soft(names, lambda: np.asarray(dro.project(x, radius=0.3, backend=backend), float),
         lambda got: np.allclose(got, near, atol=error))


def test_results_are_copies(backend: str) -> None:
    made, other = tree(backend), sampler(backend=backend)
    given = W.copy()
    fresh = dro.SumTree(given, backend=backend)
    given[:] = 7
    assert fresh.weights().tolist() == W.tolist()
    for target, results in ((made, [made.weights()]), (other, [other.probabilities()])):
        before = frozen(target.state_dict())
        for result in results:
            result[:] = 1e9
        for value in target.state_dict().values():
            if isinstance(value, np.ndarray) and value.flags.writeable and value.dtype != object:
                value.view(np.uint8)[...] = 255
        assert frozen(target.state_dict()) == before
    assert made.total == 7.5
    state = made.state_dict()
    fresh.load_state_dict(state)
    for value in state.values():
        if isinstance(value, np.ndarray) and value.flags.writeable:
            value[...] = 0
    assert fresh.weights().tolist() == W.tolist() and fresh.total == 7.5


def test_negative_zeros_are_zeros(backend: str) -> None:
    made = dro.SumTree(np.array([-0.0, 1.0, -0.0]), backend=backend)
    assert set(made.sample(100).tolist()) == {1} and made.find(0.0) == 1 and made.total == 1.0
    made.update(1, -0.0)
    assert made.total == 0.0
    refuses(["total", "weights", "weight", "size"], made.sample, 1)
    other = sampler(backend=backend)
    before = other.probabilities()
    other.update(np.array([2]), np.array([-0.0]))
    np.testing.assert_allclose(other.probabilities(), before, atol=1e-16)


@pytest.mark.parametrize("method", METHODS)
def test_one_leaf(method: str, backend: str) -> None:
    made = dro.SumTree(np.array([3.0]), backend=backend)
    assert made.sample(1, method=method).tolist() == [0] and made.find(2.999) == 0 and made.sum(0, 1) == 3.0
    for kind in ("chi2", "kl"):
        one = dro.DROSampler(1, radius=0.3, divergence=kind, step_size=0.1, backend=backend)
        one.update(one.sample(4), np.array([1.0, 2, 3, 1e9]))
        assert one.probabilities().tolist() == [1.0] == [one.probability(0)]


# ----------------------------------------------------------------------------------------------------------- the sampler


@pytest.mark.parametrize("kind", ["chi2", "kl"])
def test_arguments_of_a_sampler(kind: str, backend: str) -> None:
    good = {"radius": 0.4, "divergence": kind, "floor": 0.1, "step_size": 0.1, "seed": 0, "backend": backend}
    dro.DROSampler(5, **good)
    for bad in (0, -1, 2**31 + 1, 2**63, 10**30, *NO_INTEGER):
        refuses("n", dro.DROSampler, bad, **good)
    for name in ("radius", "step_size"):
        for bad in NO_NUMBER:
            if not (name == "radius" and bad is inf):
                refuses(name, dro.DROSampler, 5, **{**good, name: bad})
        with pytest.raises(TypeError, match=name):
            dro.DROSampler(5, **{key: value for key, value in good.items() if key != name})
    for bad in (*NO_NUMBER, 1.0, 1, 1.5, np.nextafter(1.0, 2)):
        refuses("floor", dro.DROSampler, 5, **{**good, "floor": bad})
    for bad in (*NO_NAME, "cvar"):
        refuses("divergence", dro.DROSampler, 5, **{**good, "divergence": bad})
    for bad in NO_SEED:
        refuses("seed", dro.DROSampler, 5, **{**good, "seed": bad})
    for bad in ("gpu", "", 3):
        refuses("backend", dro.DROSampler, 5, **{**good, "backend": bad})

    def after(**kw: Any) -> Any:
        made = dro.DROSampler(5, **{**good, **kw})
        made.update(np.array([1, 4]), np.array([5.0, 1.0]))
        return made.probabilities()

    soft("radius", lambda: after(radius=0.0), lambda p: np.allclose(p, 0.2, atol=1e-15))
    soft("radius", lambda: after(radius=inf), lambda p: np.allclose(p, after(radius=1e6), atol=1e-14))
    soft("step_size", lambda: after(step_size=0.0), lambda p: np.allclose(p, 0.2, atol=1e-15))
    assert after(floor=np.nextafter(1.0, 0)) == pytest.approx([0.2] * 5, abs=1e-12)
    assert np.isfinite(after(radius=1e300)).all() and np.isfinite(after(radius=1e-300)).all()


@values
@pytest.mark.parametrize("kind", ["chi2", "kl"])
def test_a_sampler_refuses_losses(kind: str, bad: Any, backend: str) -> None:
    made = sampler(kind, backend=backend)
    message = unchanged(made, ["loss", "losses", "index"], made.update, np.array([1, 2]), bad)
    if isinstance(bad, np.ndarray) and bad.dtype == np.float64 and (bad < 0).any() and np.isfinite(bad).all():
        assert any(word in message for word in ("shift", "add", "subtract")), message  # says how to make them >= 0


@indices
@pytest.mark.parametrize("kind", ["chi2", "kl"])
def test_a_sampler_refuses_indices(kind: str, bad: Any, backend: str) -> None:
    made = sampler(kind, backend=backend)
    array = isinstance(bad, np.ndarray | list)
    unchanged(made, ["index", "loss"] if not array else "index", made.update, bad, np.ones(len(bad)) if array else 1.0)
    unchanged(made, "index", made.probability, bad)


@pytest.mark.parametrize("kind", ["chi2", "kl"])
def test_a_sampler_is_all_or_nothing(kind: str, backend: str) -> None:
    made = sampler(kind, backend=backend)
    for loss in ([1.0, 2, 3, 4, nan], [1.0, 2, 3, 4, -1], [1.0, 2, 3, 4, inf]):
        unchanged(made, ["loss", "losses"], made.update, np.arange(5), np.array(loss))
    for index in ([0, 1, 2, 3, 5], [0, 1, 2, 3, -1]):
        unchanged(made, "index", made.update, np.array(index), np.ones(5))
    for size in (0, 4, 6):
        unchanged(made, ["loss", "losses", "index"], made.update, np.arange(5), np.ones(size))
    for bad in (-1, *NO_INTEGER):
        unchanged(made, "size", made.sample, bad)
    assert made.sample(0).shape == (0,) and made.sample(0).dtype == np.int64
    before = made.probabilities()
    soft(["index", "loss", "losses"], lambda: made.update(np.zeros(0, np.int64), np.zeros(0)),
         lambda _: np.allclose(made.probabilities(), before, atol=1e-16))
    for backwards in (np.array([2.0, 1.0])[::-1], np.array([1.0, 2.0])):
        twin = sampler(kind, backend=backend)
        twin.update(np.array([0, 4]), backwards)
        expected = oracle.mirror_step(before, [0, 4], [1.0, 2.0], radius=0.4, divergence=kind, floor=0.1, step_size=0.05)
        np.testing.assert_allclose(twin.probabilities(), expected.astype(float), atol=1e-13)


def test_a_step_at_a_weight_of_zero_is_refused(backend: str) -> None:
    made = dro.DROSampler(6, radius=2.0, step_size=1.0, backend=backend)
    made.update(np.array([2, 3]), np.array([50.0, 40.0]))
    p = made.probabilities()
    zero = int(np.flatnonzero(p == 0)[0])
    unchanged(made, "index", made.update, np.array([2, zero]), np.array([1.0, 1.0]))
    assert set(made.sample(1000).tolist()) <= set(np.flatnonzero(p).tolist())


@pytest.mark.parametrize("kind", ["chi2", "kl"])
def test_steps_beyond_all_numbers_are_refused_or_right(kind: str, backend: str) -> None:
    for step_size, loss in itertools.product([1e-300, 1.0, 1e300], [[1.7e308, 1.7e308], [1e308, 0.0], [5e-324, 1.0]]):
        made = dro.DROSampler(7, radius=0.5, divergence=kind, floor=0.1, step_size=step_size, backend=backend)
        for index in ([3, 3], [3, 6], [0, 1]):
            before = frozen(made.state_dict())
            try:
                made.update(np.array(index), np.array(loss))
            except ValueError as error:
                assert "loss" in str(error) or "step_size" in str(error)
                assert frozen(made.state_dict()) == before
            p = made.probabilities()
            assert np.isfinite(p).all() and abs(p.sum() - 1) < 1e-12 and p.min() >= 0.1 / 7 * (1 - 1e-12)
            assert oracle.divergence(p, kind) <= 0.5 * (1 + 1e-11)


# --------------------------------------------------------------------------------------------------------- the functions


@pytest.mark.parametrize("name", [name for name, bad in NO_VALUES.items() if "egative" not in name])
def test_functions_refuse_arrays(name: str, backend: str) -> None:
    bad = NO_VALUES[name]
    for kind in ({"radius": 0.1}, {"radius": 0.1, "divergence": "kl"}, {"penalty": 1.0}, {"alpha": 0.5, "divergence": "cvar"},
                 {"alpha": 0.5, "penalty": 1.0, "divergence": "kl-cvar"}):
        refuses("losses", dro.worst_case, bad, backend=backend, **kind)
    for kind in ("chi2", "kl"):
        refuses("weights", dro.project, bad, radius=0.1, divergence=kind, backend=backend)
    refuses("scores", dro.allocate, bad, 5, backend=backend)


def test_functions_refuse_arrays_of_no_length_and_signs(backend: str) -> None:
    for empty in (np.zeros(0), np.zeros((0, 3)), np.array(3.0)):
        refuses("losses", dro.worst_case, empty, radius=0.1, backend=backend)
        refuses("weights", dro.project, empty, radius=0.1, backend=backend)
        refuses("scores", dro.allocate, empty, 5, backend=backend)
    for negative in ([1.0, -1.0], [1.0, -5e-324]):
        refuses("scores", dro.allocate, np.array(negative), 5, backend=backend)
        refuses("weights", dro.project, np.array(negative), radius=0.1, divergence="kl", backend=backend)
    refuses("weights", dro.project, np.zeros(3), radius=0.1, divergence="kl", backend=backend)
    # where fewer than n e^-R weights are positive, no point of the ball has a finite distance to them
    soft(["weights", "radius"], lambda: dro.project(np.array([1.0, 0, 0, 0]), radius=0.1, divergence="kl", backend=backend),
         lambda p: oracle.divergence(p, "kl") <= 0.1 * (1 + 1e-9) and abs(p.sum() - 1) < 1e-12)


def test_scalars_of_worst_case(backend: str) -> None:
    z = np.array([1.0, 2.0, 4.0])

    def worst(**kw: Any) -> Any:
        return dro.worst_case(z, backend=backend, **kw)

    for kind in ("chi2", "kl"):
        for bad in NO_NUMBER:
            if bad is not None and bad is not inf:
                refuses("radius", worst, radius=bad, divergence=kind)
                refuses("penalty", worst, penalty=bad, divergence=kind)
        refuses(["radius", "penalty"], worst, divergence=kind)
        refuses(["radius", "penalty"], worst, radius=0.1, penalty=1.0, divergence=kind)
        refuses("alpha", worst, radius=0.1, alpha=0.5, divergence=kind)
        soft("radius", lambda kind=kind: worst(radius=0.0, divergence=kind)[0], lambda p: np.allclose(p, 1 / 3, atol=1e-15))
        soft("radius", lambda kind=kind: worst(radius=inf, divergence=kind)[0], lambda p: p.tolist() == [0, 0, 1])
        soft("penalty", lambda kind=kind: worst(penalty=0.0, divergence=kind)[0], lambda p: p.tolist() == [0, 0, 1])
        soft("penalty", lambda kind=kind: worst(penalty=inf, divergence=kind)[0], lambda p: np.allclose(p, 1 / 3, atol=1e-15))
    for bad in (*NO_NUMBER, 0.0, 1.0001, 2, -0.5):
        refuses("alpha", worst, alpha=bad, divergence="cvar")
        refuses("alpha", worst, alpha=bad, penalty=1.0, divergence="kl-cvar")
    for kw in ({"radius": 0.1}, {"penalty": 0.1}, {"radius": 0.1, "penalty": 1.0}):
        refuses(list(kw), worst, alpha=0.5, divergence="cvar", **kw)
    refuses("penalty", worst, alpha=0.5, divergence="kl-cvar")
    for bad in NO_NAME:
        refuses("divergence", worst, radius=0.1, divergence=bad)
    with pytest.raises(TypeError):
        dro.worst_case(z, 0.1)  # keyword-only: a radius is no penalty


def test_scalars_of_project(backend: str) -> None:
    w = np.array([0.5, 0.3, 0.4])
    for kind in ("chi2", "kl"):
        good = {"radius": 0.1, "divergence": kind, "floor": 0.1, "backend": backend}
        for bad in NO_NUMBER:
            if bad is not inf:
                refuses("radius", dro.project, w, **{**good, "radius": bad})
            refuses("floor", dro.project, w, **{**good, "floor": bad})
        for bad in (1.0, 1.5):
            refuses("floor", dro.project, w, **{**good, "floor": bad})
        soft("radius", lambda good=good: dro.project(w, **{**good, "radius": 0.0}), lambda p: np.allclose(p, 1 / 3, atol=1e-15))
        soft("radius", lambda good=good: dro.project(w, **{**good, "radius": inf}),
             lambda p, good=good: np.allclose(p, dro.project(w, **{**good, "radius": 1e6}), atol=1e-15))
    for bad in (*NO_NAME, "cvar", "kl-cvar"):
        refuses("divergence", dro.project, w, radius=0.1, divergence=bad, backend=backend)


@pytest.mark.parametrize("kind", ["chi2", "kl"])
def test_projections_of_extreme_weights(kind: str, backend: str) -> None:
    extremes = [[1e300, 1.0, 0.5], [1e-300, 2e-300, 1e-300], [1.7e308, 1.7e308, 0.0], [1.0, 1e-300, 1e-300], [5e-324] * 3]
    for w, floor, radius in itertools.product(extremes, (0.0, 0.3), (1e-12, 0.1, 100.0)):
        if kind == "kl" and min(w) == 0:  # KL(p || w) is infinite unless p is 0 there
            refuses("weights", dro.project, np.array(w), radius=radius, divergence=kind, floor=floor, backend=backend)
            continue
        p = dro.project(np.array(w), radius=radius, divergence=kind, floor=floor, backend=backend)
        assert np.isfinite(p).all() and p.min() >= floor / 3 * (1 - 1e-12) and abs(p.sum() - 1) < 1e-12, (w, p)
        assert oracle.divergence(p, kind) <= radius * (1 + 1e-9) + 1e-15
        # in long double, from weights scaled to 1 (kl) or shifted so that the largest is 0 (chi-squared)
        best = oracle.project(np.array(w), radius=radius, divergence=kind, floor=floor).astype(float)
        np.testing.assert_allclose(p, best, atol=1e-12)


def test_arguments_of_allocate(backend: str) -> None:
    scores = np.array([1.0, 2.0, 3.0])
    for bad in (-1, 2**63, 10**30, *NO_INTEGER):
        refuses("budget", dro.allocate, scores, bad, backend=backend)
        refuses(["minimum", "budget"], dro.allocate, scores, 10, minimum=bad, backend=backend)
    for budget, minimum in ((5, 2), (0, 1), (2**62, 2**62), (9, 2**61)):
        refuses(["budget", "minimum"], dro.allocate, scores, budget, minimum=minimum, backend=backend)
    soft("scores", lambda: dro.allocate(np.zeros(3), 8, backend=backend).tolist(), lambda got: got == [3, 3, 2])
    soft("scores", lambda: dro.allocate(np.zeros(3), 0, backend=backend).tolist(), lambda got: got == [0, 0, 0])
    soft("budget", lambda: dro.allocate(scores, 2**63 - 1, backend=backend),
         lambda got: sum(map(int, got)) == 2**63 - 1 and got.min() >= 0)
    assert dro.allocate(np.full(4, 1.7e308), 6, backend=backend).tolist() == [2, 2, 1, 1]
    assert dro.allocate(scores, np.int32(6), minimum=np.uint8(0), backend=backend).tolist() == [1, 2, 3]


def test_out_of_functions(backend: str) -> None:
    w = np.array([0.5, 0.3, 0.4])
    calls = {
        "project": (lambda **kw: dro.project(w, radius=0.01, backend=backend, **kw), np.float64),
        "allocate": (lambda **kw: dro.allocate(w, 7, backend=backend, **kw), np.int64),
    }
    for call, dtype in calls.values():
        out = np.zeros(3, dtype)
        assert call(out=out) is out and out.tolist() == call().tolist()
        read_only = np.zeros(3, dtype)
        read_only.flags.writeable = False
        wrong = [np.zeros(2, dtype), np.zeros((3, 1), dtype), np.zeros(3, np.float32), np.zeros(6, dtype)[::2], read_only]
        for bad in (*wrong, "out", [0] * 3):
            refuses("out", call, out=bad)
    same = w.copy()
    dro.project(same, radius=0.01, backend=backend, out=same)
    assert same.tolist() == dro.project(w, radius=0.01, backend=backend).tolist()


def test_arguments_of_pacing() -> None:
    good = {"total": 10, "start": 2, "end": 8}
    for bad in ("", "Linear", "cosine", None, 3, True, ["linear"], b"linear"):
        refuses("kind", dro.pacing, bad, 3, **good)
    for bad in (nan, inf, "3", None, True, [1], 1j):
        refuses("t", dro.pacing, "linear", bad, **good)
    soft("t", lambda: dro.pacing("linear", -1, **good), lambda got: got == 2)
    for name in good:
        for bad in (-1, *NO_INTEGER):
            refuses(name, dro.pacing, "linear", 3, **{**good, name: bad})
    refuses("total", dro.pacing, "linear", 0, **{**good, "total": 0})
    soft(["start", "end"], lambda: dro.pacing("linear", 5, total=10, start=8, end=2), lambda got: got == 5)
    soft(["start", "end"], lambda: dro.pacing("linear", 0, total=10, start=0, end=2), lambda got: got in (0, 1))
    assert dro.pacing("root", np.int64(10), total=np.uint8(10), start=np.int32(2), end=np.int64(8)) == 8
    assert dro.pacing("linear", 10**30, **good) == 8
    assert dro.pacing("exponential", 2, total=10**18, start=1, end=2**60) in (1, 2)


def test_arguments_of_group_weights() -> None:
    q, z = np.array([0.5, 0.5]), np.array([1.0, 2.0])
    for name, bad in NO_VALUES.items():
        refuses("weights", dro.group_weights, bad, z, step_size=1.0)
        if "egative" not in name:
            refuses("losses", dro.group_weights, q, bad, step_size=1.0)
    for bad in (np.zeros(0), np.array(1.0), np.zeros(2)):
        refuses("weights", dro.group_weights, bad, bad, step_size=1.0)
    refuses(["weights", "losses"], dro.group_weights, q, np.ones(3), step_size=1.0)
    for bad in NO_NUMBER:
        refuses("step_size", dro.group_weights, q, z, step_size=bad)
        refuses("floor", dro.group_weights, q, z, step_size=1.0, floor=bad)
    refuses("floor", dro.group_weights, q, z, step_size=1.0, floor=1.0)


def test_arguments_of_mlmc_estimate() -> None:
    good = {"draw": np.ones, "estimate": np.mean, "base": 4, "levels": 3}
    assert dro.mlmc_estimate(**good) == pytest.approx(1.0)
    for bad in (None, 3, "draw", np.ones(3)):
        refuses("draw", dro.mlmc_estimate, **{**good, "draw": bad})
        refuses("estimate", dro.mlmc_estimate, **{**good, "estimate": bad})
    for bad in (-2, *NO_INTEGER):
        refuses("base", dro.mlmc_estimate, **{**good, "base": bad})
        refuses("levels", dro.mlmc_estimate, **{**good, "levels": bad})
    refuses("base", dro.mlmc_estimate, **{**good, "base": 0})
    refuses("levels", dro.mlmc_estimate, **{**good, "levels": 10_000})
    for bad in (*NO_NUMBER, 0.0, 1.5, -0.1):
        refuses("q", dro.mlmc_estimate, **good, q=bad)
    for bad in NO_SEED:
        refuses("seed", dro.mlmc_estimate, **good, seed=bad)
    for bad in (-1, 2**32, *NO_INTEGER):
        refuses("step", dro.mlmc_estimate, **good, step=bad)
    soft("base", lambda: dro.mlmc_estimate(**{**good, "base": 3}), lambda got: got == pytest.approx(1.0))
    soft("levels", lambda: dro.mlmc_estimate(**{**good, "levels": 0}), lambda got: got == pytest.approx(1.0))
    soft("q", lambda: dro.mlmc_estimate(**good, q=1.0), lambda got: got == pytest.approx(1.0))
    for step in range(20):
        refuses("estimate", dro.mlmc_estimate, **{**good, "estimate": lambda batch: "much"}, step=step)
        refuses("estimate", dro.mlmc_estimate, **{**good, "estimate": lambda batch: batch.repeat(2)}, step=step)

    class Boom(Exception):
        pass

    def fails(*_: Any) -> Any:
        raise Boom

    for name in ("draw", "estimate"):
        with pytest.raises(Boom):
            dro.mlmc_estimate(**{**good, name: fails})


# ------------------------------------------------------------------------------------------------------------ states


def made_states(backend: str | None = None) -> dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]]:
    return {
        "tree": (lambda: tree(backend), lambda made: (made.sample(5).tolist(), made.total)),
        "chi2": (lambda: sampler("chi2", backend=backend), lambda made: made.sample(5).tolist()),
        "kl": (lambda: sampler("kl", backend=backend), lambda made: made.sample(5).tolist()),
    }


@pytest.mark.parametrize("what", ["tree", "chi2", "kl"])
def test_states_that_are_none(what: str, backend: str) -> None:
    make, use = made_states(backend)[what]
    made = make()
    before = frozen(made.state_dict())
    for bad in (None, 3, "state", [], b"", {}, {"version": 1}, {1: 2}):
        with pytest.raises((ValueError, TypeError)):
            made.load_state_dict(bad)
        assert frozen(made.state_dict()) == before
    other = dro.DROSampler(6, radius=0.4, step_size=0.1, backend=backend) if what == "tree" else dro.SumTree(5, backend=backend)
    with pytest.raises((ValueError, TypeError)):
        made.load_state_dict(other.state_dict())
    assert frozen(made.state_dict()) == before
    use(made)


@pytest.mark.parametrize("what", ["tree", "chi2", "kl"])
def test_tampered_states_are_refused_or_harmless(what: str, backend: str) -> None:
    """Every entry in turn: left out, of another type, cut, filled. What is accepted must still work without a crash."""
    make, use = made_states(backend)[what]
    state = make().state_dict()
    assert all(isinstance(key, str) for key in state)
    for key, value in state.items():
        changes: list[tuple[Any, bool]] = [(None, value is not None), ("x", True), ([1, 2], False), (object(), True)]
        if isinstance(value, np.ndarray):
            changes += [(value[:-1], False), (np.r_[value, value[:1]], False), (value.astype(complex), True)]
            changes += [(value[None], True), (value.astype(object), True)]
            if value.dtype.kind == "f":
                changes += [(np.full_like(value, bad), value.size > 0) for bad in (nan, inf, -1.0)]
                changes += [(np.full_like(value, bad), False) for bad in (0.0, 1e308)]
            elif value.dtype.kind in "iu":
                far = np.iinfo(value.dtype).max
                changes += [(np.full_like(value, far), value.size > 0), (np.zeros_like(value), False)]
                changes += [(np.full_like(value, -7), value.size > 0)] if value.dtype.kind == "i" else []
        elif isinstance(value, bool):
            pass
        elif isinstance(value, int):
            changes += [(-1, value >= 0), (2**200, True), (1.5, True), (value + 1, False), (2**31 - 1, False)]
        elif isinstance(value, float):
            changes += [(nan, True), (inf, True), (-1.0, False), (0.0, False), (1e308, False)]
        elif isinstance(value, str):
            changes += [("", True), (value + "!", True)]
        for bad, must in [(KeyError, True), *changes]:
            made = make()
            before = frozen(made.state_dict())
            tampered = copy.deepcopy(state)
            if bad is KeyError:
                del tampered[key]
            else:
                tampered[key] = bad
            try:
                made.load_state_dict(tampered)
            except (ValueError, TypeError):
                assert frozen(made.state_dict()) == before, (key, bad)
                continue
            except Exception as error:
                raise AssertionError(f"{key} = {bad!r} gave {error!r}") from error
            assert not must, f"accepted {key} = {bad!r} for {value!r}"
            with contextlib.suppress(ValueError):  # a total of 0, say
                use(made)
            if what != "tree":
                p = made.probabilities()
                assert np.isfinite(p).all() and p.min() >= 0 and abs(p.sum() - 1) < 1e-9, (key, bad)


def test_a_loaded_state_of_another_size_is_taken_whole_or_refused(backend: str) -> None:
    small, large = dro.SumTree(W, backend=backend), dro.SumTree(np.arange(100.0), seed=8, backend=backend)
    small.load_state_dict(large.state_dict())
    assert small.n == 100 and small.total == large.total and small.sample(9).tolist() == large.sample(9).tolist()
    made = sampler(backend=backend)
    bigger = dro.DROSampler(6, radius=0.4, floor=0.1, step_size=0.05, backend=backend)
    soft(["n", "state", "p", "z"], lambda: made.load_state_dict(bigger.state_dict()), lambda _: len(made.probabilities()) == 6)


# -------------------------------------------------------------------------------------------- threads, forks, libraries


def test_eight_readers_at_once() -> None:
    rng = np.random.default_rng(0)
    w = rng.exponential(1.0, 20_000) * (rng.uniform(size=20_000) < 0.5)
    made = dro.SumTree(w)
    masses, ends = rng.uniform(0, made.total, (50, 500)), np.sort(rng.integers(0, 20_001, (50, 2)), axis=1)
    start = threading.Barrier(8)

    def read(_: int) -> bytes:
        start.wait(30)
        found = [made.find(mass) for mass in masses] + [made.weights(index) for index in rng.integers(0, 1, (3, 4))]
        sums = [made.sum(int(lo), int(hi)) for lo, hi in ends]
        return np.concatenate(found).tobytes() + np.array(sums).tobytes() + np.float64(made.total).tobytes()

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(read, range(8)))
    start = threading.Barrier(1)
    assert set(results) == {read(0)}


def work(seed: int) -> bytes:
    kind = "kl" if seed % 4 == 3 else "chi2"
    made = dro.DROSampler(300, radius=1.0, divergence=kind, floor=0.1, step_size=1e-5 if kind == "chi2" else 3e-3, seed=seed)
    losses = np.random.default_rng(seed).exponential(1.0, 300)
    weights = dro.SumTree(losses, seed=seed)
    drawn = []
    for _ in range(40):
        index = made.sample(32)
        made.update(index, losses[index])
        weights.update(index, losses[index] * 0.5)
        drawn += [index, weights.sample(16, method="systematic"), weights.sample(5, method="without_replacement")]
    p, _ = dro.worst_case(losses, radius=0.5)
    near = dro.project(losses / 300, radius=0.1)
    return np.concatenate(drawn).tobytes() + made.probabilities().tobytes() + p.tobytes() + near.tobytes()


def test_forty_threads_with_samplers_of_their_own_equal_serial_runs() -> None:
    with ThreadPoolExecutor(40) as pool:
        together = list(pool.map(work, range(40)))
    assert together == [work(seed) for seed in range(40)]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_child_computes_the_same(run_python) -> None:
    code = """
import os, signal, numpy as np
from fastgd import dro
tree, sampler = dro.SumTree(np.arange(1000.0), seed=1), dro.DROSampler(500, radius=1.0, step_size=1e-6, floor=0.1, seed=2)
kl = dro.DROSampler(500, radius=1.0, step_size=1e-3, divergence="kl", seed=2)
def results():
    tree.update(np.arange(0, 1000, 7), np.ones(143))
    for s in (sampler, kl):
        s.update(s.sample(16), np.ones(16))
    return [tree.sample(50).tobytes(), sampler.sample(50).tobytes(), kl.sample(50).tobytes(), sampler.probabilities().tobytes(),
            dro.worst_case(np.arange(100.0), radius=0.3)[0].tobytes()]
results()
r, w = os.pipe()
pid = os.fork()
if pid == 0:
    signal.alarm(20)
    os.write(w, b"".join(results()))
    os._exit(0)
mine = b"".join(results())
theirs = b""
while len(theirs) < len(mine):
    chunk = os.read(r, 65536)
    assert chunk
    theirs += chunk
assert os.waitpid(pid, 0)[1] == 0
assert mine == theirs
"""
    run_python(code, "-W", "ignore::DeprecationWarning", timeout=60)


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")
def test_torch_goes_in_and_comes_out(backend: str) -> None:
    import torch

    w = torch.tensor(W)
    for kind in ({"radius": 0.3}, {"penalty": 1.0, "divergence": "kl"}, {"alpha": 0.5, "divergence": "cvar"}):
        p, value = dro.worst_case(w, backend=backend, **kind)
        assert isinstance(p, torch.Tensor) and p.dtype == torch.float64 and isinstance(value, float)
        assert p.tolist() == dro.worst_case(W, backend=backend, **kind)[0].tolist()
    near = dro.project(w, radius=0.3, backend=backend)
    assert isinstance(near, torch.Tensor) and near.tolist() == dro.project(W, radius=0.3, backend=backend).tolist()
    given = dro.allocate(w, 9, backend=backend)
    assert isinstance(given, torch.Tensor) and given.dtype == torch.int64
    assert given.tolist() == dro.allocate(W, 9, backend=backend).tolist()
    made, plain = dro.SumTree(w, seed=3, backend=backend), dro.SumTree(W, seed=3, backend=backend)
    index, weight = torch.tensor([4, 0, 4]), torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    made.update(index, weight)
    plain.update(index.numpy(), weight.numpy())
    made.append(weight)
    plain.append(weight.numpy())
    assert np.asarray(made.weights()).tolist() == plain.weights().tolist()
    mass = torch.tensor([0.0, 3.0], dtype=torch.float64)
    assert np.asarray(made.find(mass)).tolist() == plain.find(mass.numpy()).tolist()
    assert made.sample(9).tolist() == plain.sample(9).tolist()
    other, twin = sampler(backend=backend), sampler(backend=backend)
    other.update(index, weight)
    twin.update(index.numpy(), weight.numpy())
    assert other.probabilities().tolist() == twin.probabilities().tolist()
    assert np.asarray(other.probability(index)).tolist() == np.asarray(twin.probability(index.numpy())).tolist()
    grad = torch.tensor(W, requires_grad=True)
    refuses("losses", dro.worst_case, grad, radius=0.3, backend=backend)
    refuses("weights", dro.project, grad, radius=0.3, backend=backend)
    refuses(["weights", "n"], dro.SumTree, grad, backend=backend)
    unchanged(made, ["weight", "weights"], made.update, torch.tensor([1, 2]), grad[:2])
    unchanged(other, ["loss", "losses"], other.update, torch.tensor([1, 2]), grad[:2])
    unchanged(made, "index", made.update, torch.tensor([True, False]), weight[:2])
    unchanged(made, "index", made.update, torch.tensor([0.0, 1.0]), weight[:2])
    for sparse in (torch.eye(2, dtype=torch.float64).to_sparse(), torch.ones(5, dtype=torch.complex128)):
        refuses("losses", dro.worst_case, sparse, radius=0.3, backend=backend)


def test_pickles_are_small_and_of_plain_data(backend: str) -> None:
    made = dro.SumTree(np.ones(10_000), backend=backend)
    assert len(pickle.dumps(made)) < 10_000 * 10 + 4000
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        twin = pickle.loads(pickle.dumps(made, protocol))
        assert twin.sample(5).tolist() == dro.SumTree(np.ones(10_000)).sample(5).tolist()
    for kind in ("chi2", "kl"):
        state = sampler(kind, backend=backend).state_dict()
        plain = np.ndarray | np.generic | int | float | str | type(None) | dict | list
        assert all(isinstance(value, plain) for value in state.values())
        assert not any(isinstance(v, np.ndarray) and v.dtype == object for v in state.values())
