"""The CUDA kernels of fastgd.compress: in Numba's simulator at small sizes (`sim`), on a GPU at real ones (`gpu`).

    NUMBA_ENABLE_CUDASIM=1 pytest -m sim tests/test_compress_cuda.py
    pytest -m gpu tests/test_compress_cuda.py

All is compared with the CPU's kernels, bit for bit: payloads, memories, decoded vectors.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from robust_oracle import make
from test_robust_cuda import LIBRARIES, device, host, on_gpu

from fastgd import _cuda, compress
from fastgd.compress import (
    DGC,
    EF21,
    FP8,
    QSGD,
    CountSketch,
    Drive,
    EControl,
    ErrorFeedback,
    Identity,
    Int8,
    Natural,
    OneBit,
    PowerSGD,
    RandK,
    Sign,
    TernGrad,
    Threshold,
    TopK,
)

sim = [pytest.mark.sim, pytest.mark.filterwarnings("ignore:.*(overflow|invalid value|divide by zero):RuntimeWarning")]

#: Every codec for vectors of any length, in all its ways.
CODECS = [Identity(), Sign(), OneBit(), TopK(ratio=0.1), TopK(7, bits=8), Threshold(0.7), RandK(ratio=0.2), RandK(5, scaled=True),
          Int8(bucket=50), Int8(bucket=64, stochastic=True), QSGD(levels=3, bucket=37), QSGD(norm="l2", bucket=100), TernGrad(),
          Natural(), FP8(bucket=60), FP8("e5m2", bucket=33), Drive(), Drive(3, unbiased=True),
          CountSketch(4, 9)]

#: The compressors with two memories.
VARIANTS = [lambda n: EControl(Sign(), n, weight=0.3, seed=3, rank=2), lambda n: DGC(Threshold(0.7), n, momentum=0.7)]
same_variant = pytest.mark.parametrize("make_worker", VARIANTS, ids=["EControl", "DGC"])


@pytest.fixture
def signatures(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fails when a launch passes types that KERNELS does not list: those were never compiled by the PTX tests."""
    from numba import typeof, types

    from fastgd.compress.cuda import KERNELS

    declared = {(kernel.py_func.__name__, eval(signature, dict(vars(types))).args)
                for kernel, found, *_ in KERNELS for signature in found}
    launch, launched = _cuda.launch, []

    def checked(kernel: Any, grid: int, threads: int, stream: Any, *arguments: Any, **options: Any) -> None:
        launched.append((kernel.py_func.__name__, tuple(typeof(argument) for argument in arguments)))
        source = inspect.getsource(kernel.py_func)
        if "shared" not in source or "blockDim" in source:
            threads = 32  # any number will do, and the simulator starts a thread for each
        launch(kernel, min(grid, 2), threads, stream, *arguments, **options)

    monkeypatch.setattr(_cuda, "launch", checked)
    yield
    assert not set(launched) - declared


