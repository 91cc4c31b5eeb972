"""House rules that can be read off the tree: flags, exported symbols, docstrings, sizes."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import shutil
import subprocess
from pathlib import Path

import pytest

import fastgd
from fastgd import robust

ROOT = Path(__file__).resolve().parent.parent
PYTHON = sorted(
    path for folder in ("fastgd", "tests", "bench", "examples", "csrc") for path in (ROOT / folder).rglob("*.py")
)
SOURCES = [*PYTHON, *sorted((ROOT / "csrc").rglob("*.[ch]")), *ROOT.glob("*.py"), ROOT / "pyproject.toml"]
#: Text that must not stand in the code of the package: each would break a promise of the README.
FORBIDDEN = {
    "parallel=True": r"parallel\s*=\s*True",
    "fastmath": r"fastmath\s*=",
    "-ffast-math": r"-ffast-math|-Ofast|-ffinite-math|-funsafe-math",
    "contraction": r"-ffp-contract=(fast|on)",
    "pickle of bytes": r"\bpickle\.loads?\b|allow_pickle",
    "exec": r"(?<![\w.])exec\(",
    "eval": r"(?<![\w.])eval\(",
    "OpenMP": r"-fopenmp|#pragma omp|prange",
    "shell": r"shell\s*=\s*True|os\.system",
    "global seed": r"np\.random\.(seed|rand|randn|random|normal)\(",
    "native": r"-march=native|-mtune=native",
}
ROOMS = [
    name
    for name in ("robust", "random", "dro", "sinkhorn", "optim.federated")
    if (ROOT / "fastgd" / name.replace(".", "/")).is_dir() or (ROOT / "fastgd" / f"{name}.py").exists()
]


def public(room: str) -> list[tuple[str, object]]:
    module = importlib.import_module(f"fastgd.{room}")
    return [(name, getattr(module, name)) for name in module.__all__]


FUNCTIONS = [(room, name, value) for room in ROOMS for name, value in public(room) if inspect.isroutine(value)]
functions = pytest.mark.parametrize(
    "room, name, function", FUNCTIONS, ids=[f"{room}.{name}" for room, name, _ in FUNCTIONS]
)


def test_forbidden_text() -> None:
    for path in (*(ROOT / "fastgd").rglob("*.py"), *(ROOT / "csrc").rglob("*"), ROOT / "setup.py"):
        if path.suffix in (".py", ".c", ".h"):
            code = path.read_text()
            if path.suffix == ".py":  # docstrings and comments may say what we do not do
                code = "\n".join(ast.unparse(node) for node in ast.parse(code).body)
                code = re.sub(r'""".*?"""|\'\'\'.*?\'\'\'|""".*', "", code, flags=re.DOTALL)
            else:
                code = re.sub(r"/\*.*?\*/|//[^\n]*", "", code, flags=re.DOTALL)
            assert not [name for name, pattern in FORBIDDEN.items() if re.search(pattern, code)], path


def test_no_assert_guards_the_package() -> None:
    """`python -O` drops assert statements: checks are `raise`s."""
    for path in (ROOT / "fastgd").rglob("*.py"):
        found = [node.lineno for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Assert)]
        assert not found, (path, found)


def lines_of_code(tree: ast.AST, first: int, last: int) -> int:
    """Lines from `first` to `last` that belong to no docstring inside `tree`."""
    count = last - first + 1
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(
            node
        ):
            count -= node.body[0].end_lineno - node.body[0].lineno + 1
    return count


def test_sizes() -> None:
    """Docstrings aside, a file above 300 lines asks to be a folder and a function above 60 to be two."""
    for path in (ROOT / "fastgd").rglob("*.py"):
        text = path.read_text()
        tree = ast.parse(text)
        assert lines_of_code(tree, 1, len(text.splitlines())) <= 300, path
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                inner = [child for child in node.body if isinstance(child, ast.FunctionDef)]  # each counts for itself
                size = lines_of_code(node, node.lineno, node.end_lineno)
                size -= sum(lines_of_code(child, child.lineno, child.end_lineno) for child in inner)
                assert size <= 65, (path, node.name)


