"""The command line: exit statuses, one clear sentence for a wish that cannot be met, files that are written."""

import json
import os
import signal
import subprocess
import sys

import pytest

from fastgd import __main__ as cli
from fastgd import __version__
from fastgd.bench import command, roofs, runner

QUICK = ["--peer", "none", "--min-time", "1e-4"]


@pytest.fixture(autouse=True)
def quick_roofs(monkeypatch):
    monkeypatch.setattr(roofs, "MEASURE_S", 0.0)
    monkeypatch.setattr(roofs, "cache_bytes", lambda: 1 << 20)


def python(*arguments, **kwargs):
    return subprocess.run(
        [sys.executable, "-m", "fastgd", *arguments], capture_output=True, text=True, timeout=120, **kwargs
    )


def test_help_and_version(capsys):
    for arguments, expected in (
        (["--help"], "bench"),
        (["--version"], __version__),
        (["bench", "--help"], "--fail-over"),
    ):
        with pytest.raises(SystemExit) as stopped:
            cli.main(arguments)
        assert stopped.value.code == 0
        assert expected in capsys.readouterr().out


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from fastgd.__main__ import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
        "print('heavy:', [name for name in ('numpy', 'numba', 'scipy', 'torch') if name in sys.modules])"
    )
    assert (
        "heavy: []" in subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    )


def test_no_command_is_a_usage_error():
    with pytest.raises(SystemExit) as stopped:
        cli.main([])
    assert stopped.value.code == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["no-such-case"], "no case matches"),
        (["("], "regular expression"),
        (["--room", "cellar"], "--room must name"),
        (["--size", "huge"], "--size must name"),
        (["--size", "n=x,d=3"], "positive integers"),
        (["--size", "n=0"], "positive integers"),
        (["--size", "n=1.5"], "positive integers"),
        (["--size", "n=inf"], "positive integers"),
        (["--size", "k=3"], "positive integers"),
        (["--size", "n=2,d=3", "--room", "robust"], "n >= 5"),
        (["--dtype", "int8"], "--dtype must name"),
        (["--backend", "tpu"], "--backend must name"),
        (["--threads", "0"], "--threads must be"),
        (["--threads", "many"], "--threads must be"),
        (["--min-time", "-1"], "--min-time must be positive"),
        (["--fail-over", "10%"], "needs --compare"),
        (["--fail-over", "much"], "percentage"),
        (["--compare", "/nowhere/old.json"], "cannot read"),
        (["--json", "/nowhere/new.json"], "cannot write"),
        (["--plot", "/nowhere/new.png"], "cannot write"),
        (["--readme", "README.md"], "needs the results"),
    ],
)
def test_bad_wishes_end_in_one_sentence(arguments, words, capsys):
    assert cli.main(["bench", *arguments]) == 2
    printed = capsys.readouterr()
    assert words in printed.err and printed.err.count("\n") == 1 and printed.out == ""


def test_cuda_without_a_gpu_says_why(capsys):
    from fastgd._cuda import why_unavailable

    if not why_unavailable():
        pytest.skip("there is a GPU")
    assert cli.main(["bench", "--backend", "cuda"]) == 2
    assert "cannot run here" in capsys.readouterr().err


def test_compare_rejects_other_files(tmp_path, capsys):
    other = tmp_path / "other.json"
    other.write_text("[]")
    assert cli.main(["bench", "--compare", str(other)]) == 2
    assert "no file written by" in capsys.readouterr().err


