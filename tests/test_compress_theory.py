"""Facts of the papers, on the public functions of fastgd.compress: constants, identities, rates, counterexamples."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
from compress_calls import label

from fastgd import compress
from fastgd.compress import rates

ROUNDING = 1e-5  # relative, of squared norms: bounds are for exact arithmetic, payloads are float32


def through(codec: Any, x: np.ndarray, step: int = 0) -> np.ndarray:
    """What a receiver makes of x, as float64."""
    return compress.decode(compress.encode(codec, np.asarray(x, np.float32), step=step)).astype(np.float64)


def error(codec: Any, x: np.ndarray, step: int = 0) -> float:
    """||x - C(x)||^2 of a float32 vector, in float64."""
    return float(((np.asarray(x, np.float64) - through(codec, x, step)) ** 2).sum())


def square(x: np.ndarray) -> float:
    return float((np.asarray(x, np.float64) ** 2).sum())


# ----------------------------------------------------------------------------------------------- codecs and vectors

N = 960  # = 24 x 40, for the codec of matrices; buckets of 512 end early

DETERMINISTIC = [
    compress.Identity(), compress.TopK(1), compress.TopK(ratio=0.01), compress.TopK(N), compress.TopK(ratio=0.1, bits=8),
    compress.TopK(700, bits=8), compress.Sign(), compress.OneBit(), compress.Int8(), compress.Int8(bucket=64),
    compress.FP8(), compress.FP8("e5m2"), compress.FP8("e4m3", bucket=16),
]
RANDOM = [
    compress.RandK(1), compress.RandK(ratio=0.1), compress.RandK(96, scaled=True), compress.QSGD(), compress.QSGD(4),
    compress.QSGD(1, bucket=64), compress.QSGD(4, norm="l2"), compress.QSGD(127, bucket=100, norm="l2"), compress.TernGrad(),
    compress.Natural(), compress.Int8(stochastic=True), compress.Drive(), compress.CountSketch(1, 500),
]  # fmt: skip
UNBIASED = [codec for codec in RANDOM if codec.unbiased] + [compress.CountSketch(3, 400)]


def vectors(n: int = N) -> dict[str, np.ndarray]:
    """Ordinary vectors, and the ones at which bounds are tight."""
    rng = np.random.default_rng(11)
    one_hot = np.zeros(n)
    one_hot[n // 3] = -5.0
    spike = np.full(n, 1.0 / (math.sqrt(n) + 1.0))  # the worst case of TernGrad
    spike[0] = 1.0
    found = {
        "normal": rng.standard_normal(n),
        "lognormal": rng.lognormal(0.0, 2.0, n) * rng.choice([-1.0, 1.0], n),
        "one-hot": one_hot,
        "two": one_hot + np.roll(one_hot, 7) * 0.7,
        "equal": np.full(n, 0.3),
        "alternating": np.where(np.arange(n) % 2, 1.0, -1.0),
        "spike": spike,
        "four thirds": np.full(n, 4.0 / 3.0) * rng.choice([-1.0, 1.0], n) * 2.0 ** rng.integers(-9, 9, n),
        "half a level": np.concatenate([[127.0], rng.integers(-127, 126, n - 1) + 0.5]),
        "geometric": 0.97 ** np.arange(n),
        "sparse": rng.standard_normal(n) * (rng.random(n) < 0.02),
        "positive": rng.random(n) + 10.0,
        "tiny": rng.standard_normal(n) * 1e-30,
        "huge": rng.standard_normal(n) * 1e17,
    }
    return {name: x.astype(np.float32) for name, x in found.items()}


VECTORS = vectors()
names = pytest.mark.parametrize("name", VECTORS)


@pytest.mark.parametrize("codec", DETERMINISTIC, ids=label)
def test_contraction_is_never_exceeded(codec) -> None:
    epsilon = codec.contraction(N)
    assert 0.0 <= epsilon <= 1.0
    for name, x in VECTORS.items():
        assert error(codec, x) <= (epsilon + ROUNDING) * square(x), name


@names
@pytest.mark.parametrize("codec", RANDOM, ids=label)
def test_averages_stay_below_the_constants(codec, name: str) -> None:
    """E||x - C(x)||^2 over independent steps, with five standard errors to spare."""
    x = VECTORS[name]
    found = np.array([error(codec, x, step) for step in range(60)]) / square(x)
    slack = 5.0 * found.std() / math.sqrt(len(found)) + ROUNDING
    if isinstance(codec, compress.RandK):
        slack += 5.0 / len(found)  # 60 draws may all miss what 1 of 960 would have hit
    for bound in (codec.contraction(N), codec.variance(N)):
        assert bound is None or found.mean() <= bound + slack
    assert codec.contraction(N) is not None or codec.variance(N) is not None


@names
@pytest.mark.parametrize("codec", UNBIASED, ids=label)
def test_unbiased(codec, name: str) -> None:
    """The mean of C(x) over 200 steps is x: along some directions, not beyond 6 standard errors."""
    x, steps, rng = VECTORS[name].astype(np.float64), 200, np.random.default_rng(12)
    directions = np.vstack([x / math.sqrt(square(x)), np.sign(x), np.ones(N), rng.choice([-1.0, 1.0], (12, N))])
    found = np.array([(through(codec, x, step) - x) @ directions.T for step in range(steps)])
    rounding = 1e-6 * math.sqrt(square(x)) * np.linalg.norm(directions, axis=1)
    assert np.all(np.abs(found.mean(axis=0)) <= 6.0 * found.std(axis=0, ddof=1) / math.sqrt(steps) + rounding)


@pytest.mark.parametrize("codec", [compress.QSGD(4), compress.QSGD(2, norm="l2"), compress.Natural(), compress.TernGrad(),
                                   compress.Int8(stochastic=True), compress.RandK(96, scaled=True)], ids=label)
def test_every_coordinate_is_unbiased(codec) -> None:
    """z-scores of single coordinates, over 400 steps: mean 0, variance 1, none far out."""
    x, steps = VECTORS["normal"].astype(np.float64) + np.sign(VECTORS["normal"]), 400
    draws = np.array([through(codec, x, step) for step in range(steps)]) - x
    spread = draws.std(axis=0, ddof=1)
    assert np.count_nonzero(spread == 0) <= 20  # what lies on a level, or so near that 400 draws all agree
    z = draws.mean(axis=0)[spread > 0] / spread[spread > 0] * math.sqrt(steps)
    assert abs(z.mean()) < 0.2 and 0.7 < z.std() < 1.3
    assert np.abs(z).max() < 9.0  # of rare roundings the normal distribution knows little


def test_constants_that_no_codec_has() -> None:
    assert compress.Threshold(0.5).contraction(N) is None and compress.RandK(3, scaled=True).contraction(N) is None
    assert compress.TernGrad().contraction(N) is None and compress.TopK(3).variance(N) is None
    assert not compress.Sign().unbiased and compress.Int8(stochastic=True).unbiased and not compress.Int8().unbiased
    for x in VECTORS.values():
        value = float(np.abs(x).mean())
        found = error(compress.Threshold(value), x)
        assert found <= min(N * value**2, square(x)) * (1 + ROUNDING)


@names
def test_low_rank_never_adds(name: str) -> None:
    for rank in (1, 3, 24):
        found = error(compress.PowerSGD(rank, (24, 40)), VECTORS[name])
        assert found <= square(VECTORS[name]) * (1 + ROUNDING)
        if rank == 24:
            assert found <= square(VECTORS[name]) * 1e-9


# ------------------------------------------------------------------------------------------ where they are attained


@pytest.mark.parametrize("k", [0, 1, 7, 500, N])
def test_topk_loses_exactly_the_rest(k: int) -> None:
    for x in VECTORS.values():
        kept = np.sort(np.abs(x.astype(np.float64)))[::-1]
        assert error(compress.TopK(k), x) == pytest.approx((kept[k:] ** 2).sum(), rel=1e-9)
    assert error(compress.TopK(k), VECTORS["alternating"]) == N - k == pytest.approx(N * compress.TopK(k).contraction(N))


def test_topk_of_normal_vectors() -> None:
    """epsilon of the k / n largest of a normal vector: 1 - 2 (t phi(t) + Q(t)), where 2 Q(t) = k / n."""
    x = np.random.default_rng(5).standard_normal(1_000_000).astype(np.float32)
    for ratio, expected in ((0.001, 0.987299), (0.01, 0.915511), (0.1, 0.560715)):
        assert error(compress.TopK(ratio=ratio), x) / square(x) == pytest.approx(expected, abs=2e-3)


def test_ties_go_to_the_lowest_index() -> None:
    assert through(compress.TopK(3), np.ones(6)).tolist() == [1, 1, 1, 0, 0, 0]
    assert through(compress.TopK(2), np.array([1.0, -2.0, 2.0, -2.0])).tolist() == [0, -2, 2, 0]
    assert through(compress.TopK(3), np.array([0.0, 0.0, 3.0, 0.0])).tolist() == [0, 0, 3, 0]


@names
def test_one_bit_formulas(name: str) -> None:
    """||x - C||^2 = ||x||^2 - ||x||_1^2 / n for Sign; OneBit is the projection on what is constant on both sides of zero."""
    x = VECTORS[name].astype(np.float64)
    sign = square(x) - np.abs(x).sum() ** 2 / N
    assert error(compress.Sign(), VECTORS[name]) == pytest.approx(sign, rel=1e-5, abs=1e-6 * square(x))
    upper, lower = x[x >= 0], x[x < 0]
    projection = square(x) - sum(side.sum() ** 2 / len(side) for side in (upper, lower) if len(side))
    found = error(compress.OneBit(), VECTORS[name])
    assert found == pytest.approx(projection, rel=1e-5, abs=1e-6 * square(x))
    assert found <= error(compress.Sign(), VECTORS[name]) + ROUNDING * square(x)


def test_one_bit_values_by_hand() -> None:
    x = np.array([1.0, 2.0, -3.0, -5.0, 0.0])
    assert through(compress.Sign(), x).tolist() == pytest.approx([2.2, 2.2, -2.2, -2.2, 2.2])
    assert through(compress.OneBit(), x).tolist() == [1.0, 1.0, -4.0, -4.0, 1.0]
    assert through(compress.OneBit(), np.array([-1.0, -3.0])).tolist() == [-2.0, -2.0]


def test_one_bit_constants_of_normal_vectors() -> None:
    x = np.random.default_rng(6).standard_normal(1 << 20).astype(np.float32)
    assert error(compress.Sign(), x) / square(x) == pytest.approx(1 - 2 / math.pi, abs=2e-3)
    assert error(compress.Drive(), x) / square(x) == pytest.approx(1 - 2 / math.pi, abs=2e-3)


def test_sign_with_the_euclidean_scale_would_be_no_contraction() -> None:
    """Why the scale is the mean magnitude: ||x||_2 / sqrt(n) would lose 1.94 ||x||^2 of a one-hot vector."""
    x = np.zeros(1000)
    x[0] = 1.0
    assert square(x - 1 / math.sqrt(1000) * np.where(x < 0, -1, 1)) == pytest.approx(1.9368, abs=1e-4)
    assert error(compress.Sign(), x) == pytest.approx(1 - 1 / 1000, rel=1e-6) == compress.Sign().contraction(1000)


def mean_square(codec: Any, x: np.ndarray, steps: int) -> tuple[float, float]:
    """E||C(x)||^2 and its standard error."""
    found = np.array([square(through(codec, x, step)) for step in range(steps)])
    return float(found.mean()), float(found.std() / math.sqrt(steps))


@pytest.mark.parametrize("name", ["normal", "spike", "lognormal"])
def test_exact_second_moments(name: str) -> None:
    """TernGrad: ||x||_inf ||x||_1. RandK: (k / n) ||x||^2, scaled (n / k) ||x||^2."""
    x = VECTORS[name]
    for codec, expected in (
        (compress.TernGrad(), float(np.abs(x).max()) * float(np.abs(x.astype(np.float64)).sum())),
        (compress.RandK(96), 0.1 * square(x)),
        (compress.RandK(96, scaled=True), 10.0 * square(x)),
    ):
        mean, deviation = mean_square(codec, x, 400)
        assert abs(mean - expected) <= 5 * deviation + 1e-6 * expected


def test_bounds_that_are_attained() -> None:
    worst = np.full(N, 4.0 / 3.0)
    found = np.mean([error(compress.Natural(), worst, step) for step in range(100)]) / square(worst)
    assert found == pytest.approx(1 / 8, rel=2e-2)
    found = np.mean([error(compress.TernGrad(), VECTORS["spike"], step) for step in range(400)]) / square(VECTORS["spike"])
    assert found == pytest.approx(compress.TernGrad().variance(N), rel=5e-2)


@pytest.mark.parametrize(
    "codec, n, expected",
    [
        (compress.QSGD(4, bucket=512, norm="l2"), 512 * 400, 3.5175),
        (compress.QSGD(64, bucket=512, norm="l2"), 512 * 400, 0.02087),
        (compress.QSGD(7, bucket=128, norm="l2"), 128 * 800, 0.43642),
        (compress.Int8(), 512 * 400, 5.50e-5),
        (compress.Int8(stochastic=True), 512 * 400, 1.097e-4),
        (compress.Drive(2), 4096 * 40, 0.1175),
        (compress.Drive(3), 4096 * 40, 0.03454),
        (compress.Drive(4), 4096 * 40, 0.009497),
        (compress.Drive(1, unbiased=True), 4096 * 40, math.pi / 2 - 1),
        (compress.Drive(2, unbiased=True), 4096 * 40, 0.1332),
    ],
    ids=label,
)
def test_errors_of_normal_vectors(codec, n: int, expected: float) -> None:
    x = np.random.default_rng(8).standard_normal(n).astype(np.float32)
    assert error(codec, x) / square(x) == pytest.approx(expected, rel=2e-2)


def test_sketches_add() -> None:
    """The mean of the sums is the sum of the means: decode is linear in a table of one row."""
    x, y = VECTORS["normal"], VECTORS["sparse"]
    codec = compress.CountSketch(1, 300)
    together = through(codec, (x.astype(np.float64) + y).astype(np.float32))
    np.testing.assert_allclose(through(codec, x) + through(codec, y), together, atol=1e-4)


# ------------------------------------------------------------------------------------------------- error feedback


@pytest.mark.parametrize("codec", [compress.TopK(40), compress.RandK(40), compress.TopK(0), compress.TopK(N),
                                   compress.Threshold(1.0)], ids=label)
def test_nothing_is_lost_bit_for_bit(codec) -> None:
    """p = C(p) + e with equality of bits where values are copied: sent coordinates leave 0, the others stay."""
    rng, ef = np.random.default_rng(1), compress.ErrorFeedback(codec, N, seed=3)
    for _ in range(25):
        gradient = (rng.standard_normal(N) * 10.0 ** rng.uniform(-6, 6, N)).astype(np.float32)
        p = ef.residual() + gradient
        sent = compress.decode(ef.compress(gradient))
        e = ef.residual()
        assert ((sent + e).view(np.uint32) == p.view(np.uint32)).all()
        assert np.all((e == 0) | (sent == 0)) and np.all((sent == 0) | (sent == p))


@pytest.mark.parametrize("codec", [compress.Sign(), compress.OneBit(), compress.QSGD(), compress.Int8(), compress.FP8(),
                                   compress.TernGrad(), compress.Natural(), compress.Drive(2), compress.TopK(90, bits=8),
                                   compress.PowerSGD(2, (24, 40))], ids=label)
def test_the_residual_is_what_the_receiver_lacks(codec) -> None:
    """e = fl(p - decode(payload)): half an ulp, and local: it knows nothing of what others sent."""
    rng, ef = np.random.default_rng(2), compress.ErrorFeedback(codec, N, seed=3, rank=1)
    for _ in range(6):
        gradient = rng.standard_normal(N).astype(np.float32)
        p = ef.residual() + gradient
        sent = compress.decode(ef.compress(gradient))
        np.testing.assert_array_equal(ef.residual(), p - sent)


@pytest.mark.parametrize("codec", [compress.TopK(20), compress.RandK(100), compress.Sign(), compress.OneBit(), compress.Int8(),
                                   compress.QSGD(7), compress.Drive(), compress.PowerSGD(2, (24, 40))], ids=label)
def test_virtual_iterate(codec) -> None:
    """x_t - e_t = x_0 - sum of eta g: with feedback, what was sent and what is kept add up to what came in."""
    rng, ef = np.random.default_rng(3), compress.ErrorFeedback(codec, N, seed=1)
    came, sent, size = np.zeros(N), np.zeros(N), 0.0
    for _ in range(100):
        gradient = (0.1 * rng.standard_normal(N)).astype(np.float32)
        came += gradient
        sent += compress.decode(ef.compress(gradient))
        size = max(size, float(np.abs(ef.residual()).max()), float(np.abs(sent).max()))
    np.testing.assert_allclose(sent + ef.residual(), came, atol=100 * 2.0**-23 * size)


@pytest.mark.parametrize("codec", [compress.TopK(N // 10), compress.TopK(N // 2, bits=8), compress.Drive(2), compress.Int8(),
                                   compress.FP8("e5m2")], ids=label)
@pytest.mark.parametrize("kind", ["random", "constant", "turning"])
def test_the_residual_is_bounded(codec, kind: str) -> None:
    """||e+|| <= s (||e|| + ||g||), so ||e|| <= s / (1 - s) G for ever; s from the worst call seen (Drive promises none)."""
    rng, ef = np.random.default_rng(4), compress.ErrorFeedback(codec, N)
    fixed = rng.standard_normal(N)
    worst = math.sqrt(codec.contraction(N) or 0.13)
    for t in range(150):
        gradient = {"random": rng.standard_normal(N), "constant": fixed, "turning": fixed * (-1) ** (t // 10)}[kind]
        gradient = (gradient / np.linalg.norm(gradient)).astype(np.float32)
        ef.compress(gradient)
        assert math.sqrt(square(ef.residual())) <= worst / (1 - worst) * (1 + 1e-4)


def test_the_residual_of_each_worker_is_its_own() -> None:
    """Two workers that want opposite things: residuals stay bounded, where p - (mean of all payloads) would grow for ever."""
    target = VECTORS["normal"]
    workers = [compress.ErrorFeedback(compress.TopK(N // 10), N, rank=rank) for rank in range(2)]
    aggregated, largest = np.zeros((2, N), np.float32), []
    for _ in range(200):
        gradients = [target, -target]
        for worker, gradient in zip(workers, gradients, strict=True):
            worker.compress(gradient)
        largest.append(max(square(worker.residual()) for worker in workers))
        sent = [compress.decode(compress.encode(compress.TopK(N // 10), memory + gradient))
                for memory, gradient in zip(aggregated, gradients, strict=True)]
        aggregated += np.array(gradients) - (sent[0] + sent[1]) / 2
    assert max(largest[100:]) <= max(largest[:100]) * 1.1
    assert square(aggregated[0]) > 100 * max(largest)


def test_ef21_is_a_difference_and_nothing_else() -> None:
    """d <- d + C(g - d) bit for bit, and d tends to a gradient that stands still: error epsilon^t at most."""
    g, codec = VECTORS["normal"], compress.TopK(N // 4)
    ef = compress.EF21(codec, N)
    for t in range(1, 40):
        before = ef.estimate()
        sent = compress.decode(ef.compress(g))
        np.testing.assert_array_equal(ef.estimate(), before + sent)
        np.testing.assert_array_equal(sent, compress.decode(compress.encode(codec, g - before)))
        assert square(g - ef.estimate()) <= codec.contraction(N) ** t * square(g) + 1e-10
    np.testing.assert_allclose(ef.estimate(), g, rtol=1e-6)


def test_workers_draw_alike_or_apart() -> None:
    """All ranks keep the same coordinates and rotate alike; their roundings are independent, so means get better."""
    gradient = VECTORS["normal"]
    kept = [compress.decode(compress.ErrorFeedback(compress.RandK(50), N, seed=9, rank=rank).compress(gradient))
            for rank in range(3)]
    assert all(np.array_equal(kept[0], other) for other in kept)
    assert np.count_nonzero(kept[0]) == 50
    codec = compress.QSGD(2, bucket=64)
    rounded = [compress.decode(compress.ErrorFeedback(codec, N, seed=9, rank=rank).compress(gradient)).astype(np.float64)
               for rank in range(32)]
    errors = np.array(rounded) - gradient
    alone, mean = (errors**2).sum(axis=1).mean(), (errors.mean(axis=0) ** 2).sum()
    assert mean == pytest.approx(alone / 32, rel=0.2)
    correlation = np.corrcoef(errors)[np.triu_indices(32, 1)]
    assert np.abs(correlation).max() < 5.5 / math.sqrt(N)


# --------------------------------------------------------------------------------------- the tight rates, one step


class Quadratic(NamedTuple):
    """f(x) = (x - x*)' A (x - x*) / 2 with eigenvalues from mu to L, both attained."""

    matrix: np.ndarray
    best: np.ndarray
    L: float
    mu: float

    def gradient(self, x: np.ndarray) -> np.ndarray:
        return self.matrix @ (x - self.best)

    def value(self, x: np.ndarray) -> float:
        return float((x - self.best) @ self.matrix @ (x - self.best)) / 2


