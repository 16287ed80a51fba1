"""Every promise of the README names the tests that hold it, and those tests are there. That they
fail without what keeps the promise is for `make mutants` to show."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from tests.mutants.mutant import PACKAGE, Mutant
from tests.mutants.mutants import MUTANTS

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


@cache
def functions_of(file: str) -> set[str]:
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name for node in ast.walk(tree) if isinstance(node, functions)}


def named_for(promise: str) -> list[str]:
    return re.findall(r"`(\S+\.py::test_\w+)`", TESTS[promise])


@pytest.mark.parametrize("promise", TESTS)
def test_they_exist(promise: str) -> None:
    assert named_for(promise)
    for file, name in (test.split("::") for test in named_for(promise)):
        assert name in functions_of(file), file


@pytest.mark.parametrize("promise", TESTS)
def test_each_of_them_has_to_fail_for_a_mutant(promise: str) -> None:
    killing = {test for mutant in MUTANTS if mutant.promise == promise for test in mutant.killed_by}
    assert killing == set(named_for(promise))


def test_every_mutant_is_of_a_promise() -> None:
    assert {mutant.promise for mutant in MUTANTS} == set(PROMISES)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: f"{mutant.file}: {mutant.without}")
def test_what_a_mutant_takes_out_is_there_once(mutant: Mutant) -> None:
    text = (ROOT / PACKAGE / mutant.file).read_text(encoding="utf-8")
    assert text.count(mutant.old) == 1
    changed = text.replace(mutant.old, mutant.new)
    assert changed != text
    ast.parse(changed)
