"""The benchmark measures the right thing: cases verify, wrong kernels are caught, missing peers are called missing."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from fastgd._dispatch import BackendError
from fastgd.bench import report, roofs, runner
from fastgd.bench.case import ROOMS, SIZES, Case, all_cases, prepared, start_peer
from fastgd.bench.timing import interleaved
from fastgd.robust import cases as robust_cases
from fastgd.sinkhorn import cases as sinkhorn_cases
from fastgd.sinkhorn import problems

CHECK = runner.Options(check_only=True)
NO_PEERS = runner.Options(peers=(), min_time=1e-4, threads=(1,))


@pytest.fixture(autouse=True)
def quick_roofs(monkeypatch):
    """Roofs of one try on little memory: tests look at what is done with them, not at their values."""
    monkeypatch.setattr(roofs, "MEASURE_S", 0.0)
    monkeypatch.setattr(roofs, "cache_bytes", lambda: 1 << 20)


def fake(**changes):
    """A case on which everything works."""
    fields = {
        "room": "robust",
        "name": "fake/3",
        "size": "tiny",
        "dtype": "float64",
        "params": {"n": 3},
        "setup": lambda: {"x": np.arange(3.0)},
        "run": lambda inputs, backend, num_threads: inputs["x"] * 2,
        "reference": lambda inputs: inputs["x"] + inputs["x"],
        "check": lambda result, expected: 0.0 if np.array_equal(result, expected) else math.inf,
        "nbytes": 24,
        "flops": 3,
        "roof": "read",
    }
    return Case(**{**fields, **changes})


class ConstantRoofs(roofs.Roofs):
    """A machine that does 1 G of anything per second."""

    def rate(self, what, threads, detail=""):
        return 1e9


def run_one(case, options=NO_PEERS):
    (result,) = runner.run_cases([case], options, {"cpu": ConstantRoofs()})
    return result


# ------------------------------------------------------------------------------------------------------- cases


def test_cases_are_well_formed():
    cases = all_cases()
    names = [case.full_name for case in cases]
    assert len(names) == len(set(names))
    for case in cases:
        assert case.room in ROOMS and case.size in SIZES and case.roof in ("read", "copy", "flops", "call", "lines"), (
            case.full_name
        )
        assert case.dtype in ("float32", "float64", "float16", "bfloat16", "uint32", "uint8"), case.full_name
        assert case.nbytes > 0 and case.flops >= 0 and "/" in case.name
        assert case.items > 0 or (case.items == 0 and case.roof != "lines")
        assert not set(case.peers) & set(case.left_out)


def test_every_room_has_a_tiny_and_a_default_case():
    for room in {case.room for case in all_cases()}:
        assert runner.select(rooms=(room,), sizes=("tiny",))
        assert runner.select(rooms=(room,))


@pytest.mark.parametrize("case", runner.select(sizes=("tiny",)), ids=lambda case: case.full_name)
def test_tiny_cases_verify(case):
    result = run_one(case, CHECK)
    assert (result.status, result.reason) == ("ok", "")


@pytest.mark.parametrize("operation", robust_cases._OPERATIONS)
@pytest.mark.parametrize(
    ("n", "dtype", "form"),
    [
        (15, "float32", "normal"),
        (16, "float64", "normal"),
        (16, "float16", "normal"),
        (16, "bfloat16", "normal"),
        (16, "float32", "hostile"),
        (16, "float32", "layers"),
        (16, "float64", "layers"),
    ],
)
def test_robust_inputs_of_every_kind_verify(operation, n, dtype, form, monkeypatch):
    if form == "hostile" and operation in ("mean", "combine"):
        pytest.skip("no rule against attacks")
    if dtype == "bfloat16":
        pytest.importorskip("torch")
    monkeypatch.setattr(robust_cases, "LAYERS", ((3, 5), (7,), (64, 3)))
    robust_cases._vectors.cache_clear()
    d = 15 + 7 + 192 if form == "layers" else 5003
    case = robust_cases._case(operation, n, d, "small", dtype=dtype, form=form)
    result = run_one(case, CHECK)
    robust_cases._vectors.cache_clear()
    assert (result.status, result.reason) == ("ok", "")


def test_digits_have_the_declared_size():
    pytest.importorskip("sklearn")
    case = next(case for case in all_cases() if case.name == "krum/15-digits")
    assert case.setup()["x"].shape == (case.params["n"], case.params["d"])


@pytest.mark.parametrize(
    "operation", ["pairwise_sqdist", "krum", "multikrum", "median", "trimmed_mean", "combine", "mean"]
)
def test_robust_checks_reject_a_wrong_result(operation):
    case = robust_cases._case(operation, 16, 101, "small")
    inputs = case.setup()
    expected = case.reference(inputs)
    right = case.run(inputs, backend="reference", num_threads=1)
    assert case.check(right, expected) <= 1.0
    for wrong in (right * np.float32(1.0001), np.where(right == right.max(), np.nan, right), right[:-1], -right):
        assert not case.check(np.asarray(wrong), expected) <= 1.0


def test_sized_cases():
    cases = runner.select(shape={"n": 7, "d": 33}, dtypes=("float64",), rooms=("robust",))
    assert {case.operation for case in cases} == set(robust_cases._OPERATIONS)
    assert all(run_one(case, CHECK).status == "ok" for case in cases)
    with pytest.raises(ValueError, match="n >= 5"):
        runner.select(shape={"n": 2, "d": 3}, rooms=("robust",))


def test_bare_kernels_run():
    pytest.importorskip("fastgd._c")
    for operation in robust_cases._OPERATIONS:
        case = robust_cases._case(operation, 8, 16, "tiny")
        case.kernel(case.setup())()


# ------------------------------------------------------------------------------------------------------ runner


def test_a_right_result_is_timed():
    result = run_one(fake())
    assert result.status == "ok" and result.timing.median > 0 and result.timing.samples >= 9
    assert result.vs_reference > 0 and result.peers == {}
    if result.backend == "cpu":
        assert result.limit[1] == "read cache" and result.of_limit > 0


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (lambda inputs, backend, num_threads: inputs["x"] * 2.001, "differs from the reference"),
        (lambda inputs, backend, num_threads: np.full(3, np.nan), "differs from the reference"),
        (lambda inputs, backend, num_threads: [][0], "IndexError"),
    ],
)
def test_a_wrong_kernel_is_not_timed(wrong, reason):
    result = run_one(fake(run=wrong))
    assert result.status == "failed" and result.timing is None
    assert reason in result.reason


def test_a_check_that_returns_nan_fails():
    assert run_one(fake(check=lambda result, expected: math.nan)).status == "failed"


def test_what_cannot_run_is_unavailable():
    def missing():
        raise ImportError("No module named 'sklearn'")

    def no_kernel(inputs, backend, num_threads):
        raise BackendError("no backend can run it", {"cpu": ("reason",)})

    for case in (fake(setup=missing), fake(run=no_kernel)):
        result = run_one(case)
        assert result.status == "unavailable" and result.reason


def test_a_broken_setup_does_not_end_the_run():
    results = list(runner.run_cases([fake(setup=lambda: 1 / 0), fake()], NO_PEERS, {}))
    assert [result.status for result in results] == ["failed", "ok"]


def test_the_reference_is_not_timed_when_it_takes_long():
    assert run_one(fake(reference_s=60.0)).reference_s is None


def test_peers(monkeypatch):
    monkeypatch.setattr(runner, "backend_of_auto", lambda: "cpu")

    def absent(inputs):
        raise ImportError("nowhere to be found")

    seen = []
    peers = {
        "plain": lambda inputs: inputs["x"] * 2,
        "prepared": prepared(lambda inputs: lambda: seen.append(inputs["num_threads"])),
        "absent": absent,
        "absent-prepared": prepared(absent),
        "broken": lambda inputs: 1 / 0,
    }
    options = runner.Options(min_time=1e-4, threads=(1,))
    result = run_one(fake(peers=peers, left_out={"huge": "takes 5 GB"}), options)
    assert set(result.peers) == {"plain", "prepared"} and set(seen) == {1}
    assert result.missing["absent"] == result.missing["absent-prepared"] == "not installed"
    assert result.missing["broken"].startswith("failed: ZeroDivisionError") and result.missing["huge"] == "takes 5 GB"
    assert result.best_peer[0] in ("plain", "prepared")
    assert "not installed" in "\n".join(report.peer_lines(result))
    only = run_one(fake(peers={"absent": absent}), options)
    assert "absent not installed" in report.cells(only)[-1]
    chosen = run_one(fake(peers=peers), runner.Options(peers=("plain",), min_time=1e-4, threads=(1,)))
    assert set(chosen.peers) == {"plain"} and not chosen.missing


def test_a_peer_with_a_wrong_answer_is_not_timed(monkeypatch):
    monkeypatch.setattr(runner, "backend_of_auto", lambda: "cpu")
    peers = {"right": lambda inputs: 6.0, "prepared": prepared(lambda inputs: lambda: 6.0), "far": lambda inputs: 5.0}
    case = fake(peers=peers, judge=lambda inputs, answer: "" if answer == 2 * inputs["x"].sum() else f"{answer} of 6")
    result = run_one(case, runner.Options(min_time=1e-4, threads=(1,)))
    assert set(result.peers) == {"right", "prepared"}
    assert result.missing["far"].startswith("wrong: 5.0 of 6, after ")
    only = run_one(fake(peers={"far": peers["far"]}, judge=case.judge), runner.Options(min_time=1e-4, threads=(1,)))
    assert only.best_peer is None and report.cells(only)[-1] == "- (all wrong)"


def test_prepared_peers_prepare_once():
    calls = []
    call = start_peer(prepared(lambda inputs: calls.append("prepare") or (lambda: calls.append("work"))), {})
    call()
    call()
    assert calls == ["prepare", "work", "work"]


@pytest.mark.parametrize(
    "name", ["byzfl", "byzfl-torch", "flwr", "flwr-new", "simsimd", "scipy", "torch", "numpy"]
)
def test_installed_peers_of_the_robust_room_run(name):
    cases = [robust_cases._case(operation, 9, 40, "small") for operation in robust_cases._OPERATIONS]
    for case in cases:
        if name in case.peers:
            result = run_one(case, runner.Options(backends=("cpu",), peers=(name,), min_time=1e-4, threads=(1,)))
            if result.status == "unavailable":
                pytest.skip("the C core is not built")
            assert name in result.peers or result.missing[name] == "not installed", result.missing


@pytest.mark.parametrize("operation", ["solve", "iteration", "iteration_points", "points", "batch"])
def test_installed_peers_of_the_transport_room_run(operation):
    """Right ones are timed; those whose error is not the one asked for say it."""
    case = next(case for case in all_cases(("sinkhorn",)) if case.size == "tiny" and case.operation == operation)
    for name in case.peers:
        result = run_one(case, runner.Options(backends=("cpu",), peers=(name,), min_time=1e-4, threads=(1,)))
        if result.status == "unavailable":
            pytest.skip("the C core is not built")
        why = result.missing.get(name, "")
        assert name in result.peers or why == "not installed" or (why.startswith("wrong: error") and name == "geomloss"), why


@pytest.mark.parametrize("name", ["assign", "cloud.001", "cloud.01", "cloudw", "grid2", "grid1"])
def test_transport_problems(name):
    """Of the size asked for, costs scaled, the same every time."""
    (cost, a, b), reg, known = problems.named(name, 50)
    n = 49 if name.startswith("grid") else 50
    assert cost.shape == (n, n) and 0 < cost.max() <= 1 and cost.min() >= 0 and reg > 0 and known == 0.0
    assert a.min() > 0 and b.min() > 0 and np.allclose([a.sum(), b.sum()], 1.0, rtol=1e-13, atol=0)
    assert all(np.array_equal(x, y) for x, y in zip(problems.named(name, 50).transport, (cost, a, b), strict=True))


def test_transport_checks_reject_a_wrong_result():
    case = next(case for case in all_cases(("sinkhorn",)) if case.name == "solve/cloud.01-64-1e-6")
    inputs = case.setup()
    right = case.run(inputs, backend="reference", num_threads=1)
    assert case.check(right, case.reference(inputs)) <= 1.0 and case.judge(inputs, right) == ""
    assert case.check(right, {**inputs, "tol": 1e-12}) > 1.0 and case.check(right, {**inputs, "known": 1.0}) > 1.0
    plan = right.plan()
    assert case.judge(inputs, plan) == case.judge(inputs, (right.f, right.g)) == ""
    assert case.judge(inputs, plan * 1.01) == "error 0.02 of 1e-06"
    assert case.judge(inputs, plan * np.nan) == "error inf of 1e-06"
    iteration = next(case for case in all_cases(("sinkhorn",)) if case.name == "iteration/64")
    f, g = iteration.reference(inputs := iteration.setup())
    assert iteration.check((f + 1.0, g - 1.0), (f, g)) <= 1.0 < iteration.check((f + 1e-8 * np.arange(64), g), (f, g))
    assert sinkhorn_cases._right_columns(1e-9, (f, g), inputs) <= 1.0 < sinkhorn_cases._right_columns(1e-9, (f, g + 1e-8), inputs)


# ------------------------------------------------------------------------------------------------ timing, roofs


def scripted(first, later):
    """A clock that says the first call takes `first` seconds, every other `later`."""
    calls = {"count": 0}

    def clock(call, times):
        calls["count"] += 1
        return (first if calls["count"] == 1 else later) * times

    return clock


def test_number_of_samples():
    def timing(first, later, min_time=0.3):
        return interleaved({"one": lambda: None}, min_time=min_time, clock=scripted(first, later))["one"]

    assert timing(11.0, 11.0).samples == 1
    assert timing(3.0, 3.0).samples == 3
    assert timing(1.0, 0.7).samples == 5
    assert timing(1.0, 0.5).samples == 9  # slow: the fewest
    assert timing(1.0, 0.001).samples == 300  # until min_time is full
    assert timing(1e-3, 1e-7, min_time=1e-9).samples == 9
    assert timing(1.0, 0.5).median == 0.5 and timing(1.0, 0.5).iqr == 0.0


def test_short_calls_are_batched():
    batches = []

    def clock(call, times):
        batches.append(times)
        return times * 1e-6

    interleaved({"one": lambda: None}, min_time=1e-6, clock=clock)
    assert min(batches[-9:]) * 1e-6 >= 50e-6


def test_contestants_take_turns():
    order = []
    interleaved(
        {name: lambda name=name: order.append(name) for name in "ab"},
        min_time=1e-6,
        clock=lambda call, times: call() or 30e-3,
    )
    assert "".join(order[-18:]) == "ab" * 9


def test_limits():
    measured = roofs.Roofs()
    measured._rates = {
        ("read", 1, ""): 10e9,
        ("copy", 1, ""): 5e9,
        ("read", 1, "65536"): 100e9,
        ("gemm", 1, "float32"): 1e9,
        ("gemm", 1, "float64"): 0.5e9,
    }
    large = 10**10
    assert measured.limit(fake(nbytes=large), 1) == (1.0, "read memory")
    assert measured.limit(fake(nbytes=large, roof="copy"), 1) == (2.0, "copy memory")
    assert measured.limit(fake(nbytes=50000), 1) == (5e-7, "read cache")
    assert measured.limit(fake(nbytes=large, roof="flops", flops=10**9), 1) == (2.0, "flops")
    assert measured.limit(fake(nbytes=large, roof="flops", flops=10**9, dtype="float32"), 1) == (1.0, "read memory")
    assert measured.limit(fake(roof="call"), 1) is None
    measured._rates |= {("lines", 1, str(1 << 20)): 1e8, ("lines", 1, str(roofs.SCATTERED)): 1e7}
    assert measured.limit(fake(roof="lines", nbytes=10**6, items=256), 2) == (2.56e-6, "lines")
    assert measured.limit(fake(roof="lines", nbytes=10**10, items=256), 1) == (2.56e-5, "lines")
    assert roofs.CudaRoofs().limit(fake(roof="lines", items=1), 1) is None


def test_roofs_are_measured():
    rates = roofs.Roofs().headline(2)
    assert all(rate > 0 and math.isfinite(rate) for rate in rates.values())
    pytest.importorskip("fastgd._c")
    assert set(rates) >= {"latency_s", "random_lines_per_s"} and rates["latency_s"] * rates["random_lines_per_s"] > 0.5


def test_the_heading_has_the_latency():
    machine = {"fastgd": "0", "cpu": "A CPU", "cores": 1, "threads": 1, "isa": "v4", "versions": {}}
    rates = {"read": 1e9, "copy": 2e9, "float32": 3e9, "float64": 4e9}
    assert "random place" not in report.head(machine, {"cpu": {"1": rates}})
    text = report.head(machine, {"cpu": {"1": rates | {"latency_s": 1.5e-7, "random_lines_per_s": 1e8}}})
    assert "read 1 GB/s, copy 2 GB/s" in text and "150 ns alone, 10 ns among many" in text


# ------------------------------------------------------------------------------------------------------ report


def test_numbers_are_readable():
    assert [report.seconds(value) for value in (2.0, 0.00471, 0.000123, 3.2e-8)] == [
        "2 s",
        "4.71 ms",
        "123 µs",
        "32 ns",
    ]
    assert [report.significant(value) for value in (0.01234, 4.712, 1771.3, 123456.0)] == [
        "0.0123",
        "4.71",
        "1771",
        "123456",
    ]


def test_the_time_of_an_item_is_shown():
    result = run_one(fake(items=4, roof="call"))
    assert report.cells(result)[5] == f"{report.seconds(result.timing.median / 4)} each"
    assert result.as_json()["items"] == 4


def test_json_has_the_promised_keys():
    line = run_one(fake(peers={"plain": lambda inputs: None}), runner.Options(min_time=1e-4, threads=(1,))).as_json()
    promised = {"room", "case", "backend", "threads", "median_s", "iqr_s", "of_limit", "roof", "vs_reference", "peers"}
    assert promised <= set(line)
    json.dumps(line, allow_nan=False)
    for peer in line["peers"].values():
        assert {"median_s", "ratio"} <= set(peer)


def test_compare():
    def record(median):
        return {"results": [{"room": "r", "case": "c", "backend": "cpu", "threads": 1, "median_s": median}]}

    text, failed = report.compare(record(1.0), record(1.2), 0.1)
    assert failed and "+20%" in text and "SLOWER" in text
    assert not report.compare(record(1.0), record(1.05), 0.1)[1]
    assert not report.compare(record(1.0), record(2.0), None)[1]
    assert report.compare({"results": []}, record(1.0), 0.1) == ("no line in common", False)


def test_markdown_has_one_row_a_result():
    results = [run_one(fake()), run_one(fake(run=lambda inputs, backend, num_threads: 0))]
    rows = report.markdown(results).splitlines()
    assert len(rows) == 4 and "FAILED" in rows[3]
    assert {row.count("|") for row in rows} == {len(report.HEADER) + 1}


def write_report(path: Path):
    line = {
        "room": "robust",
        "case": "krum/16x1e6",
        "backend": "cpu",
        "threads": 2,
        "median_s": 1e-3,
        "of_limit": 0.5,
        "roof": "read memory",
        "peers": {"slow": {"median_s": 1e-1, "ratio": 100.0}, "good": {"median_s": 4e-3, "ratio": 4.0}},
    }
    path.write_text(
        json.dumps(
            {
                "machine": {"cpu": "A CPU", "cores": 2, "isa": "v4", "date": "2025-01-02 03:04 UTC"},
                "roofs": {},
                "results": [{**line, "threads": 1, "of_limit": 0.4}, line],
            }
        )
    )


def test_readme_table_round_trip(tmp_path, capsys):
    results, readme = tmp_path / "machine.json", tmp_path / "README.md"
    write_report(results)
    readme.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    assert report.main([str(readme), str(results)]) == 0
    text = readme.read_text()
    assert text == report.rewrite(text, report.readme_table(results))
    assert text.startswith("before\n") and text.endswith("after\n") and "\nold\n" not in text
    (krum,) = [row for row in text.splitlines() if "`robust.krum`" in row]
    assert "4x (good)" in krum and "50% (read memory)" in krum and "cpu, cuda, reference" in krum
    readme.write_text("no marks")
    assert report.main([str(readme), str(results)]) == 2
    assert report.BEGIN in capsys.readouterr().err


def test_every_public_function_has_facts():
    import importlib

    facts = {(fact.room, fact.name) for fact in report.all_facts()}
    names = {case.full_name.removesuffix(f"-{case.dtype}") for case in all_cases()}
    for room in {room for room, _ in facts}:
        module = importlib.import_module(f"fastgd.{room}")
        records = (tuple, type(importlib))  # results and modules have no row
        functions = {(room, name) for name in module.__all__ if callable(value := getattr(module, name))
                     and not (isinstance(value, type) and issubclass(value, records))}
        assert functions == {fact for fact in facts if fact[0] == room}
    for fact in report.all_facts():
        assert not fact.case or f"{fact.room}/{fact.case}" in names


def test_plot(tmp_path):
    pytest.importorskip("matplotlib")
    from fastgd.bench import plot

    write_report(tmp_path / "r.json")
    record = json.loads((tmp_path / "r.json").read_text())
    record["machine"]["fastgd"] = "0"
    plot.draw(record, str(tmp_path / "r.png"))
    assert (tmp_path / "r.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="nothing to draw"):
        plot.draw({**record, "results": []}, str(tmp_path / "r.png"))
