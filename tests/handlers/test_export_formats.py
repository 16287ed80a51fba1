"""What is in the file, by source and format."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from task_queue_engine.handlers.export.writers import CsvWriter
from task_queue_engine.retry import Discard
from tests.handlers.contexts import AsyncContext
from tests.handlers.exporting import content, export, exported, make_database


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "shop.db"
    make_database(path)
    monkeypatch.setenv("TQE_EXPORT_DATABASE", str(path))
    return path


ORDERS = {"query": "SELECT id, customer, total, note FROM orders ORDER BY id"}


@pytest.mark.usefixtures("database")
async def test_query_as_csv() -> None:
    assert await exported(ORDERS) == (
        b"id,customer,total,note\r\n"
        b"1,Ada,12.5,AP8=\r\n"
        b"2,J\xc3\xb6rg,-3.0,\r\n"
        b'3,\'=1+1,,"said ""hi"", left"\r\n'
    )


EXPECTED = [
    {"id": 1, "customer": "Ada", "total": 12.5, "note": "AP8="},
    {"id": 2, "customer": "Jörg", "total": -3.0, "note": None},
    # JSON has no infinity, and needs no apostrophes.
    {"id": 3, "customer": "=1+1", "total": None, "note": 'said "hi", left'},
]


@pytest.mark.usefixtures("database")
async def test_query_as_json() -> None:
    assert json.loads(await exported({**ORDERS, "format": "json"})) == EXPECTED


@pytest.mark.usefixtures("database")
async def test_query_as_json_lines() -> None:
    written = await exported({**ORDERS, "format": "jsonl"})
    assert [json.loads(line) for line in written.splitlines()] == EXPECTED
    assert written.endswith(b"\n")


OBJECTS = {"rows": [{"a": 1, "b": True}, {"b": None, "c": [1, {"d": "@"}]}]}


async def test_objects_become_the_columns_that_occur() -> None:
    assert await exported(OBJECTS) == (b'a,b,c\r\n1,true,\r\n,,"[1,{""d"":""@""}]"\r\n')
    assert json.loads(await exported({**OBJECTS, "format": "json"})) == [
        {"a": 1, "b": True, "c": None},
        {"a": None, "b": None, "c": [1, {"d": "@"}]},
    ]


async def test_columns_choose_and_order_the_members_of_objects() -> None:
    assert await exported({**OBJECTS, "columns": ["b", "a"]}) == b"b,a\r\ntrue,1\r\n,\r\n"


async def test_lists_take_their_names_from_columns() -> None:
    data = {"rows": [[1, "x"], [2, "y"]], "columns": ["n", "t"]}
    assert await exported(data) == b"n,t\r\n1,x\r\n2,y\r\n"
    lines = (await exported({**data, "format": "jsonl"})).splitlines()
    assert [json.loads(line) for line in lines] == [{"n": 1, "t": "x"}, {"n": 2, "t": "y"}]


@pytest.mark.parametrize(
    ("form", "document"), [("csv", b"a\r\n"), ("json", b"[]\n"), ("jsonl", b"")]
)
async def test_no_rows_are_still_a_whole_document(form: str, document: bytes) -> None:
    assert await exported({"rows": [], "columns": ["a"], "format": form}) == document


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize("form", ["json", "jsonl"])
async def test_json_would_lose_a_column_of_the_same_name_and_refuses(form: str) -> None:
    query = "SELECT 1 AS a, 2 AS a"
    with pytest.raises(Discard, match="'a'"):
        await export({"query": query, "format": form})
    assert await exported({"query": query}) == b"a,a\r\n1,2\r\n"


async def test_the_result_describes_the_file() -> None:
    context = AsyncContext()
    result = await export({"rows": [{"a": "ü"}], "format": "jsonl"}, context)
    written = content(result.path)
    assert Path(result.path) == Path.cwd() / "exports" / f"{context.task_id}.jsonl"
    assert result.rows == 1
    assert result.bytes == len(written) == 11
    assert result.format == "jsonl"
    assert result.sha256 == hashlib.sha256(written).hexdigest()


# --- formulas ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "evil",
    [
        "=HYPERLINK(1)",
        "+1",
        "-1",
        "@SUM(A1)",
        "\tx",
        "\r1",
        "\n1",
        "\uff1d1",
        '=cmd|"/c calc"!A1',
        "-2+3,x",
    ],
)
async def test_text_that_is_a_formula_gets_an_apostrophe(evil: str) -> None:
    # As a cell, as a column's name, and after a separator.
    written = await exported({"rows": [{"a": 1, evil: evil}]})
    assert list(csv.reader(io.StringIO(written.decode(), newline=""))) == [
        ["a", f"'{evil}"],
        ["1", f"'{evil}"],
    ]


async def test_numbers_stay_numbers() -> None:
    written = await exported({"rows": [[-1, -2.5, 10**20]], "columns": ["a", "b", "c"]})
    assert written == b"a,b,c\r\n-1,-2.5,100000000000000000000\r\n"


@given(
    st.lists(
        st.lists(
            st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
            min_size=2,
            max_size=2,
        )
    )
)
def test_csv_reads_back_as_it_was_but_for_the_apostrophes(rows: list[list[str]]) -> None:
    written = as_csv(rows, ",")
    read = list(csv.reader(io.StringIO(written, newline="")))[1:]
    assert len(read) == len(rows)
    for got, meant in zip(read, rows, strict=True):
        for cell, text in zip(got, meant, strict=True):
            assert cell.replace("'", "") == text.replace("'", "")
            assert not cell.startswith(("=", "+", "-", "@", "\t", "\r"))


CELLS = st.lists(st.sampled_from(list("=+-@,;\t\r\n\"'x1 \uff1d"))).map("".join)
VALUES = CELLS | st.lists(CELLS) | st.dictionaries(CELLS, CELLS)


@given(st.lists(st.tuples(VALUES, VALUES)), st.sampled_from([",", ";", "\t"]))
@example([("x;=1+1;y", "x")], ",")
@example([("x", "x\n=1+1;y")], ",")
@example([("x", ["x;=1+1"])], ",")
@example([("x,=1+1", ["=1+1"])], ";")
def test_no_spreadsheet_of_another_language_finds_a_formula(
    rows: list[tuple[Any, Any]], delimiter: Any
) -> None:
    written = as_csv(rows, delimiter)
    # Torn apart at the other characters, whatever is quoted.
    torn = re.split(f"[{''.join({',', ';', chr(9)} - {delimiter})}\r\n]", written)
    assert [cell for cell in torn if cell.lstrip('"').startswith(tuple("=+-@\uff1d"))] == []
    read = list(csv.reader(io.StringIO(written, newline=""), delimiter=delimiter))[1:]
    for got, meant in zip(read, rows, strict=True):
        for cell, value in zip(got, meant, strict=True):
            if not isinstance(value, str):
                assert json.loads(cell) == value


async def test_the_delimiter_can_be_chosen() -> None:
    data = {"rows": [[1, "a;b"], [2.5, "c,d"]], "columns": ["n", "t"]}
    assert await exported({**data, "delimiter": ";"}) == b'n;t\r\n1;"a;b"\r\n2.5;c,d\r\n'
    assert await exported({**data, "delimiter": "\t"}) == b"n\tt\r\n1\ta;b\r\n2.5\tc,d\r\n"


def as_csv(rows: Any, delimiter: Any) -> str:
    sink = io.BytesIO()
    writer = CsvWriter(_Sink(sink), ("a", "b"), delimiter)
    writer.begin()
    for row in rows:
        writer.write(row)
    writer.end()
    return sink.getvalue().decode()


class _Sink:
    def __init__(self, file: Any) -> None:
        self._file = file

    def write(self, data: bytes, /) -> None:
        self._file.write(data)
