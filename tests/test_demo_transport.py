"""`fastgd demo transport`: one plan from every method, colours that go where they should, digits matched; files, errors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fastgd
from fastgd import __main__ as cli
from fastgd import sinkhorn
from fastgd.demo import pictures, transport

EXAMPLE = Path(__file__).parents[1] / "examples" / "transport_matching.py"
COUNT = len(transport.PROBLEMS) * len(transport.METHODS) + 1
SMALL = ["--pixels", "60", "--images", "40", "--reg", "0.01", "--digits-reg", "0.5", "--limit", "1000"]
SHORT = [*SMALL, "--no-plot"]


@pytest.fixture
def run(capsys):
    """Run the demo and return what it says: (status, stdout, stderr)."""

    def call(*arguments):
        status = transport.main([str(argument) for argument in arguments])
        return (status, *capsys.readouterr())

    return call


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The document of a small run, and both pictures."""
    folder = tmp_path_factory.mktemp("demo")
    files = [folder / name for name in ("r.json", "p.png", "c.png")]
    assert transport.main([*SMALL, "--json", str(files[0]), "--plot", str(files[1]), "--pictures", str(files[2])]) == 0
    return json.loads(files[0].read_text()), files[1].read_bytes(), files[2].read_bytes()


@pytest.fixture(scope="module")
def photographs():
    return pictures.photographs()


# ------------------------------------------------------------------------------------------------ what is shown


def test_all_methods_find_the_same_plan(small):
    results = small[0]["results"]
    assert [(r["problem"], r["method"]) for r in results] == [
        *((problem, method) for problem in transport.PROBLEMS for method in transport.METHODS), (transport.FREE, "auto")]
    assert {r["status"] for r in results} == {"converged"} and max(r["error"] for r in results) <= 1e-9
    for problems in (transport.PROBLEMS[:2], transport.PROBLEMS[2:]):
        values = [r["value"] for r in results if r["problem"] in problems]
        assert values == pytest.approx([values[0]] * len(values), rel=1e-8)  # first order in the error
    assert results[-1]["value"] < results[0]["value"]  # more plans to choose from, and what they lose is priced


def test_json_schema(small):
    document = small[0]
    assert list(document) == ["fastgd", "settings", "backend", "digits", "results"]
    assert document["fastgd"] == fastgd.__version__ and document["settings"]["pixels"] == 60
    assert len(document["results"]) == COUNT and len(document["digits"]["partner"]) == 40
    for result in document["results"]:
        assert list(result) == ["problem", "method", "ran", "seconds", "sweeps", "newton", "cg", "error", "status", "cost",
                                "value", "times", "errors"]
        assert len(result["times"]) == len(result["errors"]) == result["sweeps"] + result["newton"]
        assert np.all(np.diff(result["times"]) >= 0.0) and 0.0 < result["times"][-1] <= result["seconds"]
        assert result["errors"][-1] == pytest.approx(result["error"], rel=1e-6, abs=1e-12)


@pytest.mark.parametrize("picture", [1, 2])
def test_pictures(small, picture):
    content = small[picture]
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = (int.from_bytes(content[i : i + 4], "big") for i in (16, 20))
    assert width >= 1000 and height >= 600


def test_table(run):
    status, out, err = run(*SHORT)
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == ("60 pixels of each photograph, regularisation 0.01; 40 images a set, regularisation 0.5; tolerance 1e-09")
    assert lines[2].startswith("problem") and len(lines) == 4 + COUNT + 1 + 3 + 1
    assert all(line.endswith("converged") for line in lines[4 : 4 + COUNT])
    for problem in (*transport.PROBLEMS, transport.FREE):
        assert sum(line.startswith(f"{problem}  ") for line in lines) == 1
    assert lines[-1].startswith(f"{COUNT} problems solved in ") and "pictures" not in lines[-1]


def numbers(text):
    """All results but the times."""
    results = json.loads(text)["results"]
    for result in results:
        del result["seconds"], result["times"]
    return results


