"""`fastgd demo dro`: the tail falls and rare digits are learnt; the same numbers on every run; files and errors."""

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
from fastgd.demo import dro, tails

EXAMPLE = Path(__file__).parents[1] / "examples" / "dro_sgd.py"
COUNT = 3 + 3 + 4  # problems times methods
SHORT = ["--steps", "20", "--seeds", "1", "--no-plot"]


@pytest.fixture
def run(capsys):
    """Run the demo and return what it says: (status, stdout, stderr)."""

    def call(*arguments):
        status = dro.main([str(argument) for argument in arguments])
        return (status, *capsys.readouterr())

    return call


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """The results of the default run by (problem, method), the whole document, and the picture."""
    folder = tmp_path_factory.mktemp("demo")
    assert dro.main(["--json", f"{folder}/r.json", "--plot", f"{folder}/p.png"]) == 0
    document = json.loads((folder / "r.json").read_text())
    return {(r["problem"], r["method"]): r for r in document["results"]}, document, (folder / "p.png").read_bytes()


def final_tail(result):
    return np.mean([curve[-1] for curve in result["tail"]])


# ------------------------------------------------------------------------------------------------ what is shown


@pytest.mark.parametrize("method", ["DRO chi-squared", "DRO KL"])
@pytest.mark.parametrize("problem", tails.PROBLEMS)
def test_robust_descent_lowers_the_tail(full, problem, method):
    plain, robust = full[0][problem, "SGD"], full[0][problem, method]
    assert final_tail(robust) < final_tail(plain)
    if robust["rate"] == plain["rate"]:  # else one of them has gone further
        assert np.mean(robust["train_tail"]) < np.mean(plain["train_tail"])


def test_the_rare_digit_is_learnt(full):
    results = {method.name: full[0][tails.PROBLEMS[2], method.name] for method in tails.METHODS}
    plain = results.pop("SGD")
    for result in results.values():
        assert np.mean(result["worst_class"]) > np.mean(plain["worst_class"]) + 0.05
        assert final_tail(result) < 0.9 * final_tail(plain)


def test_json_schema(full):
    document = full[1]
    assert list(document) == ["fastgd", "settings", "backend", "results"]
    assert document["fastgd"] == fastgd.__version__
    assert document["settings"] == {"steps": 1000, "batch": 32, "seeds": 5, "radius": 0.5, "floor": 0.1}
    assert len(document["results"]) == COUNT
    for result in document["results"]:
        assert list(result) == ["problem", "method", "rate", "steps", "tail", "mean", "train_tail", "worst_class",
                                "seconds_a_step"]
        assert result["steps"][0] == 0 and result["steps"][-1] == 1000 and np.all(np.diff(result["steps"]) > 0)
        assert {len(curve) for curve in result["tail"]} == {len(result["steps"])} and len(result["tail"]) == 5
        assert result["seconds_a_step"] > 0.0
    assert len({result["tail"][0][0] for result in document["results"] if result["problem"] != "breast cancer"}) == 1


