"""The README's kernel table is the generated one, and every public name stands in it."""

import importlib
import re
from pathlib import Path

import pytest

import fastgd
from fastgd.bench import report

README = Path(__file__).parents[1] / "README.md"
TEXT = README.read_text() if README.exists() else ""

pytestmark = pytest.mark.skipif(report.BEGIN not in TEXT, reason="the README has no kernel table here")


def test_kernel_table_is_the_generated_one():
    inside = TEXT.partition(report.BEGIN)[2].partition(report.END)[0]
    sources = [README.parent / path for path in re.findall(r"\]\((bench/results/[^)]+\.json)\)", inside)]
    assert sources, "the table must name the results it was made from"
    assert report.rewrite(TEXT, report.readme_table(*sources)) == TEXT, (
        "run: python -m fastgd.bench.report README.md "
        + " ".join(str(path.relative_to(README.parent)) for path in sources)
    )


@pytest.mark.parametrize("room", fastgd._ROOMS)
def test_every_public_name_is_mentioned(room):
    missing = [
        name for name in importlib.import_module(f"fastgd.{room}").__all__ if not re.search(rf"\b{name}\b", TEXT)
    ]
    assert not missing