def test_same_numbers_on_every_run(run):
    first, second, other = (numbers(run(*SHORT, "--json", "-", *more)[1]) for more in ([], [], ["--seed", "1"]))
    assert first == second != other
    reference = json.loads(run(*SHORT, "--json", "-", "--backend", "reference")[1])
    assert reference["backend"] == "reference"
    assert [r["value"] for r in reference["results"]] == pytest.approx([r["value"] for r in first], rel=1e-9)


def test_files(run, tmp_path):
    files = ("--plot", tmp_path / "p.svg", "--json", tmp_path / "r.json", "--pictures", tmp_path / "c.jpg")
    status, out, _ = run(*SMALL, *files)
    assert status == 0 and f"curves drawn in {tmp_path / 'p.svg'}" in out and f"pictures in {tmp_path / 'c.jpg'}" in out
    assert (tmp_path / "p.svg").read_text().startswith("<?xml")
    assert (tmp_path / "c.jpg").read_bytes()[:3] == b"\xff\xd8\xff"
    assert json.loads((tmp_path / "r.json").read_text())["settings"]["images"] == 40


def test_a_method_that_takes_too_long_is_stopped_and_said_to_be(run):
    status, out, _ = run(*SHORT, "--limit", "0")
    assert status == 0 and "converged" not in out
    assert sum(line.endswith("stopped") for line in out.splitlines()) == COUNT


# --------------------------------------------------------------------------------------------------------- colours


def test_the_map_at_the_samples_is_the_barycentric_one(photographs):
    rng = np.random.default_rng(3)
    x, y = (pictures.sample(picture, 50, rng) for picture in photographs)
    solution = sinkhorn.solve_points(x, y, reg=0.01, tol=1e-12)
    assert pictures.entropic_map(x, y, solution.g, 0.01) == pytest.approx(50.0 * solution.apply(y), abs=1e-9)
    assert pictures.entropic_map(y, x, solution.f, 0.01) == pytest.approx(50.0 * solution.apply_transpose(x), abs=1e-9)


def test_a_picture_in_its_own_colours_stays(photographs):
    for picture in photographs:
        y = pictures.sample(picture, 1000, np.random.default_rng(1))
        assert pictures.recolour(picture, y, np.zeros(1000), 1e-4) == pytest.approx(picture, abs=0.15)
        assert np.abs(pictures.recolour(picture, y, np.zeros(1000), 1e-4) - picture).mean() < 0.01


def test_a_picture_gets_the_colours_of_the_other(photographs):
    """Means and spreads of the channels become the other's, but for what smoothing and regularisation take from the spreads."""
    china, flower = photographs
    rng = np.random.default_rng(2)
    x, y = pictures.sample(china, 300, rng), pictures.sample(flower, 300, rng)
    solution = sinkhorn.solve_points(x, y, reg=0.005, tol=1e-6)
    for picture, other, points, potential in ((china, flower, y, solution.g), (flower, china, x, solution.f)):
        result = pictures.recolour(picture, points, potential, 0.005).reshape(-1, 3)
        assert result.min() >= 0.0 and result.max() <= 1.0
        assert result.mean(axis=0) == pytest.approx(other.reshape(-1, 3).mean(axis=0), abs=0.04)
        assert result.std(axis=0) == pytest.approx(other.reshape(-1, 3).std(axis=0), rel=0.25)


def test_smoothing_keeps_edges_and_drops_noise():
    rng = np.random.default_rng(0)
    edge = np.repeat(np.where(np.arange(80) < 40, 0.2, 0.8)[None, :], 60, axis=0)
    values = np.stack([edge, 1.0 - edge, edge], axis=2)
    smooth = pictures.guided(edge, values + 0.1 * rng.standard_normal(values.shape))
    assert np.abs(smooth - values).max() < 0.1 and np.std(smooth - values) < 0.02  # the noise's: 0.4 and 0.1
    assert np.abs(np.diff(smooth[30, :, 0]))[39] > 0.5


# ---------------------------------------------------------------------------------------------------------- digits