def test_list_and_filter(capsys):
    assert cli.main(["bench", "--list", "robust/(krum|median)/8x16"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["robust/krum/8x16", "robust/median/8x16"]
    assert cli.main(["bench", "--list", "--size", "n=7,d=30", "--dtype", "float64", "--room", "robust"]) == 0
    assert "robust/krum/7x30-f64" in capsys.readouterr().out


def test_bench_writes_the_promised_json(tmp_path, capsys):
    path = tmp_path / "new.json"
    assert cli.main(["bench", "robust/.*/8x16", "--json", str(path), *QUICK]) == 0
    assert "of limit" in capsys.readouterr().out
    record = json.loads(path.read_text())
    assert set(record) == {"machine", "roofs", "results"}
    assert {"cpu", "cores", "threads", "isa", "python", "fastgd", "versions", "date", "commit"} <= set(
        record["machine"]
    )
    assert len(record["results"]) >= 5
    for line in record["results"]:
        assert {
            "room",
            "case",
            "backend",
            "threads",
            "median_s",
            "iqr_s",
            "of_limit",
            "roof",
            "vs_reference",
            "peers",
        } <= set(line)
        assert line["median_s"] > 0 and line["of_limit"] is None and line["roof"] == "call"
    text = path.read_text()
    assert os.uname().nodename not in text.split('"') and str(tmp_path) not in text


def test_json_on_standard_output_is_alone(capsys):
    assert cli.main(["bench", "robust/krum/8x16", "--json", "-", *QUICK]) == 0
    printed = capsys.readouterr()
    assert len(json.loads(printed.out)["results"]) == 1
    assert "of limit" in printed.err


def test_check_times_nothing(capsys):
    assert cli.main(["bench", "--check", "--size", "tiny", "--room", "robust"]) == 0
    printed = capsys.readouterr()
    assert "of the budget" in printed.out and "limits measured" not in printed.out


def test_markdown(capsys):
    assert cli.main(["bench", "robust/krum/8x16", "--markdown", *QUICK]) == 0
    assert "| robust/krum/8x16 |" in capsys.readouterr().out


def test_threads_and_backends_give_a_line_each(capsys):
    pytest.importorskip("fastgd._c")
    assert (
        cli.main(["bench", "robust/krum/8x16", "--backend", "cpu,reference", "--threads", "1,2", "--json", "-", *QUICK])
        == 0
    )
    lines = json.loads(capsys.readouterr().out)["results"]
    assert [(line["backend"], line["threads"]) for line in lines] == [("cpu", 1), ("cpu", 2), ("reference", 1)]


def test_a_wrong_result_fails_the_run(monkeypatch, capsys):
    case = runner.select(lambda name: name == "robust/krum/8x16", sizes=("tiny",))[0]
    wrong = type(case)(**{**vars(case), "run": lambda inputs, backend, num_threads: inputs["x"][0] * 2})
    monkeypatch.setattr(runner, "all_cases", lambda rooms: [wrong])
    assert cli.main(["bench", *QUICK]) == 1
    assert "FAILED" in capsys.readouterr().out


def test_compare_and_fail_over(tmp_path, capsys):
    path = tmp_path / "old.json"
    arguments = ["bench", "robust/krum/8x16", *QUICK]
    assert cli.main([*arguments, "--json", str(path)]) == 0
    record = json.loads(path.read_text())
    for factor, status in ((1e6, 0), (1e-6, 1)):  # the old run a million times slower, a million times faster
        changed = json.loads(json.dumps(record))
        changed["results"][0]["median_s"] *= factor
        path.write_text(json.dumps(changed))
        assert cli.main([*arguments, "--compare", str(path), "--fail-over", "10%"]) == status
        assert ("SLOWER" in capsys.readouterr().out) == bool(status)


def test_plot(tmp_path):
    pytest.importorskip("matplotlib")
    path = tmp_path / "new.png"
    assert cli.main(["bench", "robust/krum/8x16", "--plot", str(path), *QUICK]) == 0
    assert path.stat().st_size > 1000


def test_info(tmp_path, capsys):
    path = tmp_path / "info.json"
    assert cli.main(["info", "--json", str(path)]) == 0
    text = capsys.readouterr().out
    assert __version__ in text and "robust.median" in text and "threads" in text
    record = json.loads(path.read_text())
    assert record["kernels"]["robust.median"]["backends"]["reference"] == "ok"
    assert record["threads"] >= 1 and record["threads_why"]
    assert cli.main(["info", "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["fastgd"] == __version__
    assert cli.main(["info", "--json", "/nowhere/info.json"]) == 2


def test_demo(capsys, monkeypatch):
    assert cli.main(["demo", "no-such-demo"]) == 2
    assert "there is no demo" in capsys.readouterr().err
    assert cli.main(["demo", "--help"]) == 0
    assert "byzantine" in capsys.readouterr().out
    assert cli.main(["demo"]) == 2


def test_bad_environment_is_one_sentence():
    for name, value in (("FASTGD_BACKEND", "gpu"), ("FASTGD_NUM_THREADS", "none"), ("FASTGD_ISA", "v9")):
        done = python("bench", "--size", "tiny", "--check", env={**os.environ, name: value})
        if name == "FASTGD_ISA" and done.returncode == 0:
            continue  # without the C core there is no instruction set to choose
        assert done.returncode == 2, done.stderr
        assert done.stderr.splitlines()[-1].startswith("fastgd: ") and "Traceback" not in done.stderr


def test_broken_pipe_is_quiet():
    process = subprocess.Popen(
        [sys.executable, "-m", "fastgd", "bench", "--list", "."], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(60) == 0


def test_interrupt_is_quiet(monkeypatch, capsys):
    def interrupted(args):
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "run", interrupted)
    assert cli.main(["bench"]) == 128 + signal.SIGINT
    assert "Traceback" not in capsys.readouterr().err