def test_text_files_are_clean() -> None:
    for path in SOURCES:
        text = path.read_bytes().decode("utf-8")
        assert "\r" not in text and "\t" not in text and "\ufeff" not in text, path
        assert not text or text.endswith("\n"), path
        assert not re.search(r"[ ]+$", text, re.MULTILINE), path
        assert path.suffix == ".py" or max(map(len, text.splitlines()), default=0) <= 130, path  # Python: see ruff
        assert not re.search(r"\b(TODO|FIXME|XXX|HACK)\b", text) or path == Path(__file__).resolve(), path


def test_imports_follow_the_plan() -> None:
    """reference.py shares no code with the kernels; Numba is imported at the top by cuda*.py alone, torch by nobody."""
    for path in (ROOT / "fastgd").rglob("*.py"):
        at_top = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.Import | ast.ImportFrom)]
        names = {alias.name for node in at_top if isinstance(node, ast.Import) for alias in node.names}
        names |= {("." * node.level) + (node.module or "") for node in at_top if isinstance(node, ast.ImportFrom)}
        roots = {name.split(".")[0] for name in names}
        assert not roots & {"torch", "cupy", "jax", "pytest"}, path
        if "numba" in roots:
            assert path.name.startswith(("cuda", "_cuda")), path
        if path.name == "reference.py":
            assert not {name for name in names if name.endswith((".cpu", ".cuda", ".network", "_native", "_c"))}, path


# ---------------------------------------------------------------------------------------------------- the C library


def library() -> Path:
    found = sorted((Path(fastgd.__file__).parent).glob("_c*.so"))
    assert found, "the C core is not built"
    return found[0]


@pytest.mark.skipif(not shutil.which("nm"), reason="needs nm of the binutils")
def test_exported_symbols() -> None:
    """Nothing but the module's entry: two libraries in one process can never mix up their kernels."""
    listing = subprocess.run(
        ["nm", "-D", "--defined-only", library()], capture_output=True, text=True, check=True
    ).stdout
    assert {line.split()[-1] for line in listing.splitlines()} <= {
        "PyInit__c",
        "_init",
        "_fini",
        "_edata",
        "_end",
        "__bss_start",
    }


@pytest.mark.skipif(not shutil.which("objdump"), reason="needs objdump of the binutils")
def test_vector_instructions_stay_in_their_clones() -> None:
    """A function outside the AVX clones that used AVX would be an illegal instruction on an older CPU."""
    listing = subprocess.run(
        ["objdump", "-d", "--no-show-raw-insn", library()], capture_output=True, text=True, check=True
    ).stdout
    functions = re.split(r"^[0-9a-f]+ <(.+)>:$", listing, flags=re.MULTILINE)[1:]
    found = {
        name
        for name, body in zip(functions[::2], functions[1::2], strict=True)
        if not re.search(r"_v[34]\b", name) and re.search(r"\tv[a-z0-9]+ .*%[xyz]mm", body)
    }
    assert len(functions) > 100 and not found


@pytest.mark.skipif(not shutil.which("nm"), reason="needs nm of the binutils")
def test_needed_symbols() -> None:
    """No OpenMP, no exit or abort, no printing: a library reports through its return values."""
    listing = subprocess.run(
        ["nm", "-D", "--undefined-only", library()], capture_output=True, text=True, check=True
    ).stdout
    needed = {line.split()[-1].split("@")[0] for line in listing.splitlines()}
    sanitized = any("asan" in name or "ubsan" in name for name in needed)
    assert not {name for name in needed if name.startswith(("GOMP_", "omp_", "pthread_create"))}
    assert sanitized or not needed & {
        "exit",
        "_exit",
        "abort",
        "system",
        "rand",
        "srand",
        "random",
        "printf",
        "puts",
        "fopen",
        "longjmp",
    }