def quadratic(rng: np.random.Generator, d: int, kappa: float, scale: float = 1.0) -> Quadratic:
    values = scale * np.concatenate([[1.0, kappa], np.exp(rng.uniform(0, math.log(kappa), d - 2))])
    basis = np.linalg.qr(rng.standard_normal((d, d)))[0] if rng.random() < 0.7 else np.eye(d)
    return Quadratic(basis * values @ basis.T, rng.standard_normal(d), scale * kappa, scale)


CODECS = [compress.TopK(1), compress.TopK(8), compress.TopK(30), compress.Sign(), compress.OneBit(), compress.Int8(),
          compress.Int8(bucket=8), compress.TopK(8, bits=8), compress.FP8(), compress.Drive(2)]
D = 40


def least_epsilon(step: Callable[[float], tuple[Any, float]], start: float = 1e-6) -> tuple[Any, float]:
    """Repeat step(epsilon) -> (result, actual epsilon of its call) with a rising epsilon until the call keeps it.

    The step size depends on epsilon, what is compressed on the step size, and the actual error on that.
    """
    epsilon = start
    for _ in range(200):
        result, actual = step(epsilon)
        if actual <= epsilon:
            return result, epsilon
        epsilon = min(actual * (1 + 1e-9) + 1e-12, 0.5 * (1.0 + max(actual, epsilon)))
    raise AssertionError("the codec is no contraction")


