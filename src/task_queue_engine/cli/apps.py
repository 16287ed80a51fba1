"""`--app module:registry`: a team's own tasks."""

from __future__ import annotations

import importlib
import sys
import sysconfig
import traceback
from pathlib import Path
from typing import Any

from task_queue_engine.errors import ConfigurationError
from task_queue_engine.registry import TaskRegistry

_OPTION = "--app"

# Where lines lie that raise on behalf of a team's.
_NOT_THE_TEAMS = (
    str(Path(__file__).parents[1]),
    *(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")),
)


def load_app(spec: str) -> TaskRegistry:
    """Import what `spec` names, e.g. ``shop.tasks:registry``. The current directory is importable,
    as with `python -m`.

    Raises:
        ConfigurationError: saying what is wrong; where the module itself raised, that is its cause.
    """
    module_name, colon, path = spec.partition(":")
    if not (module_name and colon and path):
        raise ConfigurationError(
            f"must be MODULE:REGISTRY, e.g. shop.tasks:registry, not {spec!r}", variable=_OPTION
        )
    found: Any = _import(module_name)
    where = _in_file(getattr(found, "__file__", None))
    reached = module_name
    for name in path.split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            raise ConfigurationError(
                f"{reached} has no attribute {name!r}{where}", variable=_OPTION
            ) from None
        reached = f"{reached}.{name}"
    if not isinstance(found, TaskRegistry):
        raise ConfigurationError(
            f"{spec} is not a TaskRegistry but {_a(type(found).__name__)}{where}", variable=_OPTION
        )
    if not len(found):
        raise ConfigurationError(f"{spec} has no tasks registered{where}", variable=_OPTION)
    return found


def _import(name: str) -> Any:
    _make_current_directory_importable()
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            where = "" if sys.flags.safe_path else f" (looked in {Path.cwd()} too)"
            raise ConfigurationError(
                f"there is no module {error.name!r}{where}", variable=_OPTION
            ) from None
        raise _failed(name, error) from error
    except (Exception, SystemExit) as error:  # a team's module may raise whatever it likes
        raise _failed(name, error) from error


def _failed(name: str, error: BaseException) -> ConfigurationError:
    # A SyntaxError says in its text which line of which file, but without the folder.
    said = " ".join(str(error.msg if isinstance(error, SyntaxError) else error).split())
    return ConfigurationError(
        f"importing {name} raised {type(error).__name__}{': ' if said else ''}{said}"
        f"{_in_file(*_place(error))}",
        variable=_OPTION,
    )


def _place(error: BaseException) -> tuple[str | None, int | None]:
    """The file and line to mend: the innermost that is neither a library's nor Python's."""
    if isinstance(error, SyntaxError) and error.filename:
        return error.filename, error.lineno
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith(("<", *_NOT_THE_TEAMS))
    ]
    return (frames[-1].filename, frames[-1].lineno) if frames else (None, None)


def _in_file(name: str | None, line: int | None = None) -> str:
    if name is None:
        return ""
    path = Path(name)
    if path.is_relative_to(Path.cwd()):
        path = path.relative_to(Path.cwd())
    return f" ({path})" if line is None else f" ({path}, line {line})"


def _make_current_directory_importable() -> None:
    """Python's own `-P` and PYTHONSAFEPATH say when not to."""
    here = str(Path.cwd())
    if not sys.flags.safe_path and here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)


def _a(noun: str) -> str:
    return f"{'an' if noun[:1].lower() in 'aeiou' else 'a'} {noun}"
