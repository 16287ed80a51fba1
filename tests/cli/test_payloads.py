"""The PAYLOAD argument."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest

from task_queue_engine.cli.payloads import read_payload
from task_queue_engine.errors import InvalidTask


def read(text: str, stdin: bytes = b"") -> Any:
    return read_payload(text, io.BytesIO(stdin))


@pytest.mark.parametrize(
    ("text", "payload"),
    [
        ('{"to": ["a@b.example"]}', {"to": ["a@b.example"]}),
        (" [1, 2.5, null] ", [1, 2.5, None]),
        ("5", 5),
        ("true", True),
        ("null", None),
        ('"5"', "5"),
        ("user@example.com", "user@example.com"),
        ("two words", "two words"),
        ("5 apples", "5 apples"),
        ("NaN", "NaN"),
        ("", ""),
        ("Grüße", "Grüße"),
        ("https://example.com/a.png", "https://example.com/a.png"),
    ],
)
def test_json_or_a_word_that_stands_for_itself(text: str, payload: object) -> None:
    assert read(text) == payload


@pytest.mark.parametrize("text", ['{"to"', "[1,", '"open', "{'to': 1}", '{"to": NaN}'])
def test_a_slip_in_json_does_not_make_it_text(text: str) -> None:
    with pytest.raises(InvalidTask, match="payload: is not valid JSON"):
        read(text)


def test_stdin_and_files_hold_json(tmp_path: Path) -> None:
    assert read("-", b'{"a": 1}\n') == {"a": 1}
    (tmp_path / "order.json").write_text('{"ü": 2}\n', encoding="utf-8")
    assert read("@order.json") == {"ü": 2}
    assert read(f"@{tmp_path}/order.json") == {"ü": 2}


def test_what_they_hold_is_never_taken_for_a_word(tmp_path: Path) -> None:
    (tmp_path / "order.txt").write_text("hello")
    with pytest.raises(InvalidTask, match=r"payload \(from order\.txt\): is not valid JSON"):
        read("@order.txt")
    for stdin in (b"hello", b"", b"\xff"):
        with pytest.raises(InvalidTask, match=r"payload \(from stdin\): "):
            read("-", stdin)


@pytest.mark.parametrize("name", ["nothing.json", ".", "", "a\0b"])
def test_a_file_that_cannot_be_read_is_named(name: str) -> None:
    with pytest.raises(InvalidTask, match="payload: cannot read the file") as caught:
        read(f"@{name}")
    assert repr(name) in str(caught.value)


def test_an_argument_that_is_not_utf_8() -> None:
    with pytest.raises(InvalidTask, match="payload"):
        read('"\udcff"')
