"""A valid call of every public function of fastgd.robust, for tests that vary one argument of each."""

from __future__ import annotations

import numpy as np
import pytest

from fastgd import robust

X = np.arange(12, dtype=np.float32).reshape(6, 2) ** 1.5
X.flags.writeable = False
D = robust.pairwise_sqdist(X, backend="reference")

#: Every public function with a valid call; `x` or the distance matrix comes first.
CALLS = {
    "pairwise_sqdist": (X, lambda x, **kw: robust.pairwise_sqdist(x, **kw)),
    "krum_scores": (D, lambda x, **kw: robust.krum_scores(x, 1, **kw)),
    "krum": (X, lambda x, **kw: robust.krum(x, 1, **kw)),
    "multikrum": (X, lambda x, **kw: robust.multikrum(x, 1, **kw)),
    "combine": (X, lambda x, **kw: robust.combine(x, np.ones(6), **kw)),
    "combine_many": (X, lambda x, **kw: robust.combine(x, np.ones((3, 6)), **kw)),
    "mean": (X, lambda x, **kw: robust.mean(x, **kw)),
    "median": (X, lambda x, **kw: robust.median(x, **kw)),
    "trimmed_mean": (X, lambda x, **kw: robust.trimmed_mean(x, 1, **kw)),
    "geometric_median": (X, lambda x, **kw: robust.geometric_median(x, **kw)),
    "geometric_median_weights": (D, lambda x, **kw: robust.geometric_median_weights(x, **kw)),
    "centered_clip": (X, lambda x, **kw: robust.centered_clip(x, radius=5.0, **kw)),
    "centered_clip_thrice": (X, lambda x, **kw: robust.centered_clip(x, radius=5.0, iterations=3, **kw)),
    "arc": (X, lambda x, **kw: robust.arc(x, 1, **kw)),
    "clip": (X, lambda x, **kw: robust.clip(x, 5.0, **kw)),
    "nnm": (X, lambda x, **kw: robust.nnm(x, 1, **kw)),
    "nnm_weights": (D, lambda x, **kw: robust.nnm_weights(x, 1, **kw)),
    "bucketing": (X, lambda x, **kw: robust.bucketing(x, 2, **kw)),
    "mda": (X, lambda x, **kw: robust.mda(x, 1, **kw)),
    "smea": (X, lambda x, **kw: robust.smea(x, 1, **kw)),
    "monna": (X, lambda x, **kw: robust.monna(x, 1, 0, **kw)),
    "caf": (X, lambda x, **kw: robust.caf(x, 1, **kw)),
    "bulyan": (X, lambda x, **kw: robust.bulyan(x, 0, **kw)),
    "aggregate": (X, lambda x, **kw: robust.aggregate(x, 1, pre=("nnm",), **kw)),
    "meamed": (X, lambda x, **kw: robust.meamed(x, 1, **kw)),
}
calls = pytest.mark.parametrize("x, call", CALLS.values(), ids=CALLS)
vector_calls = pytest.mark.parametrize(
    "call",
    [CALLS[name][1] for name in ("krum", "multikrum", "mean", "median", "trimmed_mean")],
    ids=["krum", "multikrum", "mean", "median", "trimmed_mean"],
)


def refuses(name: str, call, *args, **kwargs) -> str:
    """The call fails with a ValueError or TypeError whose message holds the argument's name; returns the message."""
    with pytest.raises((ValueError, TypeError)) as error:
        call(*args, **kwargs)
    assert not isinstance(error.value, UnicodeError)
    assert name in str(error.value), str(error.value)
    return str(error.value)
