"""Every rule of `fastgd.robust` as a call of (x, f), for tests that treat them all alike."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest

from fastgd import robust

nan, inf = np.nan, np.inf

#: Array libraries to test with: torch where it is installed (the gate has a step that installs it).
LIBRARIES = ("numpy", "torch") if importlib.util.find_spec("torch") else ("numpy",)


class Rule(NamedTuple):
    """n vectors to one."""

    call: Callable[..., Any]
    least: Callable[[int], int]  #: the fewest vectors for an f
    drops: bool = True  #: a bad value drops its vector; False: it counts at its coordinate only
    declares: bool = True  #: takes f


def state_select(x: Any, f: int, **kw: Any) -> Any:
    return robust.KrumState(x, f, **({"backend": kw["backend"]} if "backend" in kw else {})).select()


def via(outer: Callable[..., Any], inner: Callable[..., Any]) -> Callable[..., Any]:
    """A rule after a pre-aggregation, as two calls."""
    return lambda x, f, **kw: outer(inner(x, f, **kw), f, **kw)


def honest_row(x: Any, kw: dict[str, Any]) -> int:
    return int(kw.pop("trusted", 5))


def two(f: int) -> int:
    return 2 * f + 1


#: monna trusts vector 5 unless told: the break table leaves it honest.
RULES = {
    "krum": Rule(lambda x, f, **kw: robust.krum(x, f, **kw), lambda f: 2 * f + 3),
    "multikrum": Rule(lambda x, f, **kw: robust.multikrum(x, f, **kw), lambda f: 2 * f + 3),
    "bulyan": Rule(lambda x, f, **kw: robust.bulyan(x, f, **kw), lambda f: 4 * f + 3),
    "median": Rule(lambda x, f, **kw: robust.median(x, **kw), two, drops=False, declares=False),
    "trimmed_mean": Rule(lambda x, f, **kw: robust.trimmed_mean(x, f, **kw), two, drops=False),
    "meamed": Rule(lambda x, f, **kw: robust.meamed(x, f, **kw), two, drops=False),
    "geometric_median": Rule(lambda x, f, **kw: robust.geometric_median(x, **kw), two, declares=False),
    "centered_clip": Rule(
        lambda x, f, **kw: robust.centered_clip(x, **{"radius": 3.0, "iterations": 3} | kw), two, declares=False
    ),
    "mda": Rule(lambda x, f, **kw: robust.mda(x, f, **kw), two),
    "smea": Rule(lambda x, f, **kw: robust.smea(x, f, **kw), two),
    "monna": Rule(lambda x, f, **kw: robust.monna(x, f, kw.pop("trusted", 5), **kw), two),
    "caf": Rule(lambda x, f, **kw: robust.caf(x, f, **kw), two),
}
#: New rules: those that the tests of single features run over.
NEW = ("bulyan", "meamed", "geometric_median", "centered_clip", "mda", "smea", "monna", "caf")

#: Pre-aggregations: n vectors to n' vectors.
MIXES = {
    "nnm": lambda x, f, **kw: robust.nnm(x, f, **kw),
    "arc": lambda x, f, **kw: robust.arc(x, f, **kw),
    "clip": lambda x, f, **kw: robust.clip(x, **{"radius": 40.0} | kw),
    "bucketing": lambda x, f, **kw: robust.bucketing(x, 2, **kw),
}

every_rule = pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
new_rules = pytest.mark.parametrize("rule", [RULES[name] for name in NEW], ids=NEW)
mixes = pytest.mark.parametrize("mix", MIXES.values(), ids=MIXES)


def refuses(name: str, call: Callable[..., Any], *args: Any, kinds: tuple[type, ...] = (ValueError, TypeError), **kw: Any) -> str:
    """The call raises one of `kinds` with a message that holds `name` as a word; returns the message."""
    try:
        got = call(*args, **kw)
    except kinds as error:
        assert not isinstance(error, UnicodeError)
        assert re.search(rf"(?<!\w){re.escape(name)}(?!\w)", str(error)), str(error)
        return str(error)
    raise AssertionError(f"accepted; {name!r} should have been refused; got {got!r}")


def rows_named(message: str) -> list[int]:
    """The indices after the word "row" or "rows" of a message."""
    found = re.search(r"rows? ([\d, and]+)", message)
    assert found, message
    return [int(number) for number in re.findall(r"\d+", found[1])]
