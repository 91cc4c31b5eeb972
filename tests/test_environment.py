"""The environment variables, and a build without the C core, each in a process of its own."""

from __future__ import annotations

import pytest

#: A call that is long enough to use threads.
CALL = "import numpy as np; from fastgd import robust; print(robust.median(np.ones((3, 1 << 18)))[0])"


def test_environment_backend(run_python) -> None:
    code = "import fastgd, numpy as np; print(fastgd.explain(fastgd.robust.median, np.ones((3, 2))))"
    assert "requested: reference" in run_python(code, FASTGD_BACKEND="reference").stdout
    assert "requested: auto" in run_python(code, FASTGD_BACKEND="").stdout
    inner = "import fastgd, numpy as np\nwith fastgd.use(backend='auto'): print(fastgd.robust.median(np.ones((3, 2))))"
    assert "[1. 1.]" in run_python(inner, FASTGD_BACKEND="cuda").stdout


@pytest.mark.parametrize(
    "variable, values",
    [("FASTGD_BACKEND", ["gpu", "CPU"]), ("FASTGD_NUM_THREADS", ["0", "two", " "]), ("FASTGD_ISA", ["v2", "2"])],
)
def test_wrong_environment_variables(variable: str, values: list[str], run_python) -> None:
    for value in values:
        done = run_python(CALL, check=False, **{variable: value})
        last = done.stderr.strip().splitlines()[-1]
        assert done.returncode == 1
        assert last.startswith("ValueError: ") and variable in last and repr(value) in last


def test_environment_threads(run_python) -> None:
    """Counted by the pool's threads; the caller is one more."""
    code = """
import threading, numpy as np
from fastgd import robust, use
x = np.ones((6, 1 << 17))
def helpers(**keywords):
    robust.median(x, **keywords)
    return sum(thread.name.startswith("fastgd") for thread in threading.enumerate())
with use(num_threads=1):
    print(helpers(), end=" ")
print(helpers(num_threads=1), helpers(), helpers(num_threads=5))
"""
    counts = {
        value: [int(count) for count in run_python(code, FASTGD_NUM_THREADS=value).stdout.split()]
        for value in ("1", "3")
    }
    assert counts["1"][:3] == [0, 0, 0] and counts["3"][:2] == [0, 0]
    assert 1 <= counts["3"][2] <= 2
    assert all(1 <= count[3] <= 6 for count in counts.values())
    assert run_python(code, OMP_NUM_THREADS="1").stdout.split()[:3] == ["0", "0", "0"]
    for odd in ("0", "x", "1,2"):
        run_python(CALL, OMP_NUM_THREADS=odd)


def test_without_the_compiled_core(run_python) -> None:
    """Never in silence: a warning for "auto", an error for "cpu", and `explain` says what will happen."""
    code = """
import sys, warnings
sys.modules["fastgd._c"] = None
import fastgd, numpy as np
x = np.ones((3, 2))
text = fastgd.explain(fastgd.robust.median, x)
verdict = {line.split()[0]: line.split(maxsplit=1)[1] for line in text.splitlines()[1:]}
assert verdict["reference"].startswith("chosen"), text
assert "not built" in verdict["cpu"], text
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    assert (fastgd.robust.median(x) == 1).all()
assert [w.category for w in caught] == [RuntimeWarning] and "reference" in str(caught[0].message)
try:
    fastgd.robust.median(x, backend="cpu")
except fastgd.BackendError as error:
    assert "not built" in error.reasons["cpu"][0]
else:
    raise AssertionError
"""
    run_python(code)