def test_picture(full):
    picture = full[2]
    assert picture[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = (int.from_bytes(picture[i : i + 4], "big") for i in (16, 20))
    assert width >= 1000 and height >= 600


def test_table(run):
    status, out, err = run(*SHORT)
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "20 steps on batches of 32, means over 1 splits; radius 0.5, floor 0.1"
    assert lines[2].startswith("problem") and len(lines) == 4 + COUNT + 1 + 4 + 1
    for problem in tails.PROBLEMS:
        assert sum(line.startswith(f"{problem}  ") for line in lines) == 1
    assert sum(method.name in line for line in lines[4:14] for method in tails.METHODS) == COUNT
    assert [line.split()[-1] for line in lines[4:14] if " SGD " in line] == ["1.00"] * 3


def numbers(text):
    """All results but the times."""
    results = json.loads(text)["results"]
    for result in results:
        del result["seconds_a_step"]
    return results


def test_same_numbers_on_every_run(run):
    first, second, other = (numbers(run(*SHORT, "--json", "-", *more)[1]) for more in ([], [], ["--batch", "16"]))
    assert first == second != other
    reference = json.loads(run(*SHORT, "--json", "-", "--backend", "reference")[1])
    assert reference["backend"] == "reference" and len(reference["results"]) == COUNT


def test_files(run, tmp_path):
    status, out, _ = run("--steps", "5", "--seeds", "1", "--plot", tmp_path / "p.svg", "--json", tmp_path / "r.json")
    assert status == 0 and f"curves drawn in {tmp_path / 'p.svg'}" in out
    assert (tmp_path / "p.svg").read_text().startswith("<?xml")
    assert json.loads((tmp_path / "r.json").read_text())["settings"]["steps"] == 5


def test_tuning_takes_the_best_of_the_grid(run, monkeypatch):
    monkeypatch.setattr(tails, "GRID", (1e-6, 1.0))
    monkeypatch.setattr(dro, "GRID", (1e-6, 1.0))
    monkeypatch.setattr(dro, "PROBLEMS", tails.PROBLEMS[1:2])
    status, out, _ = run("--tune", *SHORT)
    assert status == 0 and "under these settings" in out and f"{3 * (1 + 2 * len(tails.TUNING_SEEDS))} trainings" in out
    assert sum("   1   " in line for line in out.splitlines()[4:7]) == 3


# --------------------------------------------------------------------------------------------------- what is learnt


def test_the_rare_digit_is_rare_in_the_training_set_only():
    whole, few = (tails.data(problem, 3) for problem in tails.PROBLEMS[1:])
    assert np.array_equal(whole.test_y, few.test_y)
    assert whole.x.shape[1] == whole.test_x.shape[1] == 1 + tails.COMPONENTS["digits"] and few.x.shape[1] == 65
    count, left = np.bincount(whole.y), np.bincount(few.y)
    assert left[tails.RARE] == round(tails.KEPT * count[tails.RARE]) == 6
    assert np.array_equal(np.delete(left, tails.RARE), np.delete(count, tails.RARE))


def test_principal_components_are_those_of_the_training_set():
    cancer = tails.data("breast cancer", 3)
    x = cancer.x[:, :-1]
    assert np.all(cancer.x[:, -1] == 1.0) and x.mean(axis=0) == pytest.approx(0.0, abs=1e-12)
    covariance = np.cov(x.T, bias=True)
    assert covariance == pytest.approx(np.diag(np.diag(covariance)), abs=1e-12)
    assert covariance[0, 0] == pytest.approx(1.0) and np.all(np.diff(np.diag(covariance)) <= 0.0)


def test_losses_and_their_derivatives():
    rng = np.random.default_rng(0)
    weights, x, y = rng.standard_normal((4, 3)), rng.standard_normal((5, 4)), np.array([0, 1, 2, 1, 0])
    loss, slope = tails.losses(weights, x, y)
    scores = x @ weights
    assert loss == pytest.approx(np.log(np.exp(scores).sum(axis=1)) - scores[np.arange(5), y])
    change = 1e-6 * rng.standard_normal((4, 3))
    moved = tails.losses(weights + change, x, y)[0] - tails.losses(weights - change, x, y)[0]
    assert moved.sum() == pytest.approx(2.0 * np.sum((x.T @ slope) * change), rel=1e-6)


def test_group_draws_follow_the_weights():
    y = np.repeat([0, 1, 2], [50, 30, 20])
    groups = tails.Groups(y, 0.5, np.random.default_rng(1))
    assert np.bincount(y[groups.sample(3000)]) == pytest.approx(1000, abs=150)
    for _ in range(20):
        groups.update(np.array([0, 60, 90]), np.array([0.0, 0.0, 1.0]))
    assert groups.weights[2] > 0.9 and np.bincount(y[groups.sample(1000)])[2] > 800
    assert np.bincount(groups.sample(20000), minlength=100)[80:].min() > 500  # uniform within the group


def test_tail_is_the_mean_of_the_worst_tenth():
    assert tails.tail(np.arange(20.0)) == pytest.approx(18.5)


# ----------------------------------------------------------------------------------------------- what goes wrong


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--seeds", "0"], "--seeds"),
        (["--steps", "x"], "--steps"),
        (["--batch", "-1"], "--batch"),
        (["--backend", "tpu"], "--backend"),
        (["--plot", "a.txt"], "must end in"),
        (["--plot", "/nowhere/a.png"], "not a directory"),
        (["--json", "/nowhere/a.json"], "not a directory"),
        (["--unknown"], "--unknown"),
    ],
)
def test_wrong_wishes_end_in_one_sentence(run, arguments, words):
    status, out, err = run(*arguments)
    assert status == 2 and out == ""
    assert words in err and err.startswith("fastgd demo dro: ") and err.count("\n") == 1


@pytest.mark.parametrize(("module", "options"), [("sklearn", ["--no-plot"]), ("matplotlib", [])])
def test_missing_packages(run, monkeypatch, module, options):
    monkeypatch.setitem(sys.modules, module, None)
    status, _, err = run(*options)
    assert status == 2 and "pip install 'fastgd[bench,plot]'" in err and err.count("\n") == 1


def test_without_tqdm(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    assert run(*SHORT)[0] == 0


def test_progress_bar_goes_to_a_terminal_only(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert dro.main(SHORT) == 0
    out, err = capsys.readouterr()
    assert f"/{20 * COUNT}" in err and f"/{20 * COUNT}" not in out


def test_help_and_name(capsys):
    with pytest.raises(SystemExit) as stopped:
        dro.main(["--help"])
    assert stopped.value.code == 0
    out = capsys.readouterr().out
    assert all(method.name in out for method in tails.METHODS)
    assert cli.main(["demo", "--help"]) == 0
    assert "dro" in capsys.readouterr().out


def test_command_line(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(Path(fastgd.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-W", "error", "-m", "fastgd", "demo", "dro", "--steps", "20"],
                          env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "curves drawn in dro.png" in done.stdout and done.stderr == ""
    assert (tmp_path / "dro.png").exists()


def test_example(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(Path(fastgd.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-W", "error", str(EXAMPLE)], env=environment, cwd=tmp_path, capture_output=True,
                          text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    tails_shown = [float(line.partition("tenth ")[2].partition(",")[0]) for line in done.stdout.splitlines()]
    assert len(tails_shown) == 2 and tails_shown[1] < 0.95 * tails_shown[0]
