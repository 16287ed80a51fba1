"""Where requests go, and what is said when that cannot be."""

from __future__ import annotations

import botocore.session
import pytest

from task_queue_engine.backends.aws.wire.client import AwsClient
from task_queue_engine.backends.aws.wire.endpoints import (
    Endpoint,
    parse_endpoint,
    resolve_endpoints,
)
from task_queue_engine.errors import ConfigurationError
from tests.backends.aws.wire.opened_client import put


async def _addresses(**options) -> tuple[str, str, str]:
    client = AwsClient(**options)
    async with client.open():
        return client.endpoint("sqs"), client.endpoint("dynamodb"), client.region


@pytest.mark.parametrize(
    ("variables", "sqs", "dynamodb"),
    [
        ({}, "https://sqs.eu-central-1.amazonaws.com",
         "https://dynamodb.eu-central-1.amazonaws.com"),
        ({"AWS_REGION": "cn-north-1"}, "https://sqs.cn-north-1.amazonaws.com.cn",
         "https://dynamodb.cn-north-1.amazonaws.com.cn"),
        ({"AWS_USE_FIPS_ENDPOINT": "true", "AWS_REGION": "us-east-1"},
         "https://sqs-fips.us-east-1.amazonaws.com",
         "https://dynamodb-fips.us-east-1.amazonaws.com"),
        ({"AWS_ENDPOINT_URL": "http://here:1"}, "http://here:1", "http://here:1"),
        ({"AWS_ENDPOINT_URL": "http://here:1", "AWS_ENDPOINT_URL_SQS": "http://sqs:2"},
         "http://sqs:2", "http://here:1"),
        ({"AWS_ENDPOINT_URL_DYNAMODB": "https://[::1]:8000/base"},
         "https://sqs.eu-central-1.amazonaws.com", "https://[::1]:8000/base"),
        ({"AWS_ENDPOINT_URL": "http://here:1", "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true"},
         "https://sqs.eu-central-1.amazonaws.com", "https://dynamodb.eu-central-1.amazonaws.com"),
    ],
)  # fmt: skip
async def test_from_the_environment(monkeypatch, variables, sqs, dynamodb):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert (await _addresses())[:2] == (sqs, dynamodb)


@pytest.mark.parametrize(
    "config",
    [
        "[default]\nendpoint_url = http://profile:1\n",
        """[default]
services = own
[services own]
sqs =
  endpoint_url = http://profile:1
dynamodb =
  endpoint_url = http://profile:1
""",
    ],
)
async def test_from_the_profile(tmp_path, config):
    (tmp_path / "config").write_text(config)
    assert (await _addresses())[:2] == ("http://profile:1", "http://profile:1")


