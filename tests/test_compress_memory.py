"""What error feedback promises about its memory: errors leave no trace, checkpoints, buffers, threads, codecs as values."""

from __future__ import annotations

import copy
import pickle
import threading
from typing import Any

import numpy as np
import pytest
from compress_calls import CODECS, LARGEST, codecs, every_codec, normal

import fastgd
from fastgd import _threads, compress

NAN, INF = float("nan"), float("inf")
kinds = pytest.mark.parametrize("kind", [compress.ErrorFeedback, compress.EF21], ids=["EF", "EF21"])


def memory(worker: Any) -> np.ndarray:
    return worker.residual() if isinstance(worker, compress.ErrorFeedback) else worker.estimate()


def gradients(count: int, n: int = 1000) -> list[np.ndarray]:
    return [normal(n, seed=100 + t) for t in range(count)]


@every_codec
def test_nonfinite_with_memory(codec) -> None:
    """On finite gradients all three policies agree; "zero" is a gradient with zeros there."""
    workers = [compress.ErrorFeedback(codec, 1000, nonfinite=policy) for policy in ("raise", "zero", "propagate")]
    for gradient in gradients(3):
        raised, zeroed, propagated = (worker.compress(gradient).tobytes() for worker in workers)
        assert raised == zeroed == propagated
    broken = normal(1000)
    broken[[1, 998]] = NAN, INF
    expected = workers[0].compress(np.where(np.isfinite(broken), broken, np.float32(0)))
    assert workers[1].compress(broken).tobytes() == expected.tobytes()
    np.testing.assert_array_equal(workers[0].residual(), workers[1].residual())


@kinds
@every_codec
def test_an_error_leaves_no_trace(codec, kind) -> None:
    worker, twin = kind(codec, 1000, seed=5, rank=2), kind(codec, 1000, seed=5, rank=2)
    first, *rest = gradients(4)
    worker.compress(first), twin.compress(first)
    before = memory(worker)
    broken = rest[0].copy()
    broken[[3, 999]] = NAN, INF
    for wrong in (broken, rest[0][:-1], rest[0].reshape(10, 100), list(rest[0])):
        with pytest.raises((ValueError, TypeError)):
            worker.compress(wrong)
    with pytest.raises(ValueError):
        worker.compress(rest[0], out=np.empty(codec.max_nbytes(1000) - 1, np.uint8))
    with pytest.raises((TypeError, ValueError)):
        worker.compress(rest[0], out=np.empty(codec.max_nbytes(1000), np.float32))
    np.testing.assert_array_equal(memory(worker), before)
    for gradient in rest:
        assert worker.compress(gradient).tobytes() == twin.compress(gradient).tobytes()


def test_overflow_leaves_no_trace() -> None:
    """An AMP step whose gradient is finite but adds up to Inf with the residual."""
    worker = compress.ErrorFeedback(compress.TopK(0), 4)
    worker.compress(np.full(4, 0.75 * LARGEST, np.float32))
    before = worker.residual()
    with pytest.raises(ValueError):
        worker.compress(np.full(4, 0.75 * LARGEST, np.float32))
    np.testing.assert_array_equal(worker.residual(), before)
    worker.compress(np.full(4, -0.75 * LARGEST, np.float32))
    assert not worker.residual().any()


@kinds
@every_codec
def test_resume_from_a_checkpoint(codec, kind) -> None:
    """The next ten payloads are the same bytes, also when the state went through pickle and came into another object."""
    steps = gradients(15)
    worker = kind(codec, 1000, seed=11, rank=3)
    for gradient in steps[:5]:
        worker.compress(gradient)
    saved = worker.state_dict()
    packed = pickle.loads(pickle.dumps(saved))
    expected = [worker.compress(gradient).tobytes() for gradient in steps[5:]]
    for state in (saved, packed):  # `saved` is a copy: going on has not changed it
        other = kind(codec, 1000, seed=11, rank=3)
        other.compress(steps[9])
        other.load_state_dict(state)
        assert [other.compress(gradient).tobytes() for gradient in steps[5:]] == expected
        np.testing.assert_array_equal(memory(other), memory(worker))


@kinds
@every_codec
def test_reset_starts_over(codec, kind) -> None:
    steps = gradients(4)
    worker = kind(codec, 1000, seed=1)
    expected = [worker.compress(gradient).tobytes() for gradient in steps]
    worker.reset()
    assert not memory(worker).any()
    assert [worker.compress(gradient).tobytes() for gradient in steps] == expected


@kinds
def test_rescale(kind) -> None:
    """Multiplies the memory, for a new learning rate or loss scale: by powers of two all payloads scale exactly."""
    for codec in (compress.TopK(50), compress.Sign(), compress.Int8()):
        steps = gradients(6)
        worker, scaled = kind(codec, 1000), kind(codec, 1000)
        for gradient in steps[:3]:
            worker.compress(gradient), scaled.compress(gradient)
        scaled.rescale(0.25)
        np.testing.assert_array_equal(memory(scaled), np.float32(0.25) * memory(worker))
        for gradient in steps[3:]:
            c, small = compress.decode(worker.compress(gradient)), compress.decode(scaled.compress(gradient * np.float32(0.25)))
            np.testing.assert_array_equal(small, np.float32(0.25) * c)
        for wrong, error in ((NAN, ValueError), (INF, ValueError), ("2", TypeError), (None, TypeError)):
            with pytest.raises(error):
                scaled.rescale(wrong)
        scaled.rescale(0.0)
        assert not memory(scaled).any()


