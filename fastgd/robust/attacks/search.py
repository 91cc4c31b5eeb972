"""Attacks made for the rule at hand: the strength that does the most harm."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..._checks import count as whole
from ..._checks import number
from .directions import alie, ipm, sign_flip
from .inputs import check

Attack = Callable[..., np.ndarray]

#: The option of each attack that says how strong it is.
STRENGTHS: dict[Attack, str] = {sign_flip: "scale", ipm: "epsilon", alie: "z"}


def optimised(attack: Attack, rule: Callable[[np.ndarray, int], Any], *, strength: str | None = None,
              evaluations: int = 20, start: float = 10.0) -> Attack:
    """An attack at its worst for one rule: the strength t >= 0 that maximises ||rule(all) - mean(h)||.

    A line search on every call: from t = 0 with a step of `start`, doubled as long as the harm grows, then shrunk by 0.8
    at a time, trying ahead of the best t and then behind it. What is found is a lower bound of the harm that the attack can
    do, as the harm need not have one peak only.

    Parameters
    ----------
    attack : function
        `sign_flip`, `ipm`, `alie`, or any attack with the option `strength`.
    rule : function (x, f) -> (d,) array
        The rule under attack, such as `fastgd.robust.krum`; x has the honest vectors first, f is the number of attackers.
    strength : str, optional
        Name of the attack's option to search over. Default: "scale", "epsilon", "z" for the three attacks named.
    evaluations : int
        Calls of the rule, at least 1.
    start : float
        First step of the search, above 0.

    Returns
    -------
    function ``attack(honest, count, **options)``
        An attack as those in `ATTACKS`; its options are those of `attack` without the strength. Where the rule's output is
        not finite the harm counts as infinite; where the rule refuses the vectors with a ValueError, as none.

    Raises
    ------
    ValueError, TypeError
        `attack` is not one of the three and `strength` is not given; `rule` is no function; `evaluations` or `start` does
        not fit. From the attack that is returned: as `attack`; whatever `rule` raises for t = 0.

    Notes
    -----
    Cost: `evaluations` times that of the rule and the attack. Deterministic when both are.

    References
    ----------
    Shejwalkar, Houmansadr: Manipulating the Byzantine, Optimizing Model Poisoning Attacks and Defenses for Federated Learning
    (NDSS 2021), where the strength is searched for as well.

    Examples
    --------
    >>> import fastgd, numpy as np
    >>> from fastgd.robust import attacks
    >>> honest = np.random.default_rng(0).normal(1.0, 1.0, (9, 100))
    >>> worst = attacks.optimised(attacks.sign_flip, fastgd.robust.trimmed_mean)
    >>> def harm(sent):
    ...     return np.linalg.norm(fastgd.robust.trimmed_mean(np.vstack([honest, sent]), 2) - honest.mean(axis=0))
    >>> bool(harm(worst(honest, 2)) > harm(attacks.sign_flip(honest, 2)))
    True
    """
    if not callable(attack) or not callable(rule):
        raise TypeError(f"attack and rule must be functions, got {attack!r} and {rule!r}")
    option = strength or STRENGTHS.get(attack)
    if option is None:
        raise ValueError(f"strength must be given for {getattr(attack, '__name__', attack)!r}: the name of the option to "
                         "search over")
    evaluations, start = whole(evaluations, "evaluations", 1), number(start, "start", 0.0, above=True)

    def worst(honest: np.ndarray, count: int, **options: Any) -> np.ndarray:
        honest, count = check(honest, count)

        def send(t: float) -> np.ndarray:
            return attack(honest, count, **{option: t}, **options)

        if count == 0:
            return send(0.0)
        with np.errstate(over="ignore", invalid="ignore"):
            center = honest.mean(axis=0, dtype=np.float64)

        def harm(t: float) -> float:
            try:
                output = np.asarray(rule(np.concatenate([honest, send(t)]), count), dtype=np.float64)
            except ValueError:
                if t == 0.0:  # the request itself does not fit, whatever the attackers send
                    raise
                return -np.inf
            with np.errstate(over="ignore", invalid="ignore"):
                distance = float(np.linalg.norm(output - center))
            return np.inf if np.isnan(distance) else distance

        return send(_maximise(harm, evaluations, start))

    worst.__name__ = f"optimised_{getattr(attack, '__name__', 'attack')}"
    return worst


def _maximise(harm: Callable[[float], float], evaluations: int, step: float) -> float:
    """The best t >= 0 of that many evaluations of `harm`, the first at 0."""
    best, most = 0.0, harm(0.0)
    growing, forward = True, True
    for _ in range(evaluations - 1):
        t = best + step if forward else best - step
        value = harm(t)
        if value > most:
            best, most = t, value
            if growing:
                step *= 2.0
                continue
        growing = False
        if forward and best >= step:
            forward = False
        else:
            forward = True
            step *= 0.8
    return best
