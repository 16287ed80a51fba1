"""`TQE_KEYS_FILE`: named keys with roles, as TOML with hashes in place of the keys.

    [keys.billing]
    roles = ["submit", "read"]
    types = ["email"]              # these only; without it all
    expires = 2030-01-01           # refused from that day on, in UTC; or a time with a zone
    rate_limit = 50                # requests a second, in place of TQE_RATE_LIMIT_PER_KEY
    sha256 = "..."

TOML, since people edit it and want to say in a comment whose key it is, and Python reads it. A
plain SHA-256 is enough: `tqe keys new` makes keys of 256 random bits, so there is nothing to guess
that a slow hash would protect, and a slow one at every request would be a way to hold the server
up.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import secrets
import stat
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import Any, NamedTuple

from task_queue_engine.codec import is_unicode
from task_queue_engine.errors import ConfigurationError
from task_queue_engine.http.principal import Principal, Role

VARIABLE = "TQE_KEYS_FILE"
MAX_BYTES = 4 * 2**20
"""Some ten thousand keys; a file that is larger is another one than was meant."""

_PREFIX = "tqe_"  # by which scanners for leaked secrets know them
_BYTES = 32  # 256 bits
_NAME = re.compile(
    r"[A-Za-z0-9_-]{1,64}"
)  # of TOML's bare keys, so that it needs no quotes anywhere
_DIGEST = re.compile(r"[0-9a-f]{64}")
_POSITION = re.compile(r"at line \d+, column \d+|at end of document")
_MEMBERS = ("roles", "types", "expires", "rate_limit", "sha256")


class NamedKey(NamedTuple):
    digest: bytes
    """Its SHA-256, which is all that is known of it."""
    principal: Principal
    expires_at: datetime | None


Signature = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyFile:
    """A file that could be read whole."""

    keys: Mapping[bytes, NamedKey]
    """By their digests."""
    signature: Signature
    """Another one than that of the path now: it has changed."""
    warning: str | None
    """About who may read or write it."""


def digest_of(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def read_if_changed(path: str, known: Signature) -> KeyFile | None:
    """As `read_key_file`; None where the file is as it was."""
    try:
        if _signature_of(os.stat(path)) == known:  # noqa: PTH116 - as in read_key_file
            return None
    except (OSError, ValueError):
        pass  # reading says it in its words
    return read_key_file(path)


def _signature_of(status: os.stat_result) -> Signature:
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def read_key_file(path: str) -> KeyFile:
    """Raises ConfigurationError, which never quotes a value: it might be a key."""
    try:
        with open(path, "rb", opener=_open) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise _error(f"{path} is not a file")
            content = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise _error(f"{path} cannot be read: {reason}") from None
    if len(content) > MAX_BYTES:
        raise _error(f"{path} has more than {MAX_BYTES} bytes")
    try:
        keys = _parse(content)
    except _Wrong as error:
        raise _error(f"{path} {error}") from None
    return KeyFile(keys=keys, signature=_signature_of(status), warning=_warning(path, status))


def _open(path: str, flags: int) -> int:
    """Of a pipe that no one writes to the open itself would never end."""
    return os.open(path, flags | os.O_NONBLOCK)


def _error(message: str) -> ConfigurationError:
    return ConfigurationError(message, variable=VARIABLE)


def _warning(path: str, status: os.stat_result) -> str | None:
    mode = stat.S_IMODE(status.st_mode)
    if mode & stat.S_IWOTH:
        done = "written"
    elif mode & stat.S_IROTH:
        done = "read"
    else:
        return None
    return (
        f"{VARIABLE}: {path} can be {done} by every user of this machine (mode {mode:04o}); "
        "0600 or 0640 is enough"
    )


# --- what is in it --------------------------------------------------------------------------


class _Wrong(Exception):
    """What is wrong with the content."""


def _parse(content: bytes) -> dict[bytes, NamedKey]:
    try:
        document = tomllib.loads(content.decode())
    except UnicodeDecodeError:
        raise _Wrong("is not UTF-8") from None
    except (ValueError, RecursionError) as error:  # TOMLDecodeError, and what int() raises
        # The rest of the message may quote the file.
        where = _POSITION.search(str(error))
        raise _Wrong(f"is not TOML{f' ({where[0]})' if where else ''}") from None
    others = document.keys() - {"keys"}
    entries = document.get("keys", {})
    if others or not isinstance(entries, dict):
        raise _Wrong("has [keys.NAME] tables and nothing else")
    if not entries:
        raise _Wrong("has no keys in it; `tqe keys new NAME --role ROLE` adds one")
    keys: dict[bytes, NamedKey] = {}
    for name, entry in entries.items():
        if not _NAME.fullmatch(name):
            raise _Wrong(
                f"is wrong: a key's name is 1 to 64 of A-Z a-z 0-9 _ -, not {ascii(name)[:80]}"
            )
        if not isinstance(entry, dict):
            raise _Wrong(f"is wrong: keys.{name} must be a table, [keys.{name}]")
        key = _entry(name, entry)
        if key.digest in keys:
            raise _Wrong(
                f"is wrong: keys.{name}.sha256 is that of keys.{keys[key.digest].principal.name}"
            )
        keys[key.digest] = key
    return keys


def _entry(name: str, entry: Mapping[str, Any]) -> NamedKey:
    where = f"is wrong: keys.{name}"
    for member in entry:
        if member not in _MEMBERS:
            raise _Wrong(f"{where}: {ascii(member)[:80]} is none of {', '.join(_MEMBERS)}")
    digest = entry.get("sha256")
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest.lower()):
        raise _Wrong(f"{where}.sha256: must be the 64 hexadecimal digits of the key's SHA-256")
    roles = _names(entry.get("roles"), f"{where}.roles", of=", ".join(Role))
    unknown = roles - set(Role)
    if unknown:
        raise _Wrong(f"{where}.roles: must be of {', '.join(Role)}")
    types = entry.get("types")
    if types is not None:
        types = _names(types, f"{where}.types", of="the names of task types")
        if Role.ADMIN in roles:
            raise _Wrong(f"{where}.types: admin is for all types; use the other roles")
    rate_limit = entry.get("rate_limit")
    if rate_limit is not None:
        is_number = isinstance(rate_limit, int | float) and not isinstance(rate_limit, bool)
        if not (is_number and 0 <= rate_limit <= 1e6):
            raise _Wrong(f"{where}.rate_limit: must be requests a second, from 0 (no limit)")
        rate_limit = float(rate_limit)
    return NamedKey(
        bytes.fromhex(digest),
        Principal(
            name=name,
            roles=frozenset(Role(role) for role in roles),
            types=types,
            rate_limit=rate_limit,
        ),
        _moment(entry.get("expires"), f"{where}.expires"),
    )


def _names(value: Any, where: str, *, of: str) -> frozenset[str]:
    if not isinstance(value, list) or not value or not all(isinstance(one, str) for one in value):
        raise _Wrong(f"{where}: must be a list with one or more of {of}")
    return frozenset(value)


def _moment(value: Any, where: str) -> datetime | None:
    if value is None:
        return None
    if isinstance(value, datetime):
        if value.tzinfo is not None:
            return value
    elif isinstance(value, date):
        return datetime.combine(value, time(), UTC)
    raise _Wrong(
        f"{where}: must be a date such as 2030-01-31, or a time with a zone, without quotes"
    )


# --- a new one ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class NewKey:
    """A key that was just made: the only place where it is."""

    key: str
    entry: str
    """For the file."""


def make_key(
    name: str, *, roles: Sequence[Role], types: Sequence[str] = (), expires: date | None = None
) -> NewKey:
    """Raises ConfigurationError for a name or types that cannot be, and for types of an `admin`."""
    if not _NAME.fullmatch(name):
        raise ConfigurationError("must be 1 to 64 of A-Z a-z 0-9 _ -", variable="NAME")
    if not all(map(is_unicode, types)):
        raise ConfigurationError("is not Unicode text", variable="--type")
    if types and Role.ADMIN in roles:
        raise ConfigurationError("admin is for all types; use the other roles", variable="--type")
    key = _PREFIX + secrets.token_urlsafe(_BYTES)
    lines = [f"[keys.{name}]", f"roles = [{_quoted(roles)}]"]
    if types:
        lines.append(f"types = [{_quoted(types)}]")
    if expires is not None:
        lines.append(f"expires = {expires.isoformat()}")
    lines.append(f'sha256 = "{digest_of(key.encode()).hex()}"')
    return NewKey(key=key, entry="\n".join(lines) + "\n")


def add_to_file(path: str, name: str, entry: str) -> None:
    """Append an entry, in place: the file's owner and mode stay. A new file is the user's alone.

    Raises:
        ConfigurationError: the file cannot be written, is broken, or has a key of this name.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "r+b", buffering=0) as file:
            fcntl.flock(descriptor, fcntl.LOCK_EX)  # two at once might add the same name
            before = file.read()
            gap = b"" if not before else b"\n" if before.endswith(b"\n") else b"\n\n"
            addition = gap + entry.encode()
            try:
                keys = _parse(before) if before.strip() else {}
                if any(key.principal.name == name for key in keys.values()):
                    raise _Wrong(f"has a key with the name {name!r} already")
                # It may be written in a way that allows no more tables: keys = { ... }
                _parse(before + addition)
            except _Wrong as error:
                raise _error(f"{path} {error}") from None
            # In one write: a server that looks in this moment sees none of it or all.
            file.write(addition)
            os.fsync(descriptor)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise _error(f"{Path(path)} cannot be written: {reason}") from None


def _quoted(values: Sequence[str]) -> str:
    """As TOML's basic strings have it."""
    return ", ".join(f'"{"".join(map(_escaped, value))}"' for value in values)


def _escaped(char: str) -> str:
    if char in '"\\' or not char.isprintable():
        return f"\\U{ord(char):08x}"
    return char