def hostile(n: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(n)
    normal = rng.standard_normal(n)
    return {"zeros": np.where(np.arange(n) % 2, -0.0, 0.0), "ties": np.resize([1.0, -1.0, 2.0, -0.0], n),
            "large": normal * (3e38 / np.abs(normal).max()), "subnormal": normal * 1e-41,
            "mixed": normal * 10.0 ** rng.integers(-44, 37, n)}


def same(a: Any, b: Any) -> None:
    """Equal bits."""
    a, b = host(a), host(b)
    assert a.dtype == b.dtype
    assert a.shape == b.shape
    assert a.tobytes() == b.tobytes()


def same_states(a: dict[str, Any], b: dict[str, Any]) -> None:
    assert a.keys() == b.keys()
    for name, value in a.items():
        if isinstance(value, np.ndarray):
            same(value, b[name])
        else:
            assert value == b[name]


def check_decoding(payloads: list[Any], moved: list[Any], n: int, put: Any) -> None:
    same(compress.decode(moved[0]), compress.decode(payloads[0]))
    start = np.random.default_rng(3).standard_normal(n).astype(np.float32)
    out = put(start)
    assert compress.decode_add(moved, out, scale=0.3) is out
    same(out, compress.decode_add(payloads, start.copy(), scale=0.3))


@pytest.mark.usefixtures("signatures")
class TestSimulated:
    """Every codec against the CPU, on the simulator's device arrays."""

    pytestmark = sim

    @pytest.mark.parametrize("codec", CODECS, ids=repr)
    def test_vectors(self, codec: Any) -> None:
        for n in (0, 1, 300):
            x = np.random.default_rng(n).standard_normal(n).astype(np.float32)
            payload = compress.encode(codec, x, seed=5, step=2, rank=1)
            moved = compress.encode(codec, device(x), seed=5, step=2, rank=1)
            same(moved, payload)
            check_decoding([payload] * 2, [moved] * 2, n, device)

    @pytest.mark.parametrize("codec", CODECS, ids=repr)
    def test_hostile_vectors(self, codec: Any) -> None:
        for name, x in hostile(70).items():
            x = x.astype(np.float32)
            payload, moved = compress.encode(codec, x, seed=1), compress.encode(codec, device(x), seed=1)
            assert host(moved).tobytes() == payload.tobytes(), name
            same(compress.decode(moved), compress.decode(payload))

    @pytest.mark.parametrize("kind", [ErrorFeedback, EF21])
    @pytest.mark.parametrize("codec", CODECS, ids=repr)
    def test_memories(self, codec: Any, kind: Any) -> None:
        n, rng = 130, np.random.default_rng(1)
        own, other = kind(codec, n, seed=3, rank=2), kind(codec, n, seed=3, rank=2)
        for dtype in ("float32", "float16", "bfloat16"):
            g = make(rng.standard_normal(n), dtype)
            same(own.compress(device(g)), other.compress(g))
            a, b = own.state_dict(), other.state_dict()
            same(a["memory"], b["memory"])

    @same_variant
    def test_variants(self, make_worker: Any) -> None:
        """The memories go to the GPU with the first gradient there, from wherever they have got to, and into checkpoints."""
        n, rng = 70, np.random.default_rng(1)
        own, other, third = (make_worker(n) for _ in range(3))
        for dtype in ("float32", "float32", "float16", "bfloat16"):
            g = make(rng.standard_normal(n), dtype)
            same(own.compress(device(g) if other.step else g), other.compress(g))
        same_states(own.state_dict(), other.state_dict())
        same(own.residual(), other.residual())
        own.rescale(0.5)
        other.rescale(0.5)
        third.load_state_dict(own.state_dict())
        own.load_state_dict(other.state_dict())
        payload = other.compress(g)
        same(own.compress(device(g)), payload)
        same(third.compress(device(g)), payload)
        with pytest.raises(TypeError, match="the memory went to the GPU"):
            own.compress(g)
        own.reset()
        assert not host(own.residual()).any()

    @pytest.mark.parametrize("worker", [EControl(TopK(1), 2, weight=0.3), DGC(TopK(1), 2)], ids=["EControl", "DGC"])
    def test_variants_that_refuse_a_step_stay_as_they_are(self, worker: Any) -> None:
        worker.compress(device(np.array([3e38, 3e38], np.float32)))
        before = worker.state_dict()
        beyond = -3e38 if isinstance(worker, EControl) else 3e38
        for value, reason in ((beyond, "overflow float32"), (np.inf, "at coordinates 0")):
            with pytest.raises(ValueError, match=reason):
                worker.compress(device(np.array([value, value], np.float32)))
            same_states(worker.state_dict(), before)

    def test_chunks(self) -> None:
        x = np.random.default_rng(0).standard_normal(2 * 2048 + 5).astype(np.float32)
        for codec in (Sign(), OneBit()):
            same(compress.encode(codec, device(x)), compress.encode(codec, x))

    def test_momentum_rescaling_and_checkpoints(self) -> None:
        rng = np.random.default_rng(2)
        own, other = EF21(Sign(), 40, momentum=0.3), EF21(Sign(), 40, momentum=0.3)
        for _ in range(2):
            g = rng.standard_normal(40).astype(np.float32)
            same(own.compress(device(g)), other.compress(g))
        own.rescale(0.5)
        other.rescale(0.5)
        same(own.estimate(), other.estimate())
        third = EF21(Sign(), 40, momentum=0.3)
        third.load_state_dict(own.state_dict())
        own.load_state_dict(other.state_dict())
        g = rng.standard_normal(40).astype(np.float32)
        payload = other.compress(g)
        same(own.compress(device(g)), payload)
        same(third.compress(device(g)), payload)
        with pytest.raises(TypeError, match="the memory went to the GPU"):
            own.compress(g)
        own.reset()
        assert not host(own.estimate()).any()

    def test_overflow_is_refused(self) -> None:
        worker = ErrorFeedback(Sign(), 4)
        worker.compress(device(np.array([3e38, 0, 0, 0], np.float32)))
        before = worker.state_dict()["memory"]
        with pytest.raises(ValueError, match="overflow float32"):
            worker.compress(device(np.array([3e38, 0, 0, 0], np.float32)))
        same(worker.residual(), before)

    def test_nonfinite(self) -> None:
        x = np.array([1.0, np.nan, -2.0, np.inf], np.float32)
        with pytest.raises(ValueError, match="at coordinates 1, 3"):
            compress.encode(Sign(), device(x))
        for dtype in ("float32", "float16", "bfloat16"):
            g = make(x.astype(np.float64), dtype)
            same(compress.encode(Sign(), device(g), nonfinite="zero"), compress.encode(Sign(), g, nonfinite="zero"))
        compress.encode(Sign(), device(x), nonfinite="propagate")
        assert not ErrorFeedback(Sign(), 4).accepts(device(x))

    def test_rotations(self) -> None:
        """A whole block and what is left, and blocks of less than a byte."""
        for n, bits in ((4096 + 9, 2), (2, 4), (3, 1), (7, 3)):
            x = np.random.default_rng(n).standard_normal(n).astype(np.float32)
            payload = compress.encode(Drive(bits), x, seed=2**64 - 1, step=2**32 - 1)
            same(compress.encode(Drive(bits), device(x), seed=2**64 - 1, step=2**32 - 1), payload)
            same(compress.decode(device(payload)), compress.decode(payload))

    def test_sketches(self) -> None:
        """Medians of one row, of an odd number and of many."""
        x = np.random.default_rng(5).standard_normal(9).astype(np.float32)
        for codec in (CountSketch(1, 3), CountSketch(7, 4), CountSketch(255, 1)):
            payload = compress.encode(codec, x, seed=2**64 - 1, step=2**32 - 1)
            same(compress.encode(codec, device(x), seed=2**64 - 1, step=2**32 - 1), payload)
            same(compress.decode(device(payload)), compress.decode(payload))

    @pytest.mark.parametrize("shape, rank, value",
                             [((1, 1), 1, 3.0), ((3, 5), 2, None), ((3, 2), 2, 1e-30), ((2, 1025), 1, 1e30)])
    def test_matrices(self, shape: tuple[int, int], rank: int, value: float | None) -> None:
        """Without a value: random; else all entries alike, so that columns after the first vanish."""
        codec, n, rng = PowerSGD(rank, shape), shape[0] * shape[1], np.random.default_rng(0)
        own, other, third = (ErrorFeedback(codec, n, seed=2**64 - 1) for _ in range(3))
        for dtype in ("float32", "float32", "bfloat16"):
            g = make(rng.standard_normal(n) if value is None else np.full(n, value), dtype)
            same(own.compress(device(g) if other.step else g), other.compress(g))
        state = own.state_dict()
        same(state["extra"].pop("right"), other.state_dict()["extra"]["right"])
        same_states(state | {"extra": {}}, other.state_dict() | {"extra": {}})
        third.load_state_dict(other.state_dict())
        payload = other.compress(g)
        same(third.compress(device(g)), payload)
        check_decoding([payload] * 2, [device(payload)] * 2, n, device)

    def test_estimates_of_matrices(self) -> None:
        codec, rng = PowerSGD(1, (66, 2)), np.random.default_rng(0)
        g = rng.standard_normal(132).astype(np.float32)
        own, other = EF21(codec, 132), EF21(codec, 132)
        same(own.compress(device(g)), other.compress(g))
        same(own.estimate(), other.estimate())

    def test_majority_vote(self) -> None:
        rng = np.random.default_rng(4)
        payloads = [compress.encode(Sign(), rng.standard_normal(77).astype(np.float32)) for _ in range(4)]
        for voters in (1, 3, 4):
            same(compress.majority_vote([device(p) for p in payloads[:voters]]), compress.majority_vote(payloads[:voters]))

    def test_checksums(self) -> None:
        for size in (1, 1000, 1024, 1025, 5000):
            x = np.random.default_rng(size).standard_normal(size).astype(np.float32)
            same(compress.encode(Identity(), device(x)), compress.encode(Identity(), x))

    @pytest.mark.parametrize("codec", CODECS, ids=repr)
    def test_changed_payloads_are_refused(self, codec: Any) -> None:
        payload = compress.encode(codec, np.random.default_rng(0).standard_normal(21).astype(np.float32))
        for at in (0, 4, 8, 28, len(payload) - 1):
            wrong = payload.copy()
            wrong[at] ^= 1
            with pytest.raises(ValueError, match="payload"):
                compress.decode(device(wrong))
        for wrong in (payload[:10], payload[:-1], np.append(payload, np.uint8(0))):
            with pytest.raises(ValueError, match="payload"):
                compress.decode(device(wrong))

    @pytest.mark.parametrize("codec", [*CODECS, PowerSGD(2, (3, 7))], ids=repr)
    def test_bodies_that_no_encoder_writes(self, codec: Any) -> None:
        """Both machines refuse the same bodies, and decode the others to the same bits."""
        from fastgd.compress import wire

        payload = compress.encode(codec, np.random.default_rng(0).standard_normal(21).astype(np.float32))
        header, body = wire.parse(payload)
        for at in range(0, len(body), max(1, len(body) // 4)):
            for value in (0x7F, 0x80, 0xFF):
                wrong = payload.copy()
                wrong[wire.SIZE + at] = value
                wire.seal(wrong, header.codec, header.option, header.n, header.a, header.b, header.length)
                try:
                    right = compress.decode(wrong)
                except ValueError:
                    with pytest.raises(ValueError, match="no encoder writes"):
                        compress.decode(device(wrong))
                else:
                    same(compress.decode(device(wrong)), right)

    def test_arguments(self) -> None:
        x = np.ones(9, np.float32)
        with pytest.raises(ValueError, match="one vector"):
            compress.encode(Sign(), device(x.reshape(3, 3)))
        with pytest.raises(ValueError, match="is on the host, but out is on the GPU"):
            compress.decode_add([compress.encode(Sign(), x)], device(x))
        out = device(np.zeros(100, np.uint8))
        payload = compress.encode(Sign(), device(x), out=out)
        same(payload, compress.encode(Sign(), x))
        same(out[: len(payload)], payload)
        with pytest.raises(ValueError, match="takes up to"):
            compress.encode(Sign(), device(x), out=out[:10])
        with pytest.raises(TypeError, match="on the GPU"):
            compress.encode(Sign(), device(x), out=np.zeros(100, np.uint8))


@pytest.mark.gpu
@pytest.mark.parametrize("library", LIBRARIES)
class TestGPU:
    """The same bits as on the CPU."""

    @pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
    @pytest.mark.parametrize("codec", CODECS, ids=repr)
    def test_vectors(self, library: str, codec: Any, dtype: str) -> None:
        for n in (0, 1, 100_003):
            x = make(np.random.default_rng(n).standard_normal(n), dtype)
            payload = compress.encode(codec, x, seed=5, rank=1)
            moved = compress.encode(codec, on_gpu(x, library, dtype), seed=5, rank=1)
            same(moved, payload)
            check_decoding([payload] * 2, [moved] * 2, n, lambda start: on_gpu(start, library, "float32"))

    @pytest.mark.parametrize("kind", [ErrorFeedback, EF21])
    @pytest.mark.parametrize("codec", CODECS, ids=repr)
    def test_memories(self, library: str, codec: Any, kind: Any) -> None:
        n, rng = 70_001, np.random.default_rng(1)
        own, other = kind(codec, n, seed=3, rank=2), kind(codec, n, seed=3, rank=2)
        for _ in range(3):
            g = rng.standard_normal(n).astype(np.float32)
            same(own.compress(on_gpu(g, library, "float32")), other.compress(g))
        same(own.state_dict()["memory"], other.state_dict()["memory"])

    @same_variant
    def test_variants(self, library: str, make_worker: Any) -> None:
        n, rng = 70_001, np.random.default_rng(1)
        own, other = make_worker(n), make_worker(n)
        for _ in range(3):
            g = rng.standard_normal(n).astype(np.float32)
            same(own.compress(on_gpu(g, library, "float32")), other.compress(g))
        same_states(own.state_dict(), other.state_dict())

    @pytest.mark.parametrize("shape, rank", [((1, 1), 1), ((300, 500), 4), ((5000, 7), 7), ((3, 20_000), 2), ((200, 200), 64)])
    def test_matrices(self, library: str, shape: tuple[int, int], rank: int) -> None:
        n, rng = shape[0] * shape[1], np.random.default_rng(1)
        own, other = ErrorFeedback(PowerSGD(rank, shape), n), ErrorFeedback(PowerSGD(rank, shape), n)
        for scale in (1.0, 1e-30, 0.0):
            g = (scale * rng.standard_normal(n)).astype(np.float32)
            payload = other.compress(g)
            same(own.compress(on_gpu(g, library, "float32")), payload)
            same(compress.decode(on_gpu(payload, library, "uint8")), compress.decode(payload))
        same(own.state_dict()["memory"], other.state_dict()["memory"])

    @pytest.mark.parametrize("codec", CODECS, ids=repr)
    def test_hostile_vectors(self, library: str, codec: Any) -> None:
        for x in hostile(5000).values():
            x = x.astype(np.float32)
            same(compress.encode(codec, on_gpu(x, library, "float32")), compress.encode(codec, x))
