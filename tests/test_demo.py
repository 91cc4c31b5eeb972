"""`fastgd demo byzantine`: the mean fails, Krum holds; the same numbers on every run and backend; files and errors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fastgd
from fastgd.demo import byzantine, network, results, rules, training

EXAMPLE = Path(__file__).parents[1] / "examples" / "byzantine_digits.py"
SHORT = ["--steps", "60", "--no-plot"]


@pytest.fixture
def run(capsys):
    """Run the demo and return what it says: (status, stdout, stderr)."""

    def call(*arguments):
        status = byzantine.main([str(argument) for argument in arguments])
        return (status, *capsys.readouterr())

    return call


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    """The results of a short default run, and its picture."""
    folder = tmp_path_factory.mktemp("demo")
    assert byzantine.main(["--steps", "60", "--json", f"{folder}/r.json", "--plot", f"{folder}/p.png"]) == 0
    return json.loads((folder / "r.json").read_text()), (folder / "p.png").read_bytes()


# ------------------------------------------------------------------------------------------------ what is shown


def test_the_mean_fails_and_the_rules_hold(short):
    cells = {(result["attack"], result["rule"]): result for result in short[0]["results"]}
    assert len(cells) == 3 * 5
    for attack in ("nan", "sign_flip", "ipm"):
        assert cells[attack, "mean"]["verdict"] == "fails" and cells[attack, "mean"]["final"] < 0.2
        for rule in ("krum", "multikrum", "median", "trimmed_mean"):
            assert cells[attack, rule]["verdict"] == "holds" and cells[attack, rule]["final"] > 0.8
    assert cells["nan", "mean"]["diverged_at"] == 1
    assert all(cell["diverged_at"] is None for (_, rule), cell in cells.items() if rule != "mean")


def test_json_schema(short):
    document = short[0]
    assert list(document) == ["fastgd", "settings", "backend", "honest_alone", "holds_at", "left_out", "results"]
    assert document["fastgd"] == fastgd.__version__
    assert document["settings"] == {"workers": 15, "byzantine": 4, "steps": 60, "seed": 0, "rate": 0.5, "momentum": 0.9,
                                    "batch": 32, "skew": 0.0}
    assert document["holds_at"] == pytest.approx(results.HOLDS * document["honest_alone"]["accuracy"][-1])
    for result in document["results"]:
        assert list(result) == ["attack", "options", "rule", "final", "verdict", "diverged_at", "steps", "accuracy"]
        assert result["steps"][0] == 0 and result["steps"][-1] == 60
        assert len(result["steps"]) == len(result["accuracy"]) and np.all(np.diff(result["steps"]) > 0)
        assert all(0.0 <= a <= 1.0 for a in result["accuracy"]) and result["final"] == result["accuracy"][-1]
        holds = result["diverged_at"] is None and result["final"] >= document["holds_at"]
        assert result["verdict"] == ("holds" if holds else "fails")
    assert {r["attack"]: r["options"] for r in document["results"]} == {
        "nan": {}, "sign_flip": {"scale": 10.0}, "ipm": {"epsilon": 3.0}}


def test_picture(short):
    picture = short[1]
    assert picture[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = (int.from_bytes(picture[i : i + 4], "big") for i in (16, 20))
    assert width > 1000 and height > 400


def test_every_attack_runs_and_has_a_panel(run, tmp_path):
    status, out, _ = run("--steps", "2", "--attack", "all", "--plot", tmp_path / "all.svg")
    assert status == 0
    drawing = (tmp_path / "all.svg").read_text()
    assert drawing.startswith("<?xml") and f"curves drawn in {tmp_path / 'all.svg'}" in out
    for name in byzantine.ATTACK_NAMES:
        assert any(line.startswith(name) for line in out.splitlines())
    assert "Left out" not in out


@pytest.mark.parametrize("name", [*rules.NAMES[1:], *rules.COMPOSITIONS])
def test_every_rule_survives(run, name):
    workers = 19 if "bulyan" in name else 15
    attacks = ("nan", "sign_flip", "precision")
    status, out, err = run("--rule", name, "--workers", workers, "--attack", *attacks, "--json", "-", *SHORT)
    assert status == 0, err
    for result in json.loads(out)["results"]:
        assert result["rule"] == name and result["verdict"] == "holds", result["attack"]


def test_all_rules_that_fit_are_shown_and_the_others_named(run):
    status, out, _ = run("--rule", "all", "--attack", "nan", "--steps", "2", "--no-plot")
    assert status == 0
    shown = {line.split("  ")[0] for line in out.splitlines()}
    assert shown >= {"numpy mean", *rules.NAMES, *rules.COMPOSITIONS} - {"mean", "bulyan"} and "bulyan" not in shown
    assert "Left out: bulyan needs n >= 4 f + 3 workers, 19 for 4 attackers: pass --workers 19 or --byzantine 3." in out


def test_more_rules_than_fit_a_line_and_the_longer_list_goes_down(run):
    _, out, _ = run("--attack", "nan", "inf", "--rule", "median", "mean", "krum", "--steps", "2", "--no-plot")
    assert [line.split("  ")[0] for line in out.splitlines()[2:7]] == [
        "rule", "-" * len(out.splitlines()[3]), "median", "numpy mean", "krum"]
    wide = ["--attack", "all", "--rule", "median", "mean", "krum", "trimmed_mean", "multikrum"]
    _, out, _ = run(*wide, "--steps", "1", "--no-plot")
    assert max(map(len, out.splitlines()[2:-4])) <= results.WIDTH
    runs = [training.Run(f"attack{i}", f"rule{j}", [0], [0.5], None) for i in range(9) for j in range(12)]
    text = results.table(runs, runs[0], training.Settings(), {f"attack{i}": {} for i in range(9)})
    lines = text.splitlines()
    assert sum(line.startswith("rule  ") for line in lines) == 2 and max(map(len, lines[2:-2])) <= results.WIDTH
    assert all(sum(line.count(f"attack{i}") for line in lines) == 1 for i in range(9))


def test_lines_in_the_picture_differ():
    others = [f"rule{i}" for i in range(18)]
    styles = [results.style(rule, others)[:2] for rule in [*results.STYLES, *others]]
    assert len(set(styles)) == len(styles) and set(rules.SHOWN) == set(results.STYLES)


def test_optimised_attacks_search_against_the_rule_at_hand(run):
    """As strong as the strongest fixed one that the rule lets through, or stronger."""
    wanted = ["--rule", "krum", "--attack", "optimised_ipm", "ipm", "--json", "-", *SHORT]
    found = {result["attack"]: result["final"] for result in json.loads(run(*wanted)[1])["results"]}
    assert found["optimised_ipm"] < found["ipm"] - 0.1


def test_a_limit_that_only_some_vectors_reach_is_a_sentence(run, monkeypatch):
    original = fastgd.robust.median

    def median(vectors):
        if np.any(vectors[0][0]):
            raise ValueError("too many\nsubsets")
        return original(vectors)

    monkeypatch.setattr(fastgd.robust, "median", median)
    status, out, err = run("--rule", "median", "--attack", "nan", *SHORT)
    assert (status, out) == (2, "") and err == "fastgd demo byzantine: --rule median --attack nan: too many subsets\n"


@pytest.mark.parametrize(("name", "n", "f", "words"), [
    ("bulyan", 15, 4, "19 for 4 attackers: pass --workers 19 or --byzantine 3"),
    ("bulyan", 2, 1, "7 for 1 attacker: pass --workers 7"),
    ("krum", 10, 4, "11 for 4 attackers: pass --workers 11 or --byzantine 3"),
    ("nnm+bulyan", 18, 4, "n >= 4 f + 3"), ("arc+nnm+median", 8, 4, "n >= 2 f + 1"), ("caf", 8, 4, "--byzantine 3"),
    ("krum", 11, 4, None), ("bulyan", 19, 4, None), ("mda", 9, 4, None), ("mean", 2, 1, None), ("median", 2, 1, None)])
def test_what_a_rule_needs(name, n, f, words):
    reason = rules.misfit(name, n, f)
    assert reason is None if words is None else words in reason
    if words is not None and "or --byzantine" in words:
        assert rules.misfit(name, n, int(words.rsplit(" ", 1)[1])) is None


def test_table_is_honest_about_the_mean(run):
    status, out, err = run("--attack", "nan", "ipm", "--rule", "mean", "krum", *SHORT)
    assert status == 0 and err == ""
    lines = out.splitlines()
    assert lines[2].split("  ")[0] == "attack" and "numpy mean" in lines[2] and "median" not in lines[2]
    assert "diverged" in lines[4] and "holds" in lines[4]
    assert "fails" in lines[5] and "holds" in lines[5]
    assert "fastgd.robust.mean refuses NaN" in out and "2.75" in out


def test_worker_momentum_is_what_shows_krum_a_quiet_attack(run):
    """Xie et al.: a small epsilon hides in the noise; Karimireddy et al.: momentum at the workers takes that away."""
    finals = {}
    wanted = ["--attack", "ipm", "--epsilon", "0.5", "--rule", "krum", "--json", "-", *SHORT]
    for beta in ("0.9", "0"):
        _, out, _ = run(*wanted, "--momentum", beta)
        finals[beta] = json.loads(out)["results"][0]["final"]
    assert finals["0.9"] > 0.75 > 0.5 > finals["0"]


# -------------------------------------------------------------------------------------------------- same numbers


def test_deterministic_and_the_same_on_every_backend(run, backend):
    wanted = ["--attack", "ipm", "--steps", "30", "--no-plot", "--json", "-"]
    first, second, other = (json.loads(run(*wanted, "--backend", name)[1]) for name in (backend, backend, "reference"))
    assert first == second and first["backend"] == backend
    for one, two in zip(first["results"], other["results"], strict=True):
        np.testing.assert_allclose(one["accuracy"], two["accuracy"], atol=0.05)


def test_another_seed_is_another_training(run):
    wanted = ["--attack", "none", "--rule", "mean", "--steps", "20", "--no-plot", "--json", "-"]
    one, two = (json.loads(run(*wanted, "--seed", seed)[1])["results"][0]["accuracy"] for seed in (0, 1))
    assert one != two


def test_backend_argument_is_used(run, monkeypatch):
    seen = set()
    original = fastgd.robust.median

    def median(vectors):
        seen.add(fastgd.explain(original, vectors).splitlines()[-1])
        return original(vectors)

    monkeypatch.setattr(fastgd.robust, "median", median)
    assert run("--backend", "reference", "--rule", "median", "--attack", "nan", "--steps", "2", "--no-plot")[0] == 0
    assert seen == {"  reference  chosen"}


def test_gradients():
    g = byzantine.gradients()
    assert g.shape == (15, 2410) and g.dtype == np.float32 and np.isfinite(g).all()
    assert g.tobytes() == byzantine.gradients().tobytes() != byzantine.gradients(seed=1).tobytes()
    assert byzantine.gradients(3).shape == (3, 2410)
    mean = g.mean(axis=0)
    assert (g @ mean > 0).sum() >= 12  # honest workers agree on a direction, but for their noise
    assert len(np.unique(g, axis=0)) == 15
    with pytest.raises(ValueError, match="workers"):
        byzantine.gradients(0)


# ------------------------------------------------------------------------------------------- the learning problem


def test_gradient_is_the_derivative_of_the_loss():
    shares, _ = network.digits(15)
    batch = network.Batch(shares[0].images.astype(np.float64), shares[0].labels)
    flat = np.concatenate([layer.ravel() for layer in network.initial(0)]).astype(np.float64)

    def loss(vector):
        w1, b1, w2, b2 = network.layers(vector)
        scores = np.maximum(batch.images @ w1 + b1, 0) @ w2 + b2
        scores -= scores.max(axis=1, keepdims=True)
        log_p = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
        return -log_p[np.arange(len(batch.labels)), batch.labels].mean()

    analytic = np.concatenate([part.ravel() for part in network.gradient(network.layers(flat), batch)])
    for direction in np.random.default_rng(0).normal(size=(5, network.SIZE)):
        numeric = (loss(flat + 1e-6 * direction) - loss(flat - 1e-6 * direction)) / 2e-6
        assert numeric == pytest.approx(analytic @ direction, rel=1e-5)


@pytest.mark.parametrize("skew", [0.0, 0.5, 1.0])
def test_shares_are_a_partition(skew):
    shares, test = network.digits(15, skew)
    whole, _ = network.digits(1)
    images = np.concatenate([share.images for share in shares])
    assert len(images) == len(whole[0].images) == 1347 and len(test.images) == 450
    np.testing.assert_array_equal(np.unique(images, axis=0), np.unique(whole[0].images, axis=0))
    seen = np.mean([len(np.unique(share.labels)) for share in shares])
    assert seen < 3 if skew == 1.0 else seen > 8


def test_layers_are_views():
    vector = np.arange(float(network.SIZE))
    parts = network.layers(vector)
    assert [part.shape for part in parts] == list(network.SHAPES)
    assert all(np.shares_memory(part, vector) for part in parts)
    np.testing.assert_array_equal(np.concatenate([part.ravel() for part in parts]), vector)


def test_lost_honest_workers_end_a_training():
    """A network that is finite but so large that gradients are NaN: the rule is not asked, the run says diverged."""
    shares, test = network.digits(5)
    settings = training.Settings(workers=5, byzantine=1, steps=10, rate=1e38, momentum=0.0)
    run = training.train(shares, test, settings, "none", rules.make("median"), "median")
    assert run.diverged_at is not None and run.steps[-1] == 10


# ----------------------------------------------------------------------------------------------------- wrong wishes


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--workers", "5", "--byzantine", "2"], "krum needs n >= 2 f + 3"),
        (["--workers", "4", "--byzantine", "2", "--rule", "trimmed_mean"], "n >= 2 f + 1"),
        (["--rule", "all", "bulyan"], "pass --workers 19 or --byzantine 3"),
        (["--rule", "krum+nnm"], "put nnm or arc before a rule"),
        (["--rule", "nnm+"], "--rule nnm+"),
        (["--norm", "-1"], "--norm"),
        (["--radius", "0"], "--radius"),
        (["--workers", "3", "--byzantine", "2", "--rule", "mean", "--attack", "alie"], "at least 2 honest"),
        (["--byzantine", "15"], "no honest"),
        (["--byzantine", "-1"], "--byzantine"),
        (["--workers", "0"], "--workers"),
        (["--steps", "many"], "--steps"),
        (["--momentum", "1"], "--momentum"),
        (["--sigma", "nan"], "--sigma"),
        (["--rule", "average"], "average"),
        (["--attack", "phishing"], "phishing"),
        (["--backend", "tpu"], "tpu"),
        (["--plot", "no/such/folder/p.png"], "no/such/folder"),
        (["--plot", "p.bmp"], ".png"),
        (["--json", "no/such/folder/r.json"], "no/such/folder"),
        (["--unknown"], "--unknown"),
    ],
)
def test_wrong_wishes_end_in_one_sentence(run, arguments, words):
    status, out, err = run(*arguments)
    assert status == 2 and out == ""
    assert words in err and err.startswith("fastgd demo byzantine: ") and err.count("\n") == 1


@pytest.mark.parametrize(("module", "options"), [("sklearn", ["--no-plot"]), ("matplotlib", [])])
def test_missing_packages(run, monkeypatch, module, options):
    monkeypatch.setitem(sys.modules, module, None)
    status, _, err = run(*options)
    assert status == 2 and "pip install 'fastgd[bench,plot]'" in err and err.count("\n") == 1


def test_no_gpu_is_a_sentence(run, monkeypatch):
    monkeypatch.setattr(byzantine, "why_unavailable", lambda: ("no CUDA driver or device was found",))
    status, _, err = run("--backend", "cuda")
    assert status == 2 and "no CUDA driver" in err and err.count("\n") == 1


def test_without_tqdm(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    assert run("--attack", "nan", "--rule", "median", "--steps", "2", "--no-plot")[0] == 0


def test_progress_bar_goes_to_a_terminal_only(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert byzantine.main(["--attack", "nan", "--rule", "median", "--steps", "20", "--no-plot"]) == 0
    out, err = capsys.readouterr()
    assert "40/40" in err or "it/s" in err or "step/s" in err
    assert "step/s" not in out


def test_help(capsys):
    with pytest.raises(SystemExit) as stopped:
        byzantine.main(["--help"])
    assert stopped.value.code == 0
    out = capsys.readouterr().out
    assert all(name in out for name in ("optimised_", *byzantine.ATTACK_NAMES[:-2], *rules.NAMES, *rules.COMPOSITIONS))


# ------------------------------------------------------------------------------------------------- as a user runs it


def python(*arguments, **kwargs):
    environment = os.environ | {"PYTHONPATH": str(Path(fastgd.__file__).parents[1])}
    return subprocess.run([sys.executable, *map(str, arguments)], env=environment, capture_output=True, text=True,
                          timeout=120, **kwargs)


def test_command_line(tmp_path):
    done = python("-m", "fastgd", "demo", "byzantine", "--steps", "30", "--attack", "nan", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "numpy mean" in done.stdout and "curves drawn in byzantine.png" in done.stdout
    assert (tmp_path / "byzantine.png").exists()


def test_example():
    done = python("-W", "error", EXAMPLE)
    assert done.returncode == 0, done.stderr
    plain, robust = (float(line.split(": ")[1].split("%")[0]) for line in done.stdout.splitlines())
    assert plain < 20.0 and robust > 85.0
    assert "[0, 0, 0, " in done.stdout  # the broken workers are never chosen
