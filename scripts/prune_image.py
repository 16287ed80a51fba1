#!/usr/bin/env python3
"""Take out of a virtual environment what the engine never reads, and compile the rest once.

    scripts/prune_image.py /opt/tqe

For the container image: it takes a third of what the engine adds to its base. What is left must run
the engine; `tqe --version` after it and `make image-test` show that.
"""

from __future__ import annotations

import compileall
import py_compile
import shutil
import sys
from pathlib import Path

# The services whose API botocore is asked for: those the engine works with, and those that
# credentials come from. Of files beside the folders all stay: endpoints, partitions, retries.
SERVICES = {"sqs", "dynamodb", "sts", "sso", "sso-oidc", "signin"}
# Of folders: SQLite's own command line tools and loadable extensions; resources of boto3, where the
# engine asks for clients only; DNS, which email-validator reads where it looks domains up.
UNUSED = ("apsw/sqlite_extra_binaries", "boto3/data", "boto3/examples", "dns")
# All that is read of a folder. Of Google's packages Protocol Buffers, in which traces are sent; of
# OpenTelemetry's names of attributes and metrics that may still change those of its own SDK.
ONLY = {
    "google": {"_upb", "protobuf"},
    "opentelemetry/semconv/_incubating/attributes": {"__init__.py", "otel_attributes.py"},
    "opentelemetry/semconv/_incubating/metrics": {"__init__.py", "otel_metrics.py"},
}
# Of packages that bring them along.
TESTS = {"test", "tests"}
# What type checkers and compilers read.
UNREAD = {".pyi", ".pyx", ".pxd", ".c", ".h"}


def prune(site: Path) -> None:
    for service in (site / "botocore" / "data").iterdir():
        if service.is_dir() and service.name not in SERVICES:
            shutil.rmtree(service)
    for folder in UNUSED:
        shutil.rmtree(site / folder)
    for folder, read in ONLY.items():
        for unread in (site / folder).iterdir():
            if unread.name not in read:
                remove(unread)
    for folder in sorted(site.rglob("*"), reverse=True):
        if folder.is_dir() and (folder.name in TESTS or folder.name in {"__pycache__", "_tests"}):
            shutil.rmtree(folder)
    for file in site.rglob("*"):
        if file.is_file() and file.suffix in UNREAD:
            file.unlink()


def remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def main() -> None:
    (site,) = Path(sys.argv[1]).glob("lib/python3*/site-packages")
    prune(site)
    # By hashes that are not checked: the sources cannot change under a container, and their times
    # would make every build another image.
    compiled = compileall.compile_dir(
        site, quiet=1, workers=0, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH
    )
    if not compiled:
        sys.exit("some of it does not compile")


if __name__ == "__main__":
    main()
