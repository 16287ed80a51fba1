"""What a `.env` file says about AWS itself."""

from __future__ import annotations

import os
from pathlib import Path

from dotenv import dotenv_values


def adopt_env_file(path: str | Path = ".env") -> None:
    """Put the file's AWS_* variables into the environment, where those that are set stay.

    Our own settings are read from the file anyway; credentials, profile and endpoints are looked
    for in the environment, by botocore.
    """
    for name, value in dotenv_values(path).items():
        if name.startswith("AWS_") and value:
            os.environ.setdefault(name, value)