def lossy(codec: Any, p: np.ndarray, step: int) -> tuple[np.ndarray, float]:
    """C(p) and the actual epsilon of this call, p being float64."""
    c = through(codec, p, step)
    return c, square(p - c) / square(p) if p.any() else 0.0


@pytest.mark.parametrize("codec", CODECS, ids=label)
def test_one_step_of_error_feedback(codec) -> None:
    """V+ <= rate(epsilon of this very call) V from any state, V = ||x - x* - e||^2 + ||e||^2 / sqrt(epsilon)."""
    rng, largest = np.random.default_rng(21), 0.0
    for trial in range(120):
        f = quadratic(rng, D, 10.0 ** rng.uniform(0.01, 2.5))
        x, e = f.best + rng.standard_normal(D), rng.standard_normal(D) * 10.0 ** rng.uniform(-3, 1) * (trial % 5 > 0)
        for _ in range(4):

            def step(epsilon: float, x=x, e=e, f=f, trial=trial):
                p = e + rates.ef(epsilon, f.L, f.mu).step_size * f.gradient(x)
                c, actual = lossy(codec, p, trial)
                return (x - c, p - c), actual

            (new_x, new_e), epsilon = least_epsilon(step)
            s = math.sqrt(epsilon)
            before, after = (square(y - f.best - r) + square(r) / s for y, r in ((x, e), (new_x, new_e)))
            largest = max(largest, after / before / rates.ef(epsilon, f.L, f.mu).rate)
            x, e = new_x, new_e
    assert 0.5 < largest <= 1.0 + 1e-9


