"""How a worker process finds the handler it is to run: by module and qualified name.

The decorated function stays as it was under its own name, so that importing its module in another
process is enough. Only the program's main file is special, since it has no name to be imported by:
a worker process loads it as `__mp_main__`, as multiprocessing's spawn does, and only if a handler
lives in it. Whatever such a file does must therefore stand under `if __name__ == "__main__"`.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec

from task_queue_engine.errors import RegistryError
from task_queue_engine.registry import Handler

_MAIN = "__mp_main__"


class HandlerPath(msgspec.Struct, frozen=True, kw_only=True):
    """Where a handler is."""

    module: str
    qualname: str
    script: str | None = None
    """The program's main file, where the handler is in it and it has no module name."""

    def __str__(self) -> str:
        return f"{self.script or self.module}:{self.qualname}"


def locate(handler: Handler) -> HandlerPath:
    """In the engine.

    Raises:
        RegistryError: a worker process could not find this very function.
    """
    module = sys.modules.get(handler.__module__)
    path = HandlerPath(module=handler.__module__, qualname=handler.__qualname__)
    if module is None or _walk(module, path.qualname) is not handler:
        raise RegistryError(
            f"{path}: process=True needs the registered function itself under that name, since "
            "a worker process looks it up there; is another decorator above @task(...)?"
        )
    if path.module != "__main__":
        return path
    spec = module.__spec__  # set by `python -m`
    if spec is not None and spec.name != "__main__":
        return HandlerPath(module=spec.name, qualname=path.qualname)
    if getattr(module, "__file__", None) is None:
        raise RegistryError(
            f"{path}: process=True needs a handler in a file; a worker process cannot import "
            "what was typed in or piped to the interpreter"
        )
    return HandlerPath(
        module=_MAIN, qualname=path.qualname, script=str(Path(str(module.__file__)).absolute())
    )


def load(path: HandlerPath) -> Handler:
    """In the worker process.

    Raises:
        RegistryError: the module has no such function here.
        Exception: whatever importing the module raises.
    """
    module = importlib.import_module(path.module) if path.script is None else _main(path.script)
    handler = _walk(module, path.qualname)
    if not callable(handler):
        raise RegistryError(
            f"{path} is not there in a worker process; is it defined under "
            '`if __name__ == "__main__"`?'
        )
    return handler  # type: ignore[no-any-return]  # a callable is a Handler


def refuse_while_loading_main() -> None:
    """Raises RegistryError where the program's main file starts an engine while a worker process
    loads it: that engine would take tasks, and load the file in worker processes of its own."""
    if _loading_main:
        raise RegistryError(
            "the program's main file starts the engine also where a worker process loads it to "
            'find a handler: put that under `if __name__ == "__main__":`, or the handler into '
            "another module"
        )


_loading_main = False


def _main(script: str) -> ModuleType:
    global _loading_main
    if _MAIN not in sys.modules:
        loader = importlib.machinery.SourceFileLoader(_MAIN, script)
        spec = importlib.machinery.ModuleSpec(_MAIN, loader, origin=script)
        spec.has_location = True
        module = importlib.util.module_from_spec(spec)
        # As for a script that is run: a multiprocessing of the handler's own (spawn, forkserver)
        # then finds it by its path, and does not try to import `__mp_main__`.
        module.__spec__ = None
        own_main = sys.modules["__main__"]
        sys.modules[_MAIN] = sys.modules["__main__"] = module
        _loading_main = True
        try:
            loader.exec_module(module)
        except BaseException:
            del sys.modules[_MAIN]
            sys.modules["__main__"] = own_main
            raise
        finally:
            _loading_main = False
    return sys.modules[_MAIN]


def _walk(module: ModuleType, qualname: str) -> Any:
    found: Any = module
    for name in qualname.split("."):
        found = getattr(found, name, None)
    return found
