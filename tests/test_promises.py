"""Every promise of the README names the tests that hold it, and those tests are there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def table(document: str, heading: str) -> dict[str, str]:
    """First column -> second column of the table under a heading."""
    text = (ROOT / document).read_text(encoding="utf-8")
    (part,) = re.findall(rf"^## {heading}\n(.*?)^## ", text, re.M | re.S)
    rows = re.findall(r"^\| (.+?) \| (.+) \|$", part, re.M)
    assert rows[0][0] == "promise"
    return dict(rows[1:])


PROMISES = table("README.md", "Promises")
TESTS = table("docs/architecture.md", "Promises and their tests")


def test_every_promise_has_its_tests() -> None:
    assert list(TESTS) == list(PROMISES)


@pytest.mark.parametrize("promise", TESTS)
def test_they_exist(promise: str) -> None:
    named = re.findall(r"`(\S+\.py)::(test_\w+)`", TESTS[promise])
    assert named
    for file, name in named:
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        functions = (ast.FunctionDef, ast.AsyncFunctionDef)
        assert name in {node.name for node in ast.walk(tree) if isinstance(node, functions)}, file