@pytest.mark.parametrize("codec", CODECS, ids=label)
def test_one_step_of_ef21(codec) -> None:
    """V+ <= rate(epsilon of this very call) V from any state, V = ||g - d||^2 + sqrt(epsilon) ||g||^2."""
    rng, largest = np.random.default_rng(22), 0.0
    for trial in range(120):
        f = quadratic(rng, D, 10.0 ** rng.uniform(0.01, 2.5))
        x = f.best + rng.standard_normal(D)
        d = f.gradient(x) + np.linalg.norm(f.gradient(x)) * rng.standard_normal(D) * 10.0 ** rng.uniform(-4, 0.5)
        for _ in range(4):

            def step(epsilon: float, x=x, d=d, f=f, trial=trial):
                new_x = x - rates.ef21(epsilon, f.L, f.mu).step_size * d
                c, actual = lossy(codec, f.gradient(new_x) - d, trial)
                return (new_x, d + c), actual

            (new_x, new_d), epsilon = least_epsilon(step)
            s = math.sqrt(epsilon)
            before, after = (square(f.gradient(y) - r) + s * square(f.gradient(y)) for y, r in ((x, d), (new_x, new_d)))
            largest = max(largest, after / before / rates.ef21(epsilon, f.L, f.mu).rate)
            x, d = new_x, new_d
    assert 0.5 < largest <= 1.0 + 1e-9