@pytest.mark.parametrize("size", [40, 87, 870])
def test_sets_of_digits_are_disjoint_and_alike(size):
    data = pictures.digits(size, 5)
    assert data.images.shape == data.others.shape == (size, 64) and 0.0 <= data.images.min() < data.images.max() == 1.0
    assert np.array_equal(np.bincount(data.labels, minlength=10), np.bincount(data.other_labels, minlength=10))
    both = {image.tobytes() for image in np.vstack([data.images, data.others])}
    assert len(both) == 2 * size


def test_a_plan_of_little_regularisation_is_the_assignment():
    data = pictures.digits(40, 0)
    cost = pictures.squares(data.images, data.others)
    match = transport.matched(data, cost, sinkhorn.solve(cost, reg=0.02, tol=1e-6))
    assert len(np.unique(match.partner)) == 40
    assert match.cost == pytest.approx(match.exact_cost, rel=1e-3)
    assert match.mass == pytest.approx(match.exact_right, abs=0.01)
    assert match.mass == pytest.approx((data.labels == data.other_labels[match.partner]).mean(), abs=0.01)


# ----------------------------------------------------------------------------------------------- what goes wrong


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--pixels", "0"], "--pixels"),
        (["--images", "871"], "--images"),
        (["--reg", "0"], "--reg"),
        (["--tol", "nan"], "--tol"),
        (["--backend", "tpu"], "--backend"),
        (["--plot", "a.txt"], "must end in"),
        (["--pictures", "a.svg"], "must end in"),
        (["--pictures", "/nowhere/a.png"], "not a directory"),
        (["--plot", "/nowhere/a.png"], "not a directory"),
        (["--json", "/nowhere/a.json"], "not a directory"),
        (["--unknown"], "--unknown"),
    ],
)
def test_wrong_wishes_end_in_one_sentence(run, arguments, words):
    status, out, err = run(*arguments)
    assert status == 2 and out == ""
    assert words in err and err.startswith("fastgd demo transport: ") and err.count("\n") == 1


@pytest.mark.parametrize(("module", "options"), [("sklearn", ["--no-plot"]), ("PIL", ["--no-plot"]), ("matplotlib", [])])
def test_missing_packages(run, monkeypatch, module, options):
    monkeypatch.setitem(sys.modules, module, None)
    status, _, err = run(*options)
    assert status == 2 and "pip install 'fastgd[bench,plot]'" in err and err.count("\n") == 1


def test_without_tqdm(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    assert run(*SHORT)[0] == 0


def test_progress_bar_goes_to_a_terminal_only(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert transport.main(SHORT) == 0
    out, err = capsys.readouterr()
    assert f"/{transport.TICKS * COUNT}" in err and f"/{transport.TICKS * COUNT}" not in out


def test_the_bar_follows_the_digits_won():
    moved: list[int] = []
    watch = transport.Watch(transport.Settings(tol=1e-4), moved.append)
    for error in (2.0, 1e-1, 1e-2, 5e-2, 1e-3):
        watch(1, error)
    assert sum(moved) == 75 and watch.errors == [2.0, 1e-1, 1e-2, 5e-2, 1e-3]
    watch.end()
    assert sum(moved) == 100 and min(moved) >= 0


def test_help_and_name(capsys):
    with pytest.raises(SystemExit) as stopped:
        transport.main(["--help"])
    assert stopped.value.code == 0
    out = capsys.readouterr().out
    assert all(method in out for method in transport.METHODS)
    assert cli.main(["demo", "--help"]) == 0
    assert "transport" in capsys.readouterr().out


def test_command_line(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(Path(fastgd.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-W", "error", "-m", "fastgd", "demo", "transport", *SMALL],
                          env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "curves drawn in transport.png" in done.stdout and done.stderr == ""
    assert (tmp_path / "transport.png").exists() and (tmp_path / "transport-colours.png").exists()


def test_example(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(Path(fastgd.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-W", "error", str(EXAMPLE)], env=environment, cwd=tmp_path, capture_output=True,
                          text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    nearest, plan, sure = (float(line.partition("% ")[0].split()[-1]) for line in done.stdout.splitlines())
    assert plan > nearest + 5.0 and sure > 98.0 and "converged" in done.stdout
