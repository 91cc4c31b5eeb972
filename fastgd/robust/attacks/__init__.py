"""What Byzantine workers send: the attacks of the literature, to test an aggregation rule against.

Every attack is a function ``attack(honest, count, **options)``. It sees all honest vectors h_1 .. h_k, as an omniscient
adversary does, and returns the vectors of the `count` attackers. `ATTACKS` maps each attack's name to its function.
`optimised` makes of such an attack one that searches for the strength that harms a given rule most. `label_flip` works
where labels are, at the attackers' training; no function of the honest vectors can stand for it.

Notation: ``k`` honest vectors of ``d`` coordinates, ``f`` attackers (`count`), ``n = k + f``; mean(h) and std(h) are
coordinate-wise, std with denominator k - 1. Arithmetic is in float64 and rounded once to the dtype of the honest
vectors, where a value too large becomes an Inf. A NaN or an Inf in an honest vector passes into what is computed from
it. The honest vectors are never written to, and no two attackers share memory.

All of it is plain NumPy and meant for tests, simulations and demonstrations, not for speed.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .directions import alie, ipm, sign_flip
from .faults import gaussian, inf, mimic, nan
from .labels import label_flip
from .linear import lemma31
from .precision import precision
from .search import optimised

__all__ = ["ATTACKS", "alie", "gaussian", "inf", "ipm", "label_flip", "lemma31", "mimic", "nan", "optimised", "precision",
           "sign_flip"]

#: Every attack on vectors by its name.
ATTACKS: dict[str, Callable[..., np.ndarray]] = {
    "alie": alie, "gaussian": gaussian, "inf": inf, "ipm": ipm, "lemma31": lemma31, "mimic": mimic, "nan": nan,
    "precision": precision, "sign_flip": sign_flip,
}
