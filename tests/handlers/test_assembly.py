"""The default application, and the settings of its task types."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import pytest

from task_queue_engine.errors import ConfigurationError
from task_queue_engine.handlers import assembly, check_settings, image, registry
from task_queue_engine.handlers.email.settings import EmailSettings
from task_queue_engine.handlers.export.settings import ExportSettings
from task_queue_engine.registry import RunsIn


def test_the_registry_holds_the_task_types() -> None:
    assert registry.names == ("data-export", "email", "image-resize")
    assert registry.get("image-resize").runs_in is RunsIn.PROCESS
    assert registry.get("email").runs_in is RunsIn.THREAD
    assert registry.get("data-export").runs_in is RunsIn.TRIO


IMAGE_RESIZE = "task_queue_engine.handlers.image.handler"


def without_module(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """As if `name` could not be imported, and nothing that needs it had been yet."""
    for loaded in list(sys.modules):
        if loaded.startswith("task_queue_engine.handlers.image.") or loaded == "PIL":
            monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.delattr(image, "handler", raising=False)
    monkeypatch.setitem(sys.modules, name, None)


def test_without_pillow_the_log_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    without_module(monkeypatch, "PIL")
    assert assembly._assemble().names == ("data-export", "email")
    assert "install this package with its extra 'images'" in caplog.text


def test_a_defect_in_a_module_is_not_taken_for_a_missing_extra(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    without_module(monkeypatch, IMAGE_RESIZE)
    with pytest.raises(ImportError, match="handler"):
        assembly._assemble()


# --- settings ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environment", "variable"),
    [
        ({"SMTP_HOST": "mail.example.com"}, "SMTP_FROM"),
        ({"SMTP_HOST": "x" * 64 + ".example.com"}, "SMTP_HOST"),
        ({"SMTP_FROM": "nobody"}, "SMTP_FROM"),
        ({"SMTP_FROM": "a@example.com\nBcc: b@example.com"}, "SMTP_FROM"),
        ({"SMTP_PORT": "smtp"}, "SMTP_PORT"),
        ({"SMTP_PORT": "65536"}, "SMTP_PORT"),
        ({"SMTP_SECURITY": "ssl"}, "SMTP_SECURITY"),
        ({"SMTP_TIMEOUT": "0"}, "SMTP_TIMEOUT"),
        ({"SMTP_USERNAME": "ada"}, "SMTP_PASSWORD"),
        ({"SMTP_PASSWORD": "secret"}, "SMTP_PASSWORD"),
        ({"SMTP_USERNAME": "ada", "SMTP_PASSWORD": "geheim-ü"}, "SMTP_PASSWORD"),
        (
            {
                "SMTP_HOST": "mail.example.com",
                "SMTP_FROM": "a@example.com",
                "SMTP_SECURITY": "none",
                "SMTP_USERNAME": "ada",
                "SMTP_PASSWORD": "secret",
            },
            "SMTP_USERNAME",
        ),
        ({"TQE_EXPORT_MAX_ROWS": "0"}, "TQE_EXPORT_MAX_ROWS"),
        ({"TQE_EXPORT_MAX_BYTES": "lots"}, "TQE_EXPORT_MAX_BYTES"),
    ],
)
def test_a_wrong_value_names_its_variable_and_keeps_secrets(
    environment: dict[str, str], variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError) as failed:
        check_settings()
    assert failed.value.variable == variable
    assert "secret" not in str(failed.value)
    assert "\n" not in str(failed.value)


def test_without_any_variable_everything_works() -> None:
    check_settings()
    assert EmailSettings().outbox == Path("outbox")
    assert ExportSettings().directory == Path("exports")


@pytest.mark.parametrize(
    ("security", "port", "used"),
    [("starttls", "", 587), ("tls", "", 465), ("none", "", 25), ("tls", "2465", 2465)],
)
def test_the_port_follows_the_security(
    security: str, port: str, used: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMTP_SECURITY", security)
    monkeypatch.setenv("SMTP_PORT", port)
    assert EmailSettings().smtp_port == used


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "::1"])
def test_a_login_in_the_clear_is_allowed_within_the_machine(
    host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMTP_HOST", host)
    monkeypatch.setenv("SMTP_FROM", "a@example.com")
    monkeypatch.setenv("SMTP_SECURITY", "none")
    monkeypatch.setenv("SMTP_USERNAME", "ada")
    monkeypatch.setenv("SMTP_PASSWORD", "secret")
    assert EmailSettings().username == "ada"


def test_variables_may_come_from_a_dotenv_file(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("SMTP_HOST=mail.example.com\nSMTP_FROM=a@example.com\n")
    assert EmailSettings().host == "mail.example.com"