@pytest.mark.parametrize("codec", CODECS, ids=label)
def test_one_step_without_feedback(codec) -> None:
    """One worker: f(x+) - f* <= rate (f(x) - f*); C(g) does not depend on the step size."""
    rng, largest = np.random.default_rng(23), 0.0
    for trial in range(200):
        f = quadratic(rng, D, 10.0 ** rng.uniform(0.01, 2.5))
        x = f.best + rng.standard_normal(D)
        for _ in range(5):
            c, epsilon = lossy(codec, f.gradient(x), trial)
            step_size, rate = rates.cgd(epsilon, f.L, f.mu)
            new_x = x - step_size * c
            largest = max(largest, f.value(new_x) / f.value(x) / rate)
            x = new_x
    assert 0.2 < largest <= 1.0 + 1e-9


@pytest.mark.parametrize("codec", [compress.TopK(10), compress.TopK(30), compress.Int8(bucket=8)], ids=label)
def test_one_step_of_two_unlike_workers(codec) -> None:
    """EF21 with two workers whose L, mu and minimisers differ: the law's rate is never exceeded."""
    rng, largest = np.random.default_rng(24), 0.0
    for trial in range(80):
        fs = [quadratic(rng, D, 10.0 ** rng.uniform(0.01, 2), 10.0 ** rng.uniform(-1, 1)) for _ in range(2)]
        L, mu = [f.L for f in fs], [f.mu for f in fs]
        total = np.linalg.solve(fs[0].matrix + fs[1].matrix, fs[0].matrix @ fs[0].best + fs[1].matrix @ fs[1].best)
        x = total + rng.standard_normal(D)
        ds = [f.gradient(x) + rng.standard_normal(D) * 10.0 ** rng.uniform(-2, 1) for f in fs]
        epsilon = codec.contraction(D)
        step_size, rate = rates.ef21_heterogeneous(epsilon, L, mu)

        def lyapunov(x, ds, fs=fs, epsilon=epsilon, L=L, mu=mu):
            slopes = [f.gradient(x) for f in fs]
            parts = sum(square(g - d) / (f.L + f.mu) for g, d, f in zip(slopes, ds, fs, strict=True))
            return parts + math.sqrt(epsilon) * square(slopes[0] + slopes[1]) / (sum(L) + sum(mu))

        for _ in range(4):
            before = lyapunov(x, ds)
            x = x - step_size * (ds[0] + ds[1]) / 2
            ds = [d + through(codec, f.gradient(x) - d, trial) for f, d in zip(fs, ds, strict=True)]
            largest = max(largest, lyapunov(x, ds) / before / rate)
    assert 0.5 < largest <= 1.0 + 1e-6