def test_every_c_function_is_declared_and_used() -> None:
    header = (ROOT / "csrc" / "fastgd.h").read_text()
    declared = set(re.findall(r"\b(fgd_\w+)\(", header.split("cdef begin")[1].split("cdef end")[0]))
    python = "\n".join(path.read_text() for path in (ROOT / "fastgd").rglob("*.py"))
    assert declared
    assert not {name for name in declared if not re.search(rf"\blib\.{name}\b", python)}, (
        "declared, but no Python calls it"
    )


# ------------------------------------------------------------------------------------------------------- docstrings


def sections(function: object) -> dict[str, str]:
    """Title -> text of a NumPy-style docstring."""
    parts = re.split(r"^(\w[\w ]*)\n-{3,}$", inspect.getdoc(function), flags=re.MULTILINE)
    return {"Summary": parts[0].strip()} | {
        title: text.strip() for title, text in zip(parts[1::2], parts[2::2], strict=True)
    }


@functions
def test_docstrings_are_complete(room: str, name: str, function) -> None:
    doc = sections(function)
    wanted = {"Summary", "Parameters", "Returns", "Raises", "Notes", "References", "Examples"}
    assert set(doc) >= wanted - (set() if inspect.signature(function).parameters else {"Parameters"})
    assert all(doc.values())
    assert doc["Summary"].splitlines()[0].endswith((".", ":")) or "." in doc["Summary"]
    assert "Cost:" in doc["Notes"]
    assert re.search(r"Deterministic|deterministic|same bits", doc["Notes"])
    assert ">>>" in doc["Examples"]
    assert re.search(r"\(\d{4}\)|\d{4}", doc["References"]), "a reference has a year"


@functions
def test_docstrings_name_every_parameter(room: str, name: str, function) -> None:
    documented = re.findall(r"^(\*{0,2}\w+(?:, \*{0,2}\w+)*) : ", sections(function).get("Parameters", ""), flags=re.MULTILINE)
    names = [part.strip("* ") for entry in documented for part in entry.split(",")]
    assert names == list(inspect.signature(function).parameters)


@pytest.mark.parametrize(
    "room, name, function", [entry for entry in FUNCTIONS if entry[0] == "robust"], ids=lambda value: str(value)[:20]
)
def test_signatures(room: str, name: str, function) -> None:
    """Data first; everything that has a default is keyword-only; backend last but for num_threads."""
    parameters = inspect.signature(function).parameters
    parameters = {name: p for name, p in parameters.items() if p.kind is not p.VAR_KEYWORD}  # passed on by name
    assert all(p.default is p.empty or p.kind is p.KEYWORD_ONLY for p in parameters.values())
    assert parameters["backend"].default is None and parameters["out"].default is None
    assert list(parameters)[-1] in ("backend", "num_threads")
    assert all(p.annotation is not p.empty for p in parameters.values())


def test_public_names_are_documented_and_listed() -> None:
    for room in ROOMS:
        module = importlib.import_module(f"fastgd.{room}")
        assert module.__doc__ and len(module.__all__) == len(set(module.__all__))
        for name, value in public(room):
            assert inspect.getdoc(value), f"{room}.{name}"
            assert not name.startswith("_")
    for name in fastgd.__all__:
        assert name == "__version__" or inspect.getdoc(getattr(fastgd, name)), name
    assert {
        "KrumInfo",
        "combine",
        "krum",
        "krum_scores",
        "mean",
        "median",
        "multikrum",
        "pairwise_sqdist",
        "trimmed_mean",
    } <= set(robust.__all__)
    assert issubclass(fastgd.BackendError, NotImplementedError)
    assert robust.KrumInfo._fields == ("selected", "scores", "bad_rows")


def test_the_type_marker_ships() -> None:
    assert (Path(fastgd.__file__).parent / "py.typed").exists()
    assert re.fullmatch(r"\d+\.\d+\.\d+", fastgd.__version__)
