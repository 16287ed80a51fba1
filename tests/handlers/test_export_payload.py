"""What a submission of type `data-export` is refused for."""

from __future__ import annotations

from typing import Any

import pytest

from task_queue_engine.errors import InvalidTask
from task_queue_engine.payloads import to_json_types
from tests.handlers.exporting import accept

ROWS: dict[str, Any] = {"rows": [{"a": 1}]}


@pytest.mark.parametrize(
    "data",
    [
        {"query": "SELECT 1", "parameters": [1, 2.5, "x", None, True]},
        {"query": "SELECT :a", "parameters": {"a": 1}, "format": "jsonl"},
        {"tasks": {}},
        {
            "tasks": {
                "status": "FAILED",
                "type": "email",
                "since": "2030-01-01T00:00:00Z",
                "until": "2030-01-02T00:00:00+01:00",
                "limit": 5,
            }
        },
        {"rows": [[1, 2]], "columns": ["a", "b"], "filename": "report.csv", "overwrite": True},
    ],
)
def test_a_payload_survives_being_stored_and_read_again(data: Any) -> None:
    payload = accept(data)
    assert accept(to_json_types(payload)) == payload


@pytest.mark.parametrize(
    ("data", "field"),
    [
        (None, "payload"),
        ("SELECT 1", "payload"),
        ({}, "payload"),
        ({"rows": [], "tasks": {}}, "payload"),
        ({"rows": [], "query": "SELECT 1"}, "payload"),
        ({"rows": [], "parameters": [1]}, "payload"),
        ({"query": "SELECT 1", "columns": ["a"]}, "payload"),
        ({"query": ""}, "payload.query"),
        ({"query": 1}, "payload.query"),
        ({"query": "SELECT ?", "parameters": "x"}, "payload.parameters"),
        ({"query": "SELECT ?", "parameters": [[1]]}, "payload.parameters"),
        ({"query": "SELECT ?", "parameters": [2**63]}, "payload.parameters"),
        ({"tasks": []}, "payload.tasks"),
        ({"tasks": {"status": "DONE"}}, "payload.tasks.status"),
        ({"tasks": {"since": "2030-01-01T00:00:00"}}, "payload.tasks.since"),
        ({"tasks": {"since": 1893456000}}, "payload.tasks.since"),
        ({"tasks": {"until": "tomorrow"}}, "payload.tasks.until"),
        ({"tasks": {"limit": 0}}, "payload.tasks.limit"),
        ({"tasks": {"queue": "x"}}, "payload.tasks.queue"),
        ({"rows": [1]}, "payload.rows"),
        ({"rows": [{}, []], "columns": ["a"]}, "payload.rows"),
        ({"rows": [[1]]}, "payload.rows"),
        ({"rows": [[1], [1, 2]], "columns": ["a"]}, "payload.rows"),
        ({"rows": [], "columns": ["a", "a"]}, "payload.columns"),
        ({**ROWS, "format": "xml"}, "payload.format"),
        ({**ROWS, "delimiter": "|"}, "payload.delimiter"),
        ({**ROWS, "delimiter": ";", "format": "json"}, "payload"),
        ({**ROWS, "overwrite": "yes"}, "payload.overwrite"),
        ({**ROWS, "path": "/tmp/x"}, "payload.path"),
    ],
)
def test_a_bad_payload_names_its_field(data: Any, field: str) -> None:
    with pytest.raises(InvalidTask) as refused:
        accept(data)
    assert refused.value.field == field


def test_the_row_that_does_not_fit_is_named() -> None:
    with pytest.raises(InvalidTask, match=r"\[1\] has 2 cells where `columns` has 1"):
        accept({"rows": [[1], [1, 2]], "columns": ["a"]})


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        ".hidden",
        "../up",
        "a/b",
        "/etc/passwd",
        "a\\b",
        "a..b",
        "-rf",
        "~root",
        "a\0b",
        "a\nb",
        "a:b",
        "trailing.",
        "trailing ",
        "x" * 195,
        "ü" * 100,
    ],
)
def test_a_file_name_is_a_plain_one(name: str) -> None:
    with pytest.raises(InvalidTask) as refused:
        accept({**ROWS, "filename": name})
    assert refused.value.field == "payload.filename"


@pytest.mark.parametrize(
    ("name", "file_name"),
    [
        (None, "TASK.csv"),
        ("report", "report.csv"),
        ("report.csv", "report.csv"),
        ("Report.CSV", "Report.CSV"),
        # No client gets a page or a program into the folder.
        ("report.html", "report.html.csv"),
        ("Umsätze 2030 (Q1)", "Umsätze 2030 (Q1).csv"),
    ],
)
def test_a_file_has_the_ending_of_its_format(name: str | None, file_name: str) -> None:
    assert accept({**ROWS, "filename": name}).file_name("TASK") == file_name
