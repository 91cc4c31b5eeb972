"""Where a kernel runs: the choice, its reasons, and `use`."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import threading

import numpy as np
import pytest

import fastgd
from fastgd import _dispatch, robust

X = np.arange(12, dtype=np.float32).reshape(6, 2)
PUBLIC = [value for value in (getattr(robust, name) for name in robust.__all__) if inspect.isfunction(value)]


ON_DISTANCES = (robust.krum_scores, robust.geometric_median_weights, robust.nnm_weights)


def requested(function=robust.median, x=X, **keywords: object) -> str:
    """What `explain` says was requested here."""
    return fastgd.explain(function, x, **keywords).split("requested: ")[1].split(")")[0]


def blocks(text: str) -> list[dict[str, str]]:
    """`explain`'s text as one {backend: verdict} per operation."""
    result: list[dict[str, str]] = []
    for line in text.splitlines():
        if not line.startswith(" "):
            result.append({})
        else:
            name, verdict = line.split(maxsplit=1)
            result[-1][name] = verdict
    return result


# ----------------------------------------------------------------------------------------------------- the reasons


@pytest.mark.parametrize("choice", [None, "auto", "cpu", "cuda", "reference"])
@pytest.mark.parametrize("function", PUBLIC, ids=lambda function: function.__name__)
def test_explain_has_a_reason_for_each_backend(function, choice: str | None) -> None:
    x = np.zeros((6, 6)) if function in ON_DISTANCES else X
    text = fastgd.explain(function, x, 1, backend=choice)
    for block in blocks(text):
        assert set(block) == {"cpu", "cuda", "reference"}
        chosen = [name for name, verdict in block.items() if verdict == "chosen"]
        assert chosen == {None: ["cpu"], "auto": ["cpu"], "cuda": []}.get(choice, [choice])
        for name, verdict in block.items():
            assert name in chosen or (verdict.startswith("not chosen: ") and len(verdict) > len("not chosen: ") + 5)
    assert f"requested: {choice or 'auto'}" in text


def test_explain_names_the_operand() -> None:
    torch = pytest.importorskip("torch")
    for x, dtype in (
        (X, "float32"),
        (list(X), "float32"),
        ([[X[0]]] * 6, "float32"),
        (X.astype("float16"), "float16"),
        (torch.ones(6, 2, dtype=torch.bfloat16), "bfloat16"),
        ([torch.ones(2).double()] * 6, "float64"),
    ):
        assert fastgd.explain(robust.median, x).startswith(f"robust.median on a {dtype} array on cpu ")
        assert fastgd.explain(robust.median, x=x).startswith(f"robust.median on a {dtype} array on cpu ")


def test_explain_runs_nothing_and_speaks_for_every_operation() -> None:
    text = fastgd.explain(robust.multikrum, np.full((2, 2), np.nan, np.float32), 99, m=-1)
    operations = [line.split()[0] for line in text.splitlines() if not line.startswith(" ")]
    assert len(operations) >= 2 and operations[-1] == "robust.combine"


@pytest.mark.parametrize(
    "arguments",
    [
        (np.median, X),
        (None, X),
        ("median", X),
        (fastgd.use, X),
        (robust.KrumInfo, X),
        (robust.median,),
        (robust.median, "abc"),
        (robust.median, [1.0, 2.0]),
        (robust.median, None),
        (robust.median, X.astype(int)),
        (robust.median, X.astype(object)),
    ],
)
def test_explain_refuses_what_it_cannot_explain(arguments: tuple) -> None:
    with pytest.raises(TypeError):
        fastgd.explain(*arguments)


@pytest.mark.parametrize("value", ["", "gpu", "CPU", 0, 1, False, ["cpu"], object()], ids=lambda value: repr(value)[:7])
def test_explain_refuses_unknown_backends(value: object) -> None:
    with pytest.raises((ValueError, TypeError), match="backend"):
        fastgd.explain(robust.median, X, backend=value)


@pytest.mark.parametrize("function", PUBLIC, ids=lambda function: function.__name__)
def test_cuda_on_host_arrays_is_a_backend_error(function) -> None:
    x = np.zeros((6, 6)) if function in ON_DISTANCES else X
    hashes = np.zeros((2, 3), np.uint8)
    x = {"hamming": hashes, "lshgm": [X], "lshgm_choice": hashes}.get(function.__name__, x)
    arguments = {"hamming": (hashes,), "lshgm_choice": (hashes[0],), "simhash": (8,), "combine": (np.ones(6),), "clip": (1.0,),
                 "bucketing": (2,), "monna": (1, 0), "bulyan": (0,)}
    arguments |= dict.fromkeys(("krum", "multikrum", "krum_scores", "trimmed_mean", "meamed", "arc", "nnm", "nnm_weights", "mda",
                                "smea", "caf", "aggregate"), (1,))
    options = {"centered_clip": {"radius": 1.0}}
    with pytest.raises(fastgd.BackendError) as error:
        function(x, *arguments.get(function.__name__, ()), **options.get(function.__name__, {}), backend="cuda")
    assert isinstance(error.value, NotImplementedError)
    assert set(error.value.reasons) == {"cpu", "cuda", "reference"}
    for name, reasons in error.value.reasons.items():
        assert isinstance(reasons, tuple) and reasons and all(isinstance(reason, str) and reason for reason in reasons)
        assert all(f"{name}: " in str(error.value) and reason in str(error.value) for reason in reasons)
    assert any("host array" in reason or "no cuda kernel" in reason for reason in error.value.reasons["cuda"])