@pytest.mark.parametrize("codec", [compress.TopK(4), compress.TopK(20), compress.Int8(bucket=8)], ids=label)
@pytest.mark.parametrize("kappa", [1.5, 30.0])
def test_runs_keep_the_rate(codec, kappa: float) -> None:
    """The classes themselves, residuals in float32: V falls by the rate at every one of 60 steps."""
    f = quadratic(np.random.default_rng(25), D, kappa)
    epsilon = codec.contraction(D)
    s, (step_size, rate) = math.sqrt(epsilon), rates.ef(epsilon, f.L, f.mu)
    x, ef = f.best + np.random.default_rng(26).standard_normal(D), compress.ErrorFeedback(codec, D)
    y, ef21 = x.copy(), compress.EF21(codec, D)
    ef21.compress(f.gradient(y).astype(np.float32))
    for _ in range(60):
        before = square(x - f.best - ef.residual()) + square(ef.residual()) / s
        x = x - compress.decode(ef.compress((step_size * f.gradient(x)).astype(np.float32)))
        assert square(x - f.best - ef.residual()) + square(ef.residual()) / s <= rate * before * (1 + 1e-4) + 1e-13
        before = square(f.gradient(y) - ef21.estimate()) + s * square(f.gradient(y))
        y = y - step_size * ef21.estimate()
        ef21.compress(f.gradient(y).astype(np.float32))
        assert square(f.gradient(y) - ef21.estimate()) + s * square(f.gradient(y)) <= rate * before * (1 + 1e-4) + 1e-13


