from __future__ import annotations

import os
from ipaddress import ip_network
from pathlib import Path

import pytest

from task_queue_engine.errors import ConfigurationError
from task_queue_engine.handlers.image.settings import ImageSettings


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in os.environ:
        if name.startswith("TQE_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def test_the_defaults_refuse_paths_and_private_networks() -> None:
    settings = ImageSettings()
    assert settings.root is None
    assert settings.directory == Path("images")
    policy = settings.fetch_policy()
    assert policy.max_bytes == 20 * 2**20
    assert policy.addresses.refusal("10.0.0.1", 80) == "a private address"
    assert policy.addresses.refusal("1.1.1.1", 443) is None


def test_variables_and_the_env_file_are_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text("TQE_IMAGE_ROOT=/srv/photos\nTQE_IMAGE_MAX_BYTES=2048\n")
    monkeypatch.setenv("TQE_IMAGE_ALLOW_NETWORKS", "10.1.0.0/16, fd12::/16,")
    monkeypatch.setenv("TQE_IMAGE_PORTS", "443, 8443")
    monkeypatch.setenv("TQE_IMAGE_FETCH_TIMEOUT", "7.5")
    monkeypatch.setenv("TQE_IMAGE_MAX_PIXELS", "")
    settings = ImageSettings()
    assert settings.root == Path("/srv/photos")
    assert settings.max_pixels == 50_000_000
    policy = settings.fetch_policy()
    assert policy.max_bytes == 2048
    assert policy.total_timeout == 7.5
    assert policy.addresses.allow_networks == (ip_network("10.1.0.0/16"), ip_network("fd12::/16"))
    assert policy.addresses.ports == {443, 8443}


@pytest.mark.parametrize(
    ("variable", "value", "complaint"),
    [
        ("TQE_IMAGE_ALLOW_NETWORKS", "10.1.2.3/16", "must be networks such as 10.1.0.0/16"),
        ("TQE_IMAGE_ALLOW_NETWORKS", "intranet", "must be networks such as 10.1.0.0/16"),
        ("TQE_IMAGE_PORTS", "443,https", "valid integer"),
        ("TQE_IMAGE_PORTS", "0", "greater than or equal to 1"),
        ("TQE_IMAGE_MAX_BYTES", "20MB", "valid integer"),
        ("TQE_IMAGE_MAX_PIXELS", "0", "greater than or equal to 1"),
        ("TQE_IMAGE_MAX_MEMORY_BYTES", "1000", "greater than or equal to"),
        ("TQE_IMAGE_CONNECT_TIMEOUT", "0", "greater than 0"),
        ("TQE_IMAGE_READ_TIMEOUT", "nan", "finite"),
        ("TQE_IMAGE_FETCH_TIMEOUT", "soon", "valid number"),
        ("TQE_IMAGE_MAX_REDIRECTS", "-1", "greater than or equal to 0"),
    ],
)
def test_a_wrong_value_names_its_variable(
    variable: str, value: str, complaint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigurationError, match=complaint) as caught:
        ImageSettings()
    assert caught.value.variable == variable