@kinds
def test_damaged_checkpoints(kind) -> None:
    worker = kind(compress.TopK(5), 100)
    worker.compress(normal(100))
    before, good = memory(worker), worker.state_dict()
    other_n = kind(compress.TopK(5), 101).state_dict()
    for bad in ({}, other_n, dict(list(good.items())[1:]), None, [1, 2]):
        with pytest.raises((ValueError, TypeError, KeyError)):
            worker.load_state_dict(bad)
        np.testing.assert_array_equal(memory(worker), before)
    broken = copy.deepcopy(good)
    for key, value in broken.items():
        if isinstance(value, np.ndarray) and value.dtype == np.float32:
            broken[key] = np.full_like(value, np.nan)
    with pytest.raises(ValueError):
        worker.load_state_dict(broken)
    np.testing.assert_array_equal(memory(worker), before)


@kinds
@every_codec
def test_out(codec, kind) -> None:
    """Payloads in a given buffer at any alignment: a view of its beginning, nothing written beyond the longest payload."""
    most = codec.max_nbytes(1000)
    ring = np.full(2 * most + 40, 0xA5, np.uint8)
    worker, twin = kind(codec, 1000), kind(codec, 1000)
    for t, gradient in enumerate(gradients(4)):
        place = ring[t + 1 : t + 1 + most + t]
        payload = worker.compress(gradient, out=place)
        assert np.shares_memory(payload, place) and payload.ctypes.data == place.ctypes.data
        assert payload.tobytes() == twin.compress(gradient).tobytes()
        assert np.all(ring[t + 1 + most :] == 0xA5) and ring[0] == 0xA5


@kinds
def test_no_coordinates(kind) -> None:
    for codec in codecs(0):
        worker = kind(codec, 0)
        for _ in range(2):
            assert compress.decode(worker.compress(np.zeros(0, np.float32))).shape == (0,)
        assert memory(worker).shape == (0,)
        worker.load_state_dict(worker.state_dict())
    nothing = np.zeros(0, np.float32)
    compress.decode_add([compress.encode(compress.TopK(3), nothing)], nothing)


def test_memory_is_given_as_copies() -> None:
    worker, steps = compress.ErrorFeedback(compress.TopK(1), 100), gradients(2, 100)
    worker.compress(steps[0])
    residual, state = worker.residual(), worker.state_dict()
    kept = residual.copy()
    worker.compress(steps[1])
    np.testing.assert_array_equal(residual, kept)
    residual[:] = 1e9
    for value in state.values():
        if isinstance(value, np.ndarray):
            value[...] = 0
    assert np.abs(worker.residual()).max() < 1e3


def test_threads_make_the_same_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_threads, "PARALLEL_BYTES", 1)
    n = 100_003
    x = [normal(n, seed=t) for t in range(2)]
    shaped = [codec for codec in codecs(1000) if not isinstance(codec, compress.PowerSGD)]
    for codec in [*shaped, compress.TopK(ratio=0.01), compress.PowerSGD(1, (1, n))]:
        found = []
        for threads in (1, 2, 3):
            with fastgd.use(num_threads=threads):
                worker = compress.ErrorFeedback(codec, n, rank=1)
                payloads = [worker.compress(gradient).tobytes() for gradient in x]
                out = np.zeros(n, np.float32)
                compress.decode_add(payloads, out, scale=0.3)
                found.append((payloads, worker.residual().tobytes(), compress.decode(payloads[1]).tobytes(), out.tobytes()))
        assert found[0] == found[1] == found[2], codec


def test_calls_from_several_threads_do_not_mix() -> None:
    x = normal(20_000)
    shaped = [codec for codec in CODECS if not isinstance(codec, compress.PowerSGD)]
    expected = [compress.encode(codec, x).tobytes() for codec in shaped]
    wrong: list[Any] = []

    def work(turn: int) -> None:
        for i in range(len(shaped)):
            at = (i * 7 + turn) % len(shaped)
            payload = compress.encode(shaped[at], x).tobytes()
            if payload != expected[at] or len(compress.decode(payload)) != len(x):
                wrong.append(shaped[at])

    workers = [threading.Thread(target=work, args=(turn,)) for turn in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


@every_codec
def test_codecs_are_values(codec) -> None:
    """Frozen, hashable, equal by parameters, and the same after pickle and copy; so are objects with memory."""
    twin = pickle.loads(pickle.dumps(codec))
    assert twin == codec and hash(twin) == hash(codec) and copy.deepcopy(codec) == codec
    assert eval(repr(codec), dict(vars(compress))) == codec
    with pytest.raises(AttributeError):
        codec.code_of_mine = 3
    steps = gradients(4)
    worker = compress.ErrorFeedback(codec, 1000, rank=1)
    worker.compress(steps[0])
    others = [pickle.loads(pickle.dumps(worker)), copy.deepcopy(worker)]
    expected = [worker.compress(gradient).tobytes() for gradient in steps[1:]]
    for other in others:
        assert [other.compress(gradient).tobytes() for gradient in steps[1:]] == expected