# -------------------------------------------------------------------------------------------------- counterexamples


def karimireddy(x: np.ndarray) -> np.ndarray:
    """A subgradient of |x1 + x2| / 2 + |x1 - x2|, with sign(0) = 1."""
    return 0.5 * np.where(x.sum() < 0, -1.0, 1.0) * np.ones(2) + np.where(x[0] < x[1], -1.0, 1.0) * np.array([1.0, -1.0])


def test_sign_descent_moves_along_a_line_for_ever() -> None:
    """Karimireddy et al., counterexample 2: signs of subgradients are +-(1, -1), so x1 + x2 stays 2; EF-Sign reaches 0."""
    x = np.array([1.0, 1.0])
    y, ef = x.copy(), compress.ErrorFeedback(compress.Sign(), 2)
    for t in range(4000):
        step = 0.1 / math.sqrt(t + 1)
        x = x - step * through(compress.Sign(), karimireddy(x))
        y = y - compress.decode(ef.compress((step * karimireddy(y)).astype(np.float32)))
    assert x.sum() == pytest.approx(2.0, abs=1e-5)
    assert np.abs(y).max() < 0.02


def test_sign_descent_goes_the_wrong_way() -> None:
    """Counterexample 1: g = 4 with probability 1 / 4, else -1, has mean 1 / 4, but the sign's mean is -1 / 2."""
    rng = np.random.default_rng(0)
    x = y = 0.0
    ef = compress.ErrorFeedback(compress.Sign(), 1)
    for _ in range(3000):
        g = np.array([4.0 if rng.random() < 0.25 else -1.0], np.float32)
        sign = math.copysign(1.0, float(compress.decode(compress.encode(compress.Sign(), g))[0]))
        x = min(max(x - 0.01 * sign, -1.0), 1.0)
        y = min(max(y - 0.01 * float(compress.decode(ef.compress(g))[0]), -1.0), 1.0)
    assert x > 0.9 and y < -0.6


BEZNOSIKOV = np.array([[-3.0, 2.0, 2.0], [2.0, -3.0, 2.0], [2.0, 2.0, -3.0]])


def beznosikov(x: np.ndarray) -> np.ndarray:
    """The gradients of f_i = <a_i, x>^2 + ||x||^2 / 4, one per row."""
    return (2 * BEZNOSIKOV * (BEZNOSIKOV @ x)[:, None] + x / 2).astype(np.float32)


@pytest.mark.parametrize("step", [0.01, 0.05])
def test_three_workers_diverge_without_feedback(step: float) -> None:
    """Top-1 of each gradient adds up to an ascent: x grows by 1 + 11 step / 6 at every step."""
    assert beznosikov(np.ones(3))[0].tolist() == [-5.5, 4.5, 4.5]
    codec, x = compress.TopK(1), np.ones(3, np.float32)
    for t in range(1, 100):
        payloads = [compress.encode(codec, g) for g in beznosikov(x)]
        x = compress.decode_add(payloads, x.copy(), scale=-step / 3)
        np.testing.assert_allclose(x, (1 + 11 * step / 6) ** t, rtol=1e-4)


@pytest.mark.parametrize("step, steps", [(0.05, 700), (0.01, 2500)])
def test_three_workers_converge_with_feedback(step: float, steps: int) -> None:
    codec = compress.TopK(1)
    x = y = np.ones(3)
    ef = [compress.ErrorFeedback(codec, 3, rank=rank) for rank in range(3)]
    ef21 = [compress.EF21(codec, 3, rank=rank) for rank in range(3)]
    server = np.zeros(3, np.float32)
    for _ in range(steps):
        x = x - step * np.mean([compress.decode(worker.compress(g)) for worker, g in zip(ef, beznosikov(x), strict=True)], 0)
        payloads = [worker.compress(g) for worker, g in zip(ef21, beznosikov(y), strict=True)]
        server = compress.decode_add(payloads, server, scale=1.0 / 3.0)
        y = y - step * server
    assert np.abs(x).max() < 1e-9
    assert np.abs(y).max() < 1e-4
    np.testing.assert_allclose(server, np.mean([worker.estimate() for worker in ef21], axis=0), atol=1e-5)


