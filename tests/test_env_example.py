"""`.env.example` and the container files name the settings there are, with their real defaults.

A misspelt variable is not an error anywhere: it would be ignored, and the default taken.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import AliasChoices
from pydantic_settings import BaseSettings

from task_queue_engine.cli.settings import CommandSettings
from task_queue_engine.config import Settings
from task_queue_engine.handlers.email.settings import EmailSettings
from task_queue_engine.handlers.export.settings import ExportSettings
from task_queue_engine.handlers.image.settings import ImageSettings

SETTINGS_CLASSES: list[type[BaseSettings]] = [
    Settings,
    CommandSettings,
    EmailSettings,
    ImageSettings,
    ExportSettings,
]
"""Everything that reads the environment; handlers with settings of their own belong here too."""

EXAMPLES_ONLY = {
    "AWS_REGION",
    "SQS_QUEUE_URL",
    "SQS_DLQ_URL",
    "DYNAMODB_TABLE",
    "SMTP_HOST",
    "SMTP_USERNAME",
    "SMTP_PASSWORD",
    "SMTP_FROM",
}
"""Unset by default: the file shows what a value looks like."""

ROOT = Path(__file__).parents[1]


def _variable_names(cls: type[BaseSettings]) -> dict[str, str]:
    """Field name -> environment variable."""
    names = {}
    for field, info in cls.model_fields.items():
        alias = info.validation_alias
        if isinstance(alias, AliasChoices):
            [alias] = alias.choices
        prefix = cls.model_config.get("env_prefix", "")
        names[field] = alias if isinstance(alias, str) else f"{prefix}{field}".upper()
    return names


def _shown() -> dict[str, str]:
    text = (ROOT / ".env.example").read_text(encoding="utf-8")
    pairs = re.findall(r"^#?([A-Z][A-Z0-9_]*)=(.*)$", text, flags=re.MULTILINE)
    names = [name for name, _ in pairs]
    assert len(names) == len(set(names)), "a variable is shown twice"
    return dict(pairs)


KNOWN = {name for cls in SETTINGS_CLASSES for name in _variable_names(cls).values()}


def test_it_shows_exactly_the_variables_there_are() -> None:
    shown = set(_shown())
    assert shown - KNOWN == set(), "shown, but no setting reads it"
    assert KNOWN - shown == set(), "a setting, but not shown"


@pytest.mark.parametrize("cls", SETTINGS_CLASSES)
def test_the_values_shown_are_the_defaults(
    cls: type[BaseSettings], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)  # away from a .env file of this machine
    names = _variable_names(cls)
    for name in KNOWN:
        monkeypatch.delenv(name, raising=False)
    default: dict[str, Any] = cls().model_dump()
    for name, value in _shown().items():
        if name not in EXAMPLES_ONLY:
            monkeypatch.setenv(name, value)
    as_shown: dict[str, Any] = cls().model_dump()
    assert {names[f]: v for f, v in as_shown.items()} == {names[f]: v for f, v in default.items()}


def test_the_whole_file_is_accepted_with_every_line_switched_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in KNOWN:
        monkeypatch.delenv(name, raising=False)
    text = (ROOT / ".env.example").read_text(encoding="utf-8")
    (tmp_path / ".env").write_text(re.sub(r"^#(?=[A-Z][A-Z0-9_]*=)", "", text, flags=re.MULTILINE))
    monkeypatch.chdir(tmp_path)
    for cls in SETTINGS_CLASSES:
        cls()
    assert Settings().sqs_queue_url == _shown()["SQS_QUEUE_URL"]


@pytest.mark.parametrize(
    "file",
    [
        "Dockerfile",
        "docker-compose.yml",
        "docker-compose.aws.yml",
        ".github/workflows/ci.yml",
        ".github/workflows/nightly.yml",
    ],
)
def test_no_other_file_sets_a_variable_that_does_not_exist(file: str) -> None:
    text = (ROOT / file).read_text(encoding="utf-8")
    named = set(re.findall(r"\bTQE_[A-Z0-9_]+", text))
    assert named
    assert named - KNOWN - {"TQE_TEST_SERVERS", "TQE_TEST_PIP"} == set()  # the tests' own


@pytest.mark.parametrize("file", ["docker-compose.yml", "docker-compose.aws.yml"])
def test_a_container_is_given_longer_to_stop_than_the_engine_takes(file: str) -> None:
    text = (ROOT / file).read_text(encoding="utf-8")
    found = re.search(r"^\s*stop_grace_period: (\d+)s$", text, flags=re.MULTILINE)
    assert found
    default = {name: field.default for name, field in Settings.model_fields.items()}
    assert int(found[1]) > default["shutdown_grace"] + default["shutdown_flush"]
