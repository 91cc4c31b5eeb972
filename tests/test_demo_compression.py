"""`fastgd demo compression`: biased codecs lose without feedback and not with it; bytes are counted; files and errors."""

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
from fastgd import compress
from fastgd.demo import compression, network

SIZE = network.SIZE


@pytest.fixture
def run(capsys):
    """Run the demo and return what it says: (status, stdout, stderr)."""

    def call(*arguments):
        status = compression.main([str(argument) for argument in arguments])
        return (status, *capsys.readouterr())

    return call


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """The results of the default run, by (method, feedback), the whole document, and the picture."""
    folder = tmp_path_factory.mktemp("demo")
    assert compression.main(["--json", f"{folder}/r.json", "--plot", f"{folder}/p.png"]) == 0
    document = json.loads((folder / "r.json").read_text())
    return {(r["method"], r["feedback"]): r for r in document["results"]}, document, (folder / "p.png").read_bytes()


# ------------------------------------------------------------------------------------------------ what is shown


def test_biased_codecs_lose_without_feedback(full):
    found = full[0]
    dense = found["dense", False]
    assert dense["loss"][-1] < 0.1 and dense["accuracy"] > 0.93
    for name in ("TopK 1 %", "Sign"):
        without, with_feedback = found[name, False], found[name, True]
        assert without["loss"][-1] > 4 * dense["loss"][-1] and without["loss"][-1] > 4 * with_feedback["loss"][-1]
        assert without["accuracy"] < dense["accuracy"] - 0.04
        assert with_feedback["loss"][-1] < 2 * dense["loss"][-1]
        assert with_feedback["accuracy"] > dense["accuracy"] - 0.03
        assert without["bytes"] == with_feedback["bytes"] < 0.05 * dense["bytes"]
    for feedback in (False, True):  # unbiased: no feedback needed
        assert found["QSGD 4 bits", feedback]["loss"][-1] < 2 * dense["loss"][-1]
        assert found["QSGD 4 bits", feedback]["accuracy"] > dense["accuracy"] - 0.03


def test_bytes_are_those_of_the_payloads(full):
    for method in compression.METHODS:
        result = full[0][method.name, method.feedback]
        assert result["bytes"] == 400 * method.codec.max_nbytes(SIZE) == result["sent"][-1]
        assert result["codec"] == repr(method.codec) and result["rate"] == method.rate
        assert result["sent"] == [step * method.codec.max_nbytes(SIZE) for step in result["steps"]]


def test_json_schema(full):
    document = full[1]
    assert list(document) == ["fastgd", "settings", "backend", "results"]
    assert document["fastgd"] == fastgd.__version__
    assert document["settings"] == {"workers": 4, "steps": 400, "seed": 0, "batch": 32, "skew": 1.0}
    assert len(document["results"]) == len(compression.METHODS) == 7
    start = {result["loss"][0] for result in document["results"]}
    assert len(start) == 1  # all start from the same network
    for result in document["results"]:
        assert list(result) == ["method", "codec", "feedback", "rate", "accuracy", "bytes", "steps", "sent", "loss"]
        assert result["steps"][0] == 0 and result["steps"][-1] == 400 and np.all(np.diff(result["steps"]) > 0)
        assert len(result["steps"]) == len(result["sent"]) == len(result["loss"])