def test_ef21_finds_what_error_feedback_circles_around() -> None:
    """Workers with different minimisers and a constant step: EF stops at a distance, EF21 goes on."""
    rng = np.random.default_rng(31)
    fs = [quadratic(rng, D, 4.0) for _ in range(4)]
    codec = compress.TopK(4)
    best = np.linalg.solve(sum(f.matrix for f in fs), sum(f.matrix @ f.best for f in fs))
    step = rates.ef21(codec.contraction(D), 4.0, 1.0).step_size
    found = []
    for kind in (compress.ErrorFeedback, compress.EF21):
        x, workers, d = np.zeros(D), [kind(codec, D, rank=rank) for rank in range(4)], np.zeros(D, np.float32)
        for _ in range(1500):
            payloads = [worker.compress(f.gradient(x).astype(np.float32)) for worker, f in zip(workers, fs, strict=True)]
            if kind is compress.ErrorFeedback:
                d = np.zeros(D, np.float32)
            d = compress.decode_add(payloads, d, scale=0.25)
            x = x - step * d
        found.append(math.sqrt(square(x - best)))
    assert found[0] > 1e-3 and found[1] < 1e-5


# --------------------------------------------------------------------------------------------------- adding, voting


@pytest.mark.parametrize("codec", [compress.Identity(), compress.TopK(50), compress.RandK(50), compress.Sign(), compress.QSGD(),
                                   compress.Drive(), compress.PowerSGD(2, (24, 40))], ids=label)
def test_adding_payloads_is_adding_vectors(codec) -> None:
    """Bit for bit: out = out + scale c, two roundings each, in the order of the payloads."""
    xs = [VECTORS["normal"], VECTORS["lognormal"], VECTORS["sparse"]]
    payloads = [compress.encode(codec, x, seed=4, step=i) for i, x in enumerate(xs)]
    expected = out = VECTORS["positive"].copy()
    expected = expected.copy()
    for payload in payloads:
        expected += np.float32(-0.3) * compress.decode(payload)
    result = compress.decode_add(payloads, out, scale=-0.3)
    assert result is None or result is out or np.shares_memory(result, out)
    np.testing.assert_array_equal(out, expected)
    compress.decode_add([], out)
    np.testing.assert_array_equal(out, expected)


def test_adding_different_codecs() -> None:
    x = VECTORS["normal"]
    payloads = [compress.encode(codec, x) for codec in (compress.Sign(), compress.TopK(9), compress.Identity())]
    out = np.zeros(N, np.float32)
    compress.decode_add(payloads, out, scale=0.5)
    expected = np.zeros(N, np.float32)
    for payload in payloads:
        expected += np.float32(0.5) * compress.decode(payload)
    np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("workers", [1, 2, 3, 4, 5, 8, 16, 33])
@pytest.mark.parametrize("n", [0, 1, 31, 32, 33, 1000])
def test_majority_vote(workers: int, n: int) -> None:
    """-1 only where more than half say so: a tie is +1, as is a zero. The scale is the mean of the scales."""
    rng = np.random.default_rng(workers * 1000 + n)
    xs = [(rng.standard_normal(n) * (rng.random(n) < 0.8)).astype(np.float32) for _ in range(workers)]
    payloads = [compress.encode(compress.Sign(), x) for x in xs]
    vote = compress.decode(compress.majority_vote(payloads))
    negative = np.sum([x < 0 for x in xs], axis=0)
    np.testing.assert_array_equal(np.signbit(vote), 2 * negative > workers)
    if n:
        scales = [float(np.abs(compress.decode(payload)[0])) for payload in payloads]
        np.testing.assert_allclose(np.abs(vote), np.mean(scales), rtol=1e-6)
    else:
        assert vote.shape == (0,)


def test_majority_vote_resists_loud_minorities() -> None:
    """Bernstein et al.: what a minority sends does not matter to the signs, however large."""
    x = VECTORS["normal"]
    payloads = [compress.encode(compress.Sign(), x)] * 3 + [compress.encode(compress.Sign(), -1e10 * x)] * 2
    vote = compress.decode(compress.majority_vote(payloads))
    np.testing.assert_array_equal(np.signbit(vote), x < 0)
    assert np.isfinite(vote).all()
    large = np.array([1.0, 3.4e38], np.float32)  # the mean of scales does not overflow
    assert np.isfinite(compress.decode(compress.majority_vote([compress.encode(compress.Sign(), large)] * 8))).all()


@pytest.mark.parametrize("bad, kind", [([], ValueError), ("other codec", ValueError), ("other length", ValueError)])
def test_majority_vote_refuses(bad, kind) -> None:
    good = compress.encode(compress.Sign(), VECTORS["normal"])
    payloads = {"other codec": [good, compress.encode(compress.OneBit(), VECTORS["normal"])],
                "other length": [good, compress.encode(compress.Sign(), VECTORS["normal"][:-1])]}.get(str(bad), [])
    with pytest.raises(kind):
        compress.majority_vote(payloads)