def test_dtypes_without_a_kernel_are_a_backend_error() -> None:
    rows = [row for row in _dispatch.kernels() if row.operation == "robust.krum_scores"]
    for row in rows:
        assert any("float32" in reason for reason in row.why_not(_dispatch.Operand("cpu", "float32")))


def test_every_row_of_the_table_can_be_loaded() -> None:
    for row in _dispatch.kernels():
        if row.backend != "cuda":
            assert callable(row.load()), row
        assert row.dtypes or row.operation.startswith("random.")


# -------------------------------------------------------------------------------------------------------------- use


def test_priority_and_nesting() -> None:
    assert requested() == "auto"
    with fastgd.use(backend="reference"):
        assert requested() == "reference"
        assert requested(backend="cpu") == "cpu"
        with fastgd.use(num_threads=2):
            assert requested() == "reference"
            assert _dispatch.num_threads_in_use() == 2
            with fastgd.use(backend="cpu", num_threads=1), fastgd.use():
                assert requested() == "cpu"
                assert _dispatch.num_threads_in_use() == 1
            with fastgd.use(backend="auto"):
                assert requested() == "auto"
            assert requested() == "reference"
            assert _dispatch.num_threads_in_use() == 2
        assert _dispatch.num_threads_in_use() is None
    assert requested() == "auto"


def test_an_exception_restores_the_choice() -> None:
    with pytest.raises(ZeroDivisionError), fastgd.use(backend="cuda", num_threads=3):
        raise ZeroDivisionError
    assert requested() == "auto" and _dispatch.num_threads_in_use() is None
    with pytest.raises(ValueError), fastgd.use(backend="reference"):
        fastgd.use(backend="nope")
    assert requested() == "auto"
    robust.median(X)


def test_use_governs_the_calls() -> None:
    with fastgd.use(backend="cuda"):
        with pytest.raises(fastgd.BackendError):
            robust.median(X)
        robust.median(X, backend="cpu")
        with fastgd.use(backend="auto"):
            robust.median(X)


def test_one_object_nested_and_again() -> None:
    choice = fastgd.use(backend="reference")
    for _ in range(3):
        with choice, choice, fastgd.use(backend="cpu"), choice:
            assert requested() == "reference"
        assert requested() == "auto"
    with choice as entered:
        assert entered is choice


def test_the_choice_is_per_thread() -> None:
    seen = []
    with fastgd.use(backend="reference"):
        thread = threading.Thread(target=lambda: seen.append(requested()))
        thread.start()
        thread.join()
        copied = contextvars.copy_context()
        thread = threading.Thread(target=lambda: seen.append(copied.run(requested)))
        thread.start()
        thread.join()
    assert seen == ["auto", "reference"]


def test_threads_may_share_one_object() -> None:
    """A module-level `choice = fastgd.use(...)` entered by many threads at once, left in any order."""
    choice = fastgd.use(backend="reference")
    both_in, first_out = threading.Barrier(2), threading.Event()
    seen, errors = {}, []

    def first() -> None:
        try:
            with choice:
                both_in.wait(10)
            seen["first"] = requested()
        except Exception as error:
            errors.append(error)
        first_out.set()

    def second() -> None:
        try:
            with choice:
                both_in.wait(10)
                first_out.wait(10)
                seen["inside"] = requested()
            seen["second"] = requested()
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=target) for target in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert seen == {"first": "auto", "inside": "reference", "second": "auto"}


def test_tasks_have_their_own_choice_and_may_share_one_object() -> None:
    async def task(choice: fastgd.use, pauses: int) -> list[str]:
        seen = [requested()]
        with choice:
            for _ in range(pauses):
                await asyncio.sleep(0)
            seen.append(requested())
        return [*seen, requested()]

    async def main(choices: list[fastgd.use]) -> list[list[str]]:
        return await asyncio.gather(*(task(choice, pauses) for choice, pauses in zip(choices, (3, 1, 2), strict=True)))

    different = [fastgd.use(backend=name) for name in ("cpu", "reference", "cuda")]
    assert [seen[1] for seen in asyncio.run(main(different))] == ["cpu", "reference", "cuda"]
    assert asyncio.run(main([different[1]] * 3)) == [["auto", "reference", "auto"]] * 3