def test_picture(full):
    picture = full[2]
    assert picture[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = (int.from_bytes(picture[i : i + 4], "big") for i in (16, 20))
    assert width > 1000 and height > 400


def test_table(run):
    status, out, err = run("--steps", "3", "--no-plot")
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "4 workers, shares sorted by label, 3 steps on 32 digits each, seed 0; 2,410 parameters"
    assert lines[2].split("   ")[0] == "method" and len(lines) == 4 + 7 + 1 + 2 + 1
    assert [line.split("  ")[0] for line in lines[4:11]] == [method.name for method in compression.METHODS]
    assert f"{3 * (32 + 4 * SIZE):,}" in lines[4]
    assert "found on seeds 1, 2, 3 with 4 workers" in out


def test_same_numbers_on_every_run_and_backend(run):
    short = ("--steps", "12", "--no-plot", "--json", "-")
    first, second, reference = (json.loads(run(*short, *more)[1]) for more in ([], [], ["--backend", "reference"]))
    assert first["results"] == second["results"] == reference["results"]
    assert reference["backend"] == "reference"
    assert json.loads(run(*short, "--seed", "5")[1])["results"] != first["results"]


def test_other_settings(run, tmp_path):
    status, out, _ = run("--workers", "3", "--skew", "0", "--batch", "8", "--steps", "5", "--plot", tmp_path / "p.svg")
    assert status == 0 and out.startswith("3 workers, alike shares, 5 steps on 8 digits each")
    assert (tmp_path / "p.svg").read_text().startswith("<?xml") and f"curves drawn in {tmp_path / 'p.svg'}" in out
    assert "50% of the shares sorted" in run("--skew", "0.5", "--steps", "1", "--no-plot")[1]


def test_a_network_that_is_lost_is_shown_as_lost(run, monkeypatch, tmp_path):
    wild = [compression.Method("dense", compress.Identity(), False, 1.0),
            compression.Method("Sign", compress.Sign(), False, 1e38), compression.Method("Sign", compress.Sign(), True, 1e38)]
    monkeypatch.setattr(compression, "METHODS", wild)
    status, out, _ = run("--steps", "60", "--plot", tmp_path / "p.png", "--json", tmp_path / "r.json")
    assert status == 0 and out.count("diverged") == 2
    results = json.loads((tmp_path / "r.json").read_text())["results"]
    assert results[1]["loss"][-1] is None and results[1]["steps"][-1] < 60 and results[1]["accuracy"] == 0.0


def test_tuning_takes_the_best_of_the_grid(run, monkeypatch):
    monkeypatch.setattr(compression, "GRID", (1e-3, 0.5))
    monkeypatch.setattr(compression, "METHODS", compression.METHODS[:2])
    status, out, _ = run("--tune", "--steps", "30", "--no-plot")
    assert status == 0 and "under these settings" in out and "14 trainings" in out
    assert [line.split()[-7] for line in out.splitlines()[4:6]] == ["0.5", "0.5"]


def test_workers_keep_what_they_left_out():
    """A worker with feedback sends, over time, all of its gradient; without, only what the codec lets through."""
    settings = compression.Settings(steps=1)
    shares, _ = network.digits(4, 1.0, 0)
    start = network.initial(0)
    for method in compression.METHODS[1:3]:
        worker = compression.Worker(method, shares[0], settings, 0)
        sent = np.zeros(SIZE, np.float32)
        for _ in range(40):
            compress.decode_add([worker.send(start)], sent)
        assert (np.count_nonzero(sent) > 300) == method.feedback


# --------------------------------------------------------------------------------------------------- what goes wrong


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--workers", "0"], "--workers"),
        (["--steps", "x"], "--steps"),
        (["--skew", "2"], "--skew"),
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
    assert words in err and err.startswith("fastgd demo compression: ") and err.count("\n") == 1


@pytest.mark.parametrize(("module", "options"), [("sklearn", ["--no-plot"]), ("matplotlib", [])])
def test_missing_packages(run, monkeypatch, module, options):
    monkeypatch.setitem(sys.modules, module, None)
    status, _, err = run(*options)
    assert status == 2 and "pip install 'fastgd[bench,plot]'" in err and err.count("\n") == 1


def test_progress_bar_goes_to_a_terminal_only(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert compression.main(["--steps", "20", "--no-plot"]) == 0
    out, err = capsys.readouterr()
    assert "step/s" in err or "it/s" in err or "140/140" in err
    assert "step/s" not in out


def test_without_tqdm(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    assert run("--steps", "2", "--no-plot")[0] == 0


def test_help_and_name(capsys):
    with pytest.raises(SystemExit) as stopped:
        compression.main(["--help"])
    assert stopped.value.code == 0
    out = capsys.readouterr().out
    assert all(method.name in out for method in compression.METHODS)
    assert cli.main(["demo", "--help"]) == 0
    assert "compression" in capsys.readouterr().out


def test_command_line(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(Path(fastgd.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-W", "error", "-m", "fastgd", "demo", "compression", "--steps", "20"],
                          env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "curves drawn in compression.png" in done.stdout and done.stderr == ""
    assert (tmp_path / "compression.png").exists()
