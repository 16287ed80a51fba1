"""Which variables of the environment worker processes get: what an interpreter and libraries need,
not the API keys, mail password and cloud credentials that the engine itself was given."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from fnmatch import fnmatchcase

ALLOWED = (
    # Who and where this is, and how it speaks.
    *("HOME", "USER", "LOGNAME", "SHELL", "PATH", "PWD", "HOSTNAME", "TERM", "LANG", "LANGUAGE"),
    *("LC_*", "TZ", "TZDIR", "TMPDIR", "TMP", "TEMP", "SQLITE_TMPDIR", "XDG_*"),
    # How Python and the system's loader find and run things.
    *("PYTHON*", "VIRTUAL_ENV", "CONDA_PREFIX", "LD_LIBRARY_PATH", "LD_PRELOAD", "MALLOC_*"),
    *("COVERAGE_PROCESS_START", "COV_CORE_*"),
    # How many cores and which devices a library may use.
    *("*_NUM_THREADS", "CUDA_*", "NVIDIA_*"),
    # Which certificates are trusted, and which hosts are reached without a proxy. Addresses of
    # proxies are not among them: a password may stand in those.
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NO_PROXY"),
    "no_proxy",
    # The settings of the task types that come with the package and run in worker processes.
    *("TQE_IMAGE_*", "TQE_EXPORT_*"),
)
"""Names, and patterns with `*`."""


def worker_environment(more: Collection[str], given: Mapping[str, str]) -> dict[str, str]:
    """What a worker process gets of `given`.

    Args:
        more: names or patterns besides `ALLOWED` (`TQE_PROCESS_ENV`); `*` is everything.
    """
    patterns = (*ALLOWED, *more)
    return {
        name: value
        for name, value in given.items()
        if any(fnmatchcase(name, pattern) for pattern in patterns)
    }


def withheld(more: Collection[str]) -> tuple[str, ...]:
    """The names of what worker processes do not get, for the log."""
    return tuple(sorted(os.environ.keys() - worker_environment(more, os.environ).keys()))
