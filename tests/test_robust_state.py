"""KrumState: always what krum says about the current vectors, however they came to be."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
from robust_calls import refuses
from robust_oracle import DTYPES, LARGEST, bits, flat, floats, make

from fastgd import robust
from fastgd.robust import KrumState


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def same_as_krum(state: KrumState, x, f: int, backend: str, **options) -> None:
    """select, scores and distances agree with those of the current vectors to the bit, errors included."""
    assert bits(state.sqdist) == bits(robust.pairwise_sqdist(x, backend=backend))
    try:
        vector, info = robust.krum(x, f, return_info=True, backend=backend, **options)
    except ValueError:
        refuses("rows", state.select)
        return
    chosen, mine = state.select(return_info=True)
    assert flat([chosen]).tobytes() == flat([vector]).tobytes() and type(chosen) is type(vector)
    assert bits(mine.selected) == bits(info.selected) and bits(mine.scores) == bits(info.scores) == bits(state.scores())
    assert mine.bad_rows.tolist() == info.bad_rows.tolist() == state.bad_rows.tolist()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n, d, f", [(3, 1, 0), (5, 17, 1), (7, 600, 2), (12, 1100, 3)])
def test_any_history(n: int, d: int, f: int, dtype: str, backend: str) -> None:
    rng = np.random.default_rng(n)
    x = make(normal(n, d), dtype)
    state = KrumState(x, f, backend=backend, num_threads=2)
    x = x.copy()
    for step in range(120 if backend == "cpu" else 30):  # the oracle measures all anew at each
        i = int(rng.integers(n))
        if rng.random() < 0.4:
            value = rng.choice([np.nan, LARGEST[dtype], 1e4, 1.0, 1.0, 1.0]) * rng.uniform(-1, 1, d)
            new = x[rng.integers(n)].copy() if rng.random() < 0.1 else make(value, dtype)
            state.update(i, new)
            x[i] = new
        else:
            index = rng.choice(d, int(rng.integers(0, min(d, 6) + 1)), replace=False)
            values = rng.uniform(0.1, 1, len(index)) * rng.choice([1.0, -1.0, 1.0, 1e4, np.inf])
            state.update_sparse(i, index, values)
            x[i, index] = make(values, dtype)
        try:
            expected = bits(robust.krum(x, f, backend=backend))
        except ValueError:
            refuses("rows", state.select)
        else:
            assert bits(state.select()) == expected
        if step % 10 == 9:
            same_as_krum(state, x, f, backend)
            assert all(bits(state.vector(j)) == bits(x[j]) for j in range(n))


def test_ties_after_sparse_updates(backend: str) -> None:
    """Distances that are equal in the end, though they were computed along different ways."""
    x = np.zeros((6, 40), np.float32)
    state = KrumState(x, 1, backend=backend)
    for i in range(6):
        state.update_sparse(i, np.arange(10) * (i + 1) % 40 if i < 3 else np.arange(10), np.full(10, 0.1) * (i + 1))
    for i in range(6):
        state.update_sparse(i, np.arange(40), np.r_[np.full(39, 1 / 3), i % 2])
        x[i] = np.r_[np.full(39, 1 / 3), i % 2]
    assert bits(state.select()) == bits(robust.krum(x, 1, backend=backend))
    same_as_krum(state, x, 1, backend)


def test_a_small_difference_after_a_large_one(backend: str) -> None:
    """Taking away a coordinate of 1e6 leaves nothing of the old distance but its rounding errors."""
    x = normal(7, 300).astype(np.float32)
    state = KrumState(x, 2, backend=backend)
    for i in (0, 3):
        state.update_sparse(i, [5], [1e6])
        state.update_sparse(i, [5], [x[i, 5]])
    assert bits(state.select()) == bits(robust.krum(x, 2, backend=backend))
    same_as_krum(state, x, 2, backend)


def test_sparse_updates_alone_read_no_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the choice is clear, select rests on the updated distances."""
    x = normal(7, 500)
    x[4] *= 0.1
    state = KrumState(x, 2)
    monkeypatch.setattr(KrumState, "_distances", None)
    monkeypatch.setattr(KrumState, "_compute_all", None)
    for i in range(7):
        state.update_sparse(i, [i, 10, 400], [0.5, -0.5, 0.1])
        x[i, [i, 10, 400]] = 0.5, -0.5, 0.1
    assert bits(state.select()) == bits(robust.krum(x, 2)) == bits(x[4])