async def test_a_region_that_is_none_is_refused_beside_an_endpoint_too(monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://here:1")
    with pytest.raises(ConfigurationError, match=r"^AWS_REGION: .*eu west"):
        await _addresses(region="eu west")


@pytest.mark.parametrize("variables", [{}, {"AWS_ENDPOINT_URL": "http://here:1"}])
async def test_no_client_of_botocore_is_made_for_a_plain_endpoint(monkeypatch, variables):
    # It reads the models of all that a service can do: a tenth of a second, at every start.
    monkeypatch.setattr(botocore.session.Session, "create_client", None)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    await _addresses()


@pytest.mark.parametrize("service", ["sqs", "dynamodb"])
def test_a_plain_endpoint_is_what_botocore_says_in_every_region(service):
    session = botocore.session.Session()
    for partition in session.get_available_partitions():
        for region in session.get_available_regions(service, partition):
            found = resolve_endpoints(session, region, {})[service]
            said = session.create_client(
                service, region_name=region, aws_access_key_id="x", aws_secret_access_key="x"
            )
            assert found.url == said.meta.endpoint_url


async def test_arguments_win(monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://here:1")
    given = {"sqs": "http://a:1", "dynamodb": "http://b:2"}
    assert await _addresses(region="eu-west-3", endpoints=given) == (
        "http://a:1",
        "http://b:2",
        "eu-west-3",
    )


@pytest.mark.parametrize(
    ("variables", "config", "region"),
    [
        ({"AWS_REGION": "eu-west-1", "AWS_DEFAULT_REGION": "eu-west-2"}, "", "eu-west-1"),
        ({"AWS_DEFAULT_REGION": "eu-west-2"}, "[default]\nregion = eu-west-3\n", "eu-west-2"),
        ({}, "[default]\nregion = eu-west-3\n", "eu-west-3"),
        ({"AWS_PROFILE": "work"}, "[profile work]\nregion = eu-west-1\n", "eu-west-1"),
    ],
)
async def test_the_region(monkeypatch, tmp_path, variables, config, region):
    monkeypatch.delenv("AWS_REGION")
    (tmp_path / "config").write_text(config)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert (await _addresses())[2] == region


@pytest.mark.parametrize(
    ("variables", "config", "said"),
    [
        ({"AWS_REGION": ""}, "", "AWS_REGION: not set"),
        ({"AWS_REGION": "eu west"}, "", "AWS_REGION: .*eu west"),
        ({"AWS_PROFILE": "absent"}, "", "AWS_PROFILE: .*absent"),
        ({}, "nonsense", "AWS configuration: .*config"),
        ({"AWS_ENDPOINT_URL": "here:1"}, "", "AWS_ENDPOINT_URL: .*here:1"),
        ({"AWS_ENDPOINT_URL_SQS": "ftp://here"}, "", "AWS_ENDPOINT_URL_SQS: .*ftp://here"),
        ({"AWS_ENDPOINT_URL": "http://"}, "", "AWS_ENDPOINT_URL: "),
        ({"AWS_CA_BUNDLE": "/absent.pem"}, "", "AWS_CA_BUNDLE: .*absent.pem"),
    ],
)
async def test_what_is_wrong_is_said_with_its_name(monkeypatch, tmp_path, variables, config, said):
    (tmp_path / "config").write_text(config)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=f"^{said}"):
        await _addresses()


async def test_an_empty_bundle_of_certificates(monkeypatch, tmp_path):
    (tmp_path / "ca.pem").write_text("no certificate")
    monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "ca.pem"))
    with pytest.raises(ConfigurationError, match="AWS_CA_BUNDLE: cannot read certificates"):
        await _addresses()


async def test_a_folder_of_certificates(monkeypatch, tmp_path):
    monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path))
    await _addresses()


@pytest.mark.parametrize(
    ("url", "host", "port", "path", "header"),
    [
        ("http://a", "a", 80, "/", "a"),
        ("https://a", "a", 443, "/", "a"),
        ("http://a:443", "a", 443, "/", "a:443"),
        ("https://A.Example:8443/", "a.example", 8443, "/", "a.example:8443"),
        ("http://[::1]:4566/x/y", "::1", 4566, "/x/y", "[::1]:4566"),
    ],
)
def test_parsing(url, host, port, path, header):
    endpoint = parse_endpoint(url, region="eu-central-1", variable="X")
    assert endpoint == Endpoint(
        url=url,
        tls=url.startswith("https"),
        host=host,
        port=port,
        path=path,
        region="eu-central-1",
    )
    assert endpoint.host_header == header


@pytest.mark.parametrize(
    "url",
    [
        "", "a", "a:80", "http://", "http://:80", "http://a:port", "http://a:70000", "ftp://a",
        "http://user:pw@a", "http://a?x=1", "http://a#x", "http://a/../b", "http://a/b c",
        "http://a/%2e", "http://a//b", "http://a\r\nX: 1", "http://a/\r\n", "http://[::1",
        "http://\u00e4.example", "http://a b",
    ],
)  # fmt: skip
def test_what_is_no_endpoint(url):
    with pytest.raises(
        ConfigurationError, match=r"^X: must be http\(s\)://host\[:port\]"
    ) as caught:
        parse_endpoint(url, region="eu-central-1", variable="X")
    assert "pw" not in str(caught.value)


async def test_a_path_in_front(server, virtual_clock):
    client = AwsClient(endpoints={"sqs": server.url, "dynamodb": f"{server.url}/base/dynamodb"})
    async with client.open():
        await put(client)
    assert server.requests[0].head == "POST /base/dynamodb HTTP/1.1"
