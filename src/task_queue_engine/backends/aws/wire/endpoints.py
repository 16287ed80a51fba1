"""Where the services are."""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import botocore.exceptions
import botocore.httpsession

from task_queue_engine.backends.aws.wire.proxies import Proxy, find_proxy
from task_queue_engine.errors import ConfigurationError

Service = Literal["sqs", "dynamodb"]
_URL = re.compile(
    r"(?P<scheme>https?)://(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:(?P<port>[0-9]{1,5}))?"
    # No path but one that signing would leave as it is.
    r"(?P<path>(/(?!\.{1,2}(/|$))[A-Za-z0-9._~-]+)*/?)"
)
# The partitions' names, as botocore lists them (partitions.json).
AWS_DOMAINS = (
    r"(?:amazonaws\.(?:com(?:\.cn)?|eu)|amazonwebservices\.(?:com\.cn|eu)|api\.aws|c2s\.ic\.gov"
    r"|sc2s\.sgov\.gov|csp\.hci\.ic\.gov|cloud(?:-aws)?\.adc-e\.uk|aws\.(?:ic|hci\.ic)\.gov|aws\.scloud)"
)
_AWS_OWN = re.compile(rf"\.{AWS_DOMAINS}$")
# Regions of AWS proper, as botocore knows them (partitions.json), and not those of China, of
# governments or apart from the Internet, whose endpoints have other names.
_COMMERCIAL = re.compile(r"(us|eu|ap|sa|ca|me|af|il|mx)-[a-z]+-[0-9]+")
_REGION = re.compile(r"[A-Za-z0-9-]{1,63}")
# What else changes an endpoint, or what is made of the variables.
_MORE_SETTINGS = ("use_fips_endpoint", "use_dualstack_endpoint", "ignore_configured_endpoint_urls")
SERVICES: tuple[Service, ...] = ("sqs", "dynamodb")


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One service's address, and the region its requests are signed for."""

    url: str
    tls: bool
    host: str
    port: int
    path: str
    region: str
    proxy: Proxy | None = None

    @property
    def authority(self) -> str:
        """host:port"""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def host_header(self) -> str:
        """As it is sent and signed (RFC 9110, section 7.2): without a scheme's own port."""
        own_port = ":443" if self.tls else ":80"
        return self.authority.removesuffix(own_port)


def setting_behind(service: Service, url: str) -> str:
    """The variable to look at where a service's endpoint is not the right one: what set it, or the
    region where nothing did."""
    if is_aws(url):
        return "AWS_REGION"
    specific = f"AWS_ENDPOINT_URL_{service.upper()}"
    return specific if os.environ.get(specific) else "AWS_ENDPOINT_URL"


def is_aws(url: str) -> bool:
    """Whether it is an address of AWS's own, which needs no setting."""
    return bool(_AWS_OWN.search(urlsplit(url).hostname or ""))


def parse_endpoint(url: str, *, region: str, variable: str) -> Endpoint:
    """
    Raises:
        ConfigurationError: naming `variable`, for anything but http(s)://host[:port][/path]; naming
            HTTPS_PROXY.
    """
    parts = _URL.fullmatch(url)
    port = int(parts["port"] or (443 if parts["scheme"] == "https" else 80)) if parts else 0
    if parts is None or not 0 < port < 2**16:
        shown = re.sub("//.*@", "//...@", url)  # a password does not belong in a log
        raise ConfigurationError(f"must be http(s)://host[:port], not {shown!r}", variable=variable)
    tls, host = parts["scheme"] == "https", parts["host"].strip("[]").lower()
    return Endpoint(
        url=url,
        tls=tls,
        host=host,
        port=port,
        path=parts["path"] or "/",
        region=region,
        proxy=find_proxy(host, port) if tls else None,
    )


# Any: botocore has no types.
def resolve_region(session: Any, region: str | None) -> str:
    """`region`, AWS_REGION, or what botocore finds (AWS_DEFAULT_REGION, the profile).

    Raises:
        ConfigurationError: naming AWS_REGION, when there is none.
    """
    found = region or os.environ.get("AWS_REGION") or session.get_config_variable("region")
    if not found:
        raise ConfigurationError(
            "not set, and no other place names a region (AWS_DEFAULT_REGION, the AWS profile)",
            variable="AWS_REGION",
        )
    return str(found)


def resolve_endpoints(
    session: Any, region: str, given: Mapping[Service, str]
) -> dict[Service, Endpoint]:
    """The `given` ones, else what botocore says: AWS_ENDPOINT_URL_SQS, AWS_ENDPOINT_URL_DYNAMODB,
    AWS_ENDPOINT_URL, the profile, the FIPS and dual-stack settings, the region's own.

    Blocks: botocore reads its rules from files.

    Raises:
        ConfigurationError: naming the variable.
    """
    return {service: _resolve(session, region, service, given) for service in SERVICES}


def _resolve(session: Any, region: str, service: Service, given: Mapping[Service, str]) -> Endpoint:
    if service in given:
        return parse_endpoint(given[service], region=region, variable=f"the {service} endpoint")
    variable = f"AWS_ENDPOINT_URL_{service.upper()}"
    if variable not in os.environ:
        variable = "AWS_ENDPOINT_URL"
    if plain := _plain(session, region, service):
        return parse_endpoint(plain, region=region, variable=variable)
    try:
        # A client is botocore's public way to ask; nothing is sent, so the keys do not matter.
        meta = session.create_client(
            service,
            region_name=region,
            aws_access_key_id="unused",
            aws_secret_access_key="unused",  # noqa: S106  # no secret, as it says
        ).meta
    except botocore.exceptions.InvalidRegionError as error:
        raise ConfigurationError(str(error), variable="AWS_REGION") from None
    except ValueError as error:
        said = f"must be http(s)://host[:port] ({error})"
        raise ConfigurationError(said, variable=variable) from None
    return parse_endpoint(meta.endpoint_url, region=meta.region_name, variable=variable)


def _plain(session: Any, region: str, service: Service) -> str | None:
    """The URL where nothing but the environment or the region says it, as for almost all; None
    where botocore has to be asked. Its client takes a tenth of a second, for models of all that the
    service can do."""
    if not _REGION.fullmatch(region) or any(map(session.get_config_variable, _MORE_SETTINGS)):
        return None
    for name in (f"AWS_ENDPOINT_URL_{service.upper()}", "AWS_ENDPOINT_URL"):
        if os.environ.get(name):
            return os.environ[name]
    if session.get_scoped_config().keys() & {"endpoint_url", "services"}:
        return None
    return f"https://{service}.{region}.amazonaws.com" if _COMMERCIAL.fullmatch(region) else None


def tls_context(session: Any) -> ssl.SSLContext:
    """Trusts what botocore trusts: AWS_CA_BUNDLE, the profile's ca_bundle, else certifi's list.

    Raises:
        ConfigurationError: naming AWS_CA_BUNDLE.
    """
    path = str(session.get_config_variable("ca_bundle") or botocore.httpsession.where())
    try:
        context = (
            ssl.create_default_context(capath=path)
            if Path(path).is_dir()
            else ssl.create_default_context(cafile=path)
        )
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(
            f"cannot read certificates from {path}: {error}", variable="AWS_CA_BUNDLE"
        ) from None
    context.set_alpn_protocols(["http/1.1"])
    return context