def test_neighbors_and_layers(backend: str) -> None:
    x = [[normal(4, seed=i), normal(2, 3, seed=i + 20).astype(np.float32), np.array(float(i))] for i in range(5)]
    state = KrumState(x, 2, neighbors=2, backend=backend)
    x[1] = [normal(4, seed=50), normal(2, 3, seed=51).astype(np.float32), np.array(0.5)]
    state.update(1, x[1])
    same_as_krum(state, x, 2, backend, neighbors=2)
    state.update_sparse(3, np.array([10, 0, 5]), np.array([9.0, -1.0, 0.1]))
    x[3] = [part.copy() for part in x[3]]
    x[3][0][0], x[3][1][0, 1], x[3][2][...] = -1.0, 0.1, 9.0
    same_as_krum(state, x, 2, backend, neighbors=2)
    assert [part.shape for part in state.vector(3)] == [(4,), (2, 3), ()]
    assert state.n == 5


def test_torch_vectors(backend: str) -> None:
    torch = pytest.importorskip("torch")
    for dtype in (torch.float32, torch.bfloat16):
        x = torch.tensor(normal(6, 50)).to(dtype)
        state = pickle.loads(pickle.dumps(KrumState(x, 1, backend=backend)))
        state.update(2, x[3])
        state.update_sparse(0, [1, 2], [0.5, 0.25])
        x[2] = x[3]
        x[0, 1:3] = torch.tensor([0.5, 0.25])
        same_as_krum(state, x, 1, backend)


def test_the_state_owns_its_vectors(backend: str) -> None:
    x = normal(5, 20)
    kept, value = x.copy(), normal(20, seed=3)
    state = KrumState(x, 1, backend=backend)
    x[:] = np.nan
    state.update(1, value)
    kept[1] = value
    value[:] = 0
    state.vector(1)[:] = 0
    state.select()[:] = 0
    state.sqdist[:] = 0
    state.bad_rows[:] = True
    same_as_krum(state, kept, 1, backend)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, copy.copy, lambda state: pickle.loads(pickle.dumps(state))])
def test_pickles_and_copies_live_on_their_own(duplicate, backend: str) -> None:
    x = normal(5, 20)
    state = KrumState(x, 1, backend=backend)
    state.update_sparse(0, [3], [0.25])
    x[0, 3] = 0.25
    other = duplicate(state)
    other.update(1, np.full(20, np.nan))
    same_as_krum(state, x, 1, backend)
    x[1] = np.nan
    same_as_krum(other, x, 1, backend)


def test_bad_vectors_come_and_go(backend: str) -> None:
    x = normal(7, 30)
    x[2] = np.nan
    state = KrumState(x, 1, backend=backend)
    same_as_krum(state, x, 1, backend)
    state.update_sparse(5, [29], [np.inf])
    x[5, 29] = np.inf
    assert "rows 2, 5" in refuses("f=1", state.select)
    assert np.isinf(state.scores()[[2, 5]]).all()
    state.update_sparse(2, np.arange(30), np.ones(30))
    x[2] = 1.0
    same_as_krum(state, x, 1, backend)
    nothing = KrumState(np.full((5, 4), np.nan), 1, backend=backend)
    assert nothing.bad_rows.all()
    for i in range(5):
        nothing.update(i, normal(4, seed=i))
    same_as_krum(nothing, np.stack([normal(4, seed=i) for i in range(5)]), 1, backend)


def test_float64_overflow(backend: str) -> None:
    x = normal(7, 5)
    state = KrumState(x, 2, backend=backend)
    for i, size in ((0, 1e200), (6, -1e300)):
        state.update(i, np.full(5, size))
        x[i] = size
    state.update_sparse(0, [1], [0.0])
    x[0, 1] = 0.0
    state.update_sparse(3, [1], [1e250])
    x[3, 1] = 1e250
    state.update_sparse(3, [1], [0.5])
    x[3, 1] = 0.5
    assert bits(state.select()) == bits(robust.krum(x, 2, backend=backend))
    same_as_krum(state, x, 2, backend)


def test_errors_leave_the_state_unchanged(backend: str) -> None:
    x = normal(5, 4)
    state = KrumState(x, 1, backend=backend)
    good = normal(4)
    for row in (-1, 5, 1.0, None, "0"):
        refuses("row", state.update, row, good)
        refuses("row", state.update_sparse, row, [0], [1.0])
        refuses("row", state.vector, row)
    for value in (normal(3), good.astype(np.float32), [good], None, 1.0, good[None]):
        refuses("value", state.update, 0, value)
    for index, values, name in (
        ([4], [1.0], "index"),
        ([-1], [1.0], "index"),
        ([1, 1], [1.0, 2.0], "index"),
        ([0.0], [1.0], "index"),
        ([[0]], [[1.0]], "index"),
        ([0], [1.0, 2.0], "index"),
        ([0], ["a"], "values"),
        ([0], [None], "values"),
    ):
        refuses(name, state.update_sparse, 0, index, values)
    same_as_krum(state, x, 1, backend)
    refuses("f", KrumState, x, 2)
    refuses("neighbors", KrumState, x, 1, neighbors=5)
    refuses("x", KrumState, None, 1)
    refuses("backend", KrumState, x, 1, backend="nope")
    assert floats(state.select()).shape == (4,)
