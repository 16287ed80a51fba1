"""docs/task-types.md: its examples are valid, and no member is missing."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from task_queue_engine.handlers import registry
from task_queue_engine.handlers.email.handler import EmailReceipt
from task_queue_engine.handlers.email.payload import EmailPayload
from task_queue_engine.handlers.export.file import ExportResult
from task_queue_engine.handlers.export.payload import ExportPayload, TaskFilter
from task_queue_engine.handlers.image.handler import ResizedImage, SourceInfo
from task_queue_engine.handlers.image.payload import ImageResize, Source

TEXT = (Path(__file__).parents[2] / "docs" / "task-types.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## ([\w-]+)\n(.*?)(?=^## |\Z)", TEXT, re.M | re.S))


def test_every_task_type_has_its_section() -> None:
    assert set(SECTIONS) == set(registry.names)


@pytest.mark.parametrize("name", SECTIONS)
def test_the_example_is_accepted(name: str) -> None:
    (example,) = re.findall(r"^```json\n(.*?)^```", SECTIONS[name], re.M | re.S)
    task = json.loads(example)
    assert task["type"] == name
    registry.get(name).convert_payload(task["payload"])


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("email", EmailPayload),
        ("email", EmailReceipt),
        ("image-resize", ImageResize),
        ("image-resize", Source),
        ("image-resize", ResizedImage),
        ("image-resize", SourceInfo),
        ("data-export", ExportPayload),
        ("data-export", TaskFilter),
        ("data-export", ExportResult),
    ],
)
def test_every_member_is_described(name: str, shape: Any) -> None:
    members = getattr(shape, "__struct_encode_fields__", None) or shape.__annotations__
    described = set(re.findall(r"`(\w+)`", SECTIONS[name]))
    assert {member for member in members if member != "model_config"} <= described
