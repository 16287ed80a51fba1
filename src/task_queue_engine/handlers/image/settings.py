"""Settings of the `image-resize` task type, read by every attempt in its worker process."""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, field_validator
from pydantic_settings import NoDecode

from task_queue_engine.config import EnvironmentSettings, Seconds
from task_queue_engine.handlers.fetch.address_policy import AddressPolicy, Network
from task_queue_engine.handlers.fetch.safe_fetch import FetchPolicy
from task_queue_engine.handlers.folder_limits import FolderLimits
from task_queue_engine.retry import MAX_SECONDS

Port = Annotated[int, Field(ge=1, le=65_535)]
Timeout = Annotated[float, Field(gt=0, le=3600, allow_inf_nan=False)]

_MIB = 2**20


class ImageSettings(EnvironmentSettings):
    """Which sources are read, what they may cost, and where results go."""

    root: Path | None = Field(None, validation_alias="TQE_IMAGE_ROOT")
    """Where `path` sources are; None: they are refused."""
    directory: Path = Field(Path("images"), validation_alias="TQE_IMAGE_OUTPUT")
    """Where results are written; made when the first one is."""

    max_total_bytes: Annotated[int, Field(ge=0)] = Field(
        10 * 2**30, validation_alias="TQE_IMAGE_MAX_TOTAL_BYTES"
    )
    """Of all results in the folder; 0: no limit."""
    retention: Annotated[float, Field(ge=0, le=MAX_SECONDS)] = Field(
        0.0, validation_alias="TQE_IMAGE_RETENTION"
    )
    """Seconds for which a result is kept; 0: for ever."""

    max_bytes: Annotated[int, Field(ge=1024, le=1024 * _MIB)] = Field(
        20 * _MIB, validation_alias="TQE_IMAGE_MAX_BYTES"
    )
    """Of a source."""
    max_pixels: Annotated[int, Field(ge=1, le=1_000_000_000)] = Field(
        50_000_000, validation_alias="TQE_IMAGE_MAX_PIXELS"
    )
    """Width x height of a source, as its header says, and of a result; a half of it for
    png and webp, a quarter for avif."""
    max_memory: Annotated[int, Field(ge=64 * _MIB)] = Field(
        2048 * _MIB, validation_alias="TQE_IMAGE_MAX_MEMORY_BYTES"
    )
    """Address space that decoding, scaling and encoding may add to the process (Linux)."""

    max_cpu_seconds: Seconds = Field(30.0, validation_alias="TQE_IMAGE_MAX_CPU_SECONDS")
    """CPU time of one picture. The limits of pixels keep what is known to be slow to a third."""

    allow_networks: Annotated[tuple[Network, ...], NoDecode] = Field(
        (), validation_alias="TQE_IMAGE_ALLOW_NETWORKS"
    )
    """Networks that URLs may lead to although they are not public; on any port."""
    ports: Annotated[tuple[Port, ...], NoDecode] = Field(
        (80, 443), validation_alias="TQE_IMAGE_PORTS"
    )
    """Of public hosts."""
    connect_timeout: Timeout = Field(5.0, validation_alias="TQE_IMAGE_CONNECT_TIMEOUT")
    read_timeout: Timeout = Field(10.0, validation_alias="TQE_IMAGE_READ_TIMEOUT")
    fetch_timeout: Timeout = Field(60.0, validation_alias="TQE_IMAGE_FETCH_TIMEOUT")
    max_redirects: Annotated[int, Field(ge=0, le=20)] = Field(
        5, validation_alias="TQE_IMAGE_MAX_REDIRECTS"
    )

    @field_validator("allow_networks", mode="before")
    @classmethod
    def _networks_in_cidr_notation(cls, value: Any) -> Any:
        try:
            return tuple(ip_network(entry) for entry in _split(value))
        except ValueError as error:
            raise ValueError(
                f"must be networks such as 10.1.0.0/16, separated by commas: {error}"
            ) from None

    @field_validator("ports", mode="before")
    @classmethod
    def _ports_separated_by_commas(cls, value: Any) -> Any:
        return tuple(_split(value))

    def folder_limits(self) -> FolderLimits:
        return FolderLimits(
            max_bytes=self.max_total_bytes,
            variable="TQE_IMAGE_MAX_TOTAL_BYTES",
            retention=self.retention,
        )

    def fetch_policy(self) -> FetchPolicy:
        return FetchPolicy(
            max_bytes=self.max_bytes,
            addresses=AddressPolicy(
                allow_networks=self.allow_networks, ports=frozenset(self.ports)
            ),
            connect_timeout=self.connect_timeout,
            read_timeout=self.read_timeout,
            total_timeout=self.fetch_timeout,
            max_redirects=self.max_redirects,
        )


def _split(value: Any) -> Any:
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return value
