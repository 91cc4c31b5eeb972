"""The sampler's public class: arguments, errors and state. What it computes is the work of a backend's class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..._checks import count, number
from ..._dispatch import Operand, find, runs
from ..tree.arrays import indices, numbers
from .reference import INDEX, LOSS, OVERFLOW

_FLOAT64 = Operand("cpu", "float64")
_INT64 = np.dtype(np.int64)
_int64, _empty = np.int64, np.empty
_EXPONENTS = {"chi2": 2.0, "kl": 1.0}


@runs("dro.chi2:float64", "dro.kl:float64", "dro.cressie_read:float64", array=False)
class DROSampler:
    """Draws of n examples by the worst-case distribution p of a ball around the uniform one, which follows the losses.

    The inner player of min_x max_p sum_i p_i l_i(x), p in {sum_i p_i = 1, p_i >= floor / n, D_f(p || 1/n) <= radius}: draw a
    batch, take an ordinary gradient step on it, and tell the sampler the losses. An update is one step of mirror ascent along
    the unbiased estimate of the losses, then the projection onto the ball:

        gain_i = sum over j with index_j = i of step_size * loss_j / (B p_i),  B = len(index)
        chi-squared  f(t) = (t - 1)^2 / 2:        w_i = p_i + gain_i,                 p the nearest point of the ball
        KL           f(t) = t log t - t + 1:      w_i = p_i exp(min(gain_i, 50)),     p nearest in KL(p || w)
        a number k   f(t) = (t^k - k t + k - 1) / (k (k - 1)):  w_i^(k-1) = p_i^(k-1) + (k - 1) gain_i, in its Bregman distance

    with D_f(p || 1/n) = (1/n) sum_i f(n p_i), so f''(1) = 1 and `radius` is rho / n in Namkoong and Duchi's notation.

    Parameters
    ----------
    n : int, 1 <= n < 2^31
        Examples.
    radius : float, at least 0
        R of the ball; 0 keeps p uniform, (n - 1) / 2 (KL: log n) and more never binds.
    divergence : {"chi2", "kl"} or a number above 1, optional
        A number is the exponent k of Cressie and Read's family; 2 is "chi2". Any other number runs in NumPy on every backend, at
        O(n) an update and a draw.
    floor : float, 0 <= floor < 1, optional
        p_i >= floor / n. With a floor of 0 probabilities may become 0, and such an example is never drawn again unless the ball
        lifts it.
    step_size : float, above 0
        Of the mirror ascent, on p and not on n p. For losses up to L, T updates with batches of B: about
        sqrt(2 R floor B / (T n^3)) / L for chi-squared, sqrt(2 R B / (n T)) / L for KL.
    seed : int, 0 <= seed < 2^64, optional
        Of the draws: draw number d of an object is a function of (seed, d) and of p.
    backend : {"auto", "cpu", "reference"}, optional
        See `fastgd.use`. The reference has the same probabilities, up to rounding, and not the same draws.

    Raises
    ------
    ValueError, TypeError
        An argument out of range; the message names it.

    Notes
    -----
    p is never stored. Both kernels hold one value shared by all examples that were never drawn or have fallen back to the lowest
    probability, and for the others a number z_i that an affine map, common to all of them, takes to q_i (chi-squared) or
    log p_i (KL): a projection changes that map and moves only the examples that reach the bottom, each of which has been drawn
    before. Making the object costs O(1) time beyond asking the system for zeroed memory.

    Cost: O(log n) a drawn example for chi-squared (amortised), O(1) for KL; a projection once an update, for any number of
    losses. Memory: 26 bytes an example for chi-squared, 16 and 80 kB for KL, touched as examples are drawn.

    Where 2 n radius < 2^-110 no n p_i can be told from 1, and p stays uniform. KL: a probability below e^-1500 of the largest is
    taken as that.

    Threads: one at a time may call `update`, `sample` and `load_state_dict`; kernels release the GIL, and calls that read
    probabilities may run at once with each other, though not with those. Deterministic: the same calls give the same bits on
    every machine, also after pickling or `load_state_dict` in between.

    References
    ----------
    Namkoong, Duchi: Stochastic Gradient Methods for Distributionally Robust Optimization with f-divergences (NIPS 2016).

    Examples
    --------
    >>> import fastgd, numpy as np
    >>> sampler = fastgd.dro.DROSampler(4, radius=0.1, step_size=0.125)
    >>> sampler.update(np.array([0]), np.array([1.0]))
    >>> sampler.probabilities()
    array([0.4436, 0.1855, 0.1855, 0.1855])
    >>> sampler.sample(3).shape
    (3,)
    """

    def __init__(self, n: int, *, radius: float, divergence: str | float = "chi2", floor: float = 0.0, step_size: float,
                 seed: int = 0, backend: str | None = None) -> None:
        self._n = count(n, "n", 1, 2**31 - 1)
        self._radius = number(radius, "radius", 0.0)
        exponent = _exponent(divergence)
        self._floor = number(floor, "floor", 0.0)
        if self._floor >= 1.0:
            raise ValueError(f"floor must be below 1 (p_i >= floor / n), got {floor!r}")
        self._step_size = number(step_size, "step_size", 0.0, above=True)
        self._seed = count(seed, "seed", 0, 2**64 - 1)
        self._divergence: str | float = {2.0: "chi2", 1.0: "kl"}.get(exponent, exponent)
        name = self._divergence if isinstance(self._divergence, str) else "cressie_read"
        self._kernel = find(f"dro.{name}", _FLOAT64, backend)(self._n, self._radius, self._floor, self._step_size, self._seed,
                                                              exponent)

    # ---- what it was made with

    @property
    def n(self) -> int:
        """The number of examples."""
        return self._n

    @property
    def radius(self) -> float:
        """R: the largest divergence from the uniform distribution."""
        return self._radius

    @property
    def divergence(self) -> str | float:
        """ "chi2", "kl" or the exponent."""
        return self._divergence

    @property
    def floor(self) -> float:
        """delta: p_i >= delta / n."""
        return self._floor

    @property
    def step_size(self) -> float:
        """Of the mirror ascent."""
        return self._step_size

    @property
    def seed(self) -> int:
        """Of the draws."""
        return self._seed

    # ---- draws and updates

    def sample(self, size: int) -> np.ndarray:
        """Draw `size` examples, independently and with replacement: int64 (size,).

        Their gradients' mean is an unbiased estimate of the robust loss' gradient at this p: no importance weights. An example
        of probability 0 is never drawn. ValueError or TypeError where `size` is no integer of at least 0.
        """
        if type(size) is int and size == 1:
            one = _empty(1, _INT64)
            one[0] = self._kernel.sample_one()
            return one
        return self._kernel.sample(count(size, "size", 0))

    def update(self, index: Any, loss: Any) -> None:
        """One step of mirror ascent with the losses of drawn examples, and one projection.

        Parameters
        ----------
        index : (B,) integer array, or an integer
            Examples drawn by `sample` at this p; one that stands twice is counted twice. Nothing happens for B = 0.
        loss : (B,) array of real numbers, or a number
            Their losses: finite and at least 0. Subtract a lower bound from losses that may be negative: that leaves the worst
            case what it is.

        Raises
        ------
        ValueError, TypeError
            Shapes that differ, an index outside 0 .. n - 1, a loss that is negative, infinite or NaN, an example of probability
            0 (it was not drawn at this p), or gains that overflow. Nothing has changed then.
        """
        kind = type(index)
        if (kind is int or kind is _int64) and isinstance(loss, float) and 0 <= index < self._n:
            refused = self._kernel.update_one(index, loss)
            if refused:
                self._refuse(refused, np.array([index]), np.array([loss]))
            return
        index, loss = indices(index, "index"), numbers(loss, "loss")
        if index.shape != loss.shape or index.ndim > 1:
            raise ValueError(f"index and loss must have one dimension and the same length, got {index.shape} and {loss.shape}")
        if index.ndim == 0:
            index, loss = index.reshape(1), loss.reshape(1)
        if len(index):
            refused = self._kernel.update(index, loss)
            if refused:
                self._refuse(refused, index, loss)

    def _refuse(self, code: int, index: np.ndarray, loss: np.ndarray) -> None:
        position, why = divmod(code, 8)
        place = f"at position {position}"
        if why == INDEX:
            raise ValueError(f"index must be from 0 to {self._n - 1}, got {index[position]} {place}")
        if why == LOSS:
            raise ValueError(f"loss must be finite and at least 0, got {loss[position]} {place}: subtract a lower bound of all "
                             "losses, which does not change the worst case")
        if why == OVERFLOW:
            raise ValueError(f"step_size * loss / p overflows, loss {loss[position]} {place}: scale the losses or step_size down")
        raise ValueError(f"index {index[position]} {place} has probability 0, so it was not drawn at this p: update before the "
                         "next sample, or set floor above 0")

    # ---- probabilities

    def probability(self, index: Any) -> np.ndarray:
        """p_i of some examples: float64 in the shape of `index`, an integer or an integer array.

        O(1) each. ValueError for an index outside 0 .. n - 1.
        """
        index = indices(index, "index")
        flat = index.reshape(-1)
        if flat.size and (flat.min() < 0 or flat.max() >= self._n):
            raise ValueError(f"index must be from 0 to {self._n - 1}, got {flat[(flat < 0) | (flat >= self._n)][0]}")
        return self._kernel.probability(flat).reshape(index.shape)

    def probabilities(self) -> np.ndarray:
        """All of p: float64 (n,), of sum 1 up to rounding. O(n)."""
        return self._kernel.probabilities()

    def divergence_value(self) -> float:
        """D_f(p || 1/n), at most `radius` up to rounding. O(1) for chi-squared, for KL the number of bins, O(n) for others."""
        return self._kernel.divergence()

    # ---- state

    def state_dict(self) -> dict[str, Any]:
        """Everything a continuation needs, as numbers and copied arrays: `load_state_dict` then continues bit by bit.

        O(m) for m examples above the lowest probability, O(n) with the reference.
        """
        return {"version": 1, **self._arguments(), "backend": self._kernel.backend, **self._kernel.state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where `state_dict` was called, on a sampler of the same arguments and backend.

        ValueError where those differ, or something is missing or damaged; nothing has changed then.
        """
        if not isinstance(state, Mapping):
            raise TypeError(f"state must be a dict made by state_dict, got {type(state).__name__}")
        expected = {"version": 1, **self._arguments(), "backend": self._kernel.backend}
        for name, value in expected.items():
            if state.get(name) != value:
                raise ValueError(f"the state's {name} is {state.get(name)!r}, this sampler's is {value!r}")
        try:
            self._kernel = self._kernel.restored(state)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"this is no complete state of a DROSampler: {error}") from error

    def _arguments(self) -> dict[str, Any]:
        return {"n": self._n, "radius": self._radius, "divergence": self._divergence, "floor": self._floor,
                "step_size": self._step_size, "seed": self._seed}

    def __reduce__(self) -> Any:
        return _restored, (self.state_dict(),)

    def __repr__(self) -> str:
        return f"DROSampler({', '.join(f'{name}={value!r}' for name, value in self._arguments().items())})"


def _restored(state: dict[str, Any]) -> DROSampler:
    """What a pickle holds."""
    names = ("n", "radius", "divergence", "floor", "step_size", "seed", "backend")
    sampler = DROSampler(**{name: state[name] for name in names})
    sampler.load_state_dict(state)
    return sampler


def _exponent(divergence: Any) -> float:
    if isinstance(divergence, str):
        if divergence not in _EXPONENTS:
            raise ValueError(f"divergence must be 'chi2', 'kl' or a number above 1, got {divergence!r}")
        return _EXPONENTS[divergence]
    return number(divergence, "divergence", 1.0, above=True)
