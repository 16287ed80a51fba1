"""Settings from the environment: what they mean, and one clear line for what is wrong."""

from __future__ import annotations

import os
from pathlib import Path

import pydantic
import pytest

from task_queue_engine import ConfigurationError, Settings

KEY = "0123456789abcdef"


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in os.environ:
        if name.startswith(("TQE_", "SQS_", "AWS_", "DYNAMODB_")) or name in (
            "WORKER_COUNT",
            "PORT",
        ):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def test_without_any_the_defaults_are_those_of_the_old_service() -> None:
    settings = Settings()
    assert (settings.worker_count, settings.port) == (5, 8080)
    assert (settings.host, settings.database, settings.queue) == (
        "127.0.0.1",
        "tasks.db",
        "default",
    )
    assert (settings.visibility_timeout, settings.shutdown_grace) == (30, 25)
    assert settings.api_keys == ()
    assert not settings.uses_aws


def test_the_environment_sets_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKER_COUNT", "12")
    monkeypatch.setenv("TQE_DATABASE", "/data/other.db")
    monkeypatch.setenv("TQE_SHUTDOWN_GRACE", "2.5")
    monkeypatch.setenv("SQS_QUEUE_URL", "https://sqs.eu-west-1.amazonaws.com/1/q")
    settings = Settings()
    assert settings.worker_count == 12
    assert settings.database == "/data/other.db"
    assert settings.shutdown_grace == 2.5
    assert settings.uses_aws


def test_python_sets_them_by_field_and_before_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WORKER_COUNT", "12")
    assert Settings(worker_count=3).worker_count == 3


def test_a_dot_env_file_sets_them_and_the_environment_comes_before_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text("WORKER_COUNT=7\nTQE_QUEUE=mail\nSOMETHING_ELSE=1\n")
    monkeypatch.setenv("TQE_QUEUE", "other")
    settings = Settings()
    assert (settings.worker_count, settings.queue) == (7, "other")


def test_an_empty_variable_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKER_COUNT", "")
    monkeypatch.setenv("SQS_QUEUE_URL", "")
    monkeypatch.setenv("TQE_API_KEYS", "")
    settings = Settings()
    assert settings.worker_count == 5
    assert not settings.uses_aws
    assert settings.api_keys == ()


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("WORKER_COUNT", "0"),
        ("WORKER_COUNT", "-1"),
        ("WORKER_COUNT", "many"),
        ("WORKER_COUNT", "2.5"),
        ("WORKER_COUNT", "1000000"),
        ("PORT", "65536"),
        ("PORT", "http"),
        ("TQE_QUEUE", "no spaces"),
        ("TQE_QUEUE", "x" * 81),
        ("TQE_DYNAMODB_WRITES", "bulk"),
        ("TQE_API_KEYS", "short"),
        ("TQE_API_KEYS", f"{KEY},short"),
        ("TQE_ALLOW_PUBLIC_WITHOUT_KEYS", "perhaps"),
        ("TQE_MAX_BODY_BYTES", "10"),
        ("TQE_REQUEST_TIMEOUT", "0"),
        ("TQE_MAX_ATTEMPTS", "0"),
        ("TQE_MAX_ATTEMPTS", "1001"),
        ("TQE_TASK_TIMEOUT", "-3"),
        ("TQE_TASK_TIMEOUT", "nan"),
        ("TQE_TASK_TIMEOUT", "inf"),
        ("TQE_PREFETCH", "-1"),
        ("TQE_BATCH_LINGER", "1.5"),
        ("TQE_VISIBILITY_TIMEOUT", "0.5"),
        ("TQE_VISIBILITY_TIMEOUT", "43201"),
        ("TQE_POLL_WAIT", "0"),
        ("TQE_POLL_WAIT", "21"),
        ("TQE_SHUTDOWN_GRACE", "-1"),
        ("TQE_SHUTDOWN_GRACE", "nan"),
        ("TQE_RETENTION", "-1"),
        ("TQE_RETENTION", "nan"),
        ("TQE_RETENTION", "inf"),
        ("TQE_RETENTION", "1e300"),
        ("TQE_LOG_LEVEL", "LOUD"),
    ],
)
def test_a_wrong_value_is_one_line_that_names_the_variable_and_not_the_value(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigurationError) as caught:
        Settings()
    assert caught.value.variable == variable
    said = str(caught.value)
    assert said.startswith(f"{variable}: ")
    assert "\n" not in said
    assert len(said) > len(variable) + 10
    if variable == "TQE_API_KEYS":
        assert "short" not in said, "no secrets in logs"


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("WORKER_COUNT", "1"),
        ("PORT", "0"),
        ("TQE_SHUTDOWN_GRACE", "0"),
        ("TQE_VISIBILITY_TIMEOUT", "43200"),
        ("TQE_POLL_WAIT", "0.1"),
        ("TQE_BATCH_LINGER", "0"),
        ("TQE_RETENTION", "31536000"),
    ],
)
def test_a_value_at_its_limit_is_taken(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    Settings()


def test_a_wrong_value_in_python_names_the_variable_too() -> None:
    with pytest.raises(ConfigurationError, match=r"^WORKER_COUNT: "):
        Settings(worker_count=0)


def test_api_keys_are_a_list_and_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TQE_API_KEYS", f" {KEY} , {KEY}2,, ")
    settings = Settings()
    assert [key.get_secret_value() for key in settings.api_keys] == [KEY, f"{KEY}2"]
    assert KEY not in repr(settings)
    assert [key.get_secret_value() for key in Settings(api_keys=[KEY]).api_keys] == [KEY]


def test_settings_do_not_change() -> None:
    with pytest.raises(pydantic.ValidationError):
        Settings().worker_count = 3  # type: ignore[misc] # the point


def test_a_key_that_is_not_utf_8(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TQE_API_KEYS", os.fsdecode(b"sixteen-characters-\xff"))
    with pytest.raises(ConfigurationError, match=r"^TQE_API_KEYS: each key must be UTF-8 text"):
        Settings()
