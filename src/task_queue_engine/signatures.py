"""What a handler looks like: whether it is async, what it takes, what its annotations say."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import FunctionType, MethodType, UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

from task_queue_engine.context import SyncTaskContext, TaskContext
from task_queue_engine.errors import RegistryError

_TAKES = "a handler takes (payload) or (payload, context)"


@dataclass(frozen=True, slots=True)
class Unresolved:
    """In place of an annotation that means nothing here, often since it is imported under
    TYPE_CHECKING only, or since its class comes further down."""

    text: str
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """Of one handler. An annotation that is not there is Any."""

    is_async: bool
    takes_context: bool
    payload: Any
    result: Any


def spell(handler: object) -> str:
    """Where a handler is from, for messages; of an object that is called its class."""
    handler = _function(handler)
    kind = handler if hasattr(handler, "__qualname__") else type(handler)
    return f"{getattr(kind, '__module__', '?')}.{getattr(kind, '__qualname__', '?')}"


def summary_of(handler: object) -> str:
    """The first line of its docstring, or of its class's where it is an object; empty: none."""
    function = _function(handler)
    said = getattr(function, "__doc__", None)
    if not said and not isinstance(handler, FunctionType | MethodType | functools.partial):
        said = type(handler).__doc__
    return inspect.cleandoc(said).partition("\n")[0].strip() if isinstance(said, str) else ""


def read_signature(handler: object) -> Signature:
    """Raises RegistryError, saying what to do, where it cannot be a handler."""
    if isinstance(handler, classmethod):
        raise RegistryError("is a classmethod: outside of its class, register Class.method")
    if isinstance(handler, type):
        raise RegistryError("is a class: register a function, or the method of an object")
    if not callable(handler):
        raise RegistryError("is no function: write @tasks.task(NAME) above a `def` or `async def`")
    function = _function(handler)
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise RegistryError("is a generator: return the result, and report with context.progress()")
    is_async = inspect.iscoroutinefunction(function)
    payload, context = _parameters(handler, function)
    if context is not None:
        _check_context(context, _annotation(function, context.name), is_async=is_async)
    return Signature(
        is_async=is_async,
        takes_context=context is not None,
        payload=_annotation(function, payload.name),
        result=_annotation(function, "return"),
    )


def _function(handler: Any) -> Any:
    """What is behind a partial, a method or an object that can be called."""
    while True:
        if isinstance(handler, functools.partial):
            handler = handler.func
        elif isinstance(handler, MethodType | staticmethod):
            handler = handler.__func__
        elif isinstance(handler, FunctionType | type) or inspect.isroutine(handler):
            return handler
        else:
            call = inspect.getattr_static(type(handler), "__call__", None)
            if not isinstance(call, FunctionType):
                return handler
            handler = call


def _parameters(
    handler: Callable[..., Any], function: Any
) -> tuple[inspect.Parameter, inspect.Parameter | None]:
    """Those for the payload and, where it takes one, for the context."""
    try:
        parameters = list(_signature(handler).parameters.values())
    except (TypeError, ValueError):
        raise RegistryError(f"does not say what it takes; {_TAKES}") from None
    # In the body of its class a method would be given the payload as its `self`.
    is_in_class = getattr(function, "__qualname__", "").rpartition(".")[0][-1:] not in ("", ">")
    if parameters and parameters[0].name in ("self", "cls") and is_in_class:
        raise RegistryError(
            "is a method in its class: make the object, then register its method as "
            "tasks.task(NAME)(object.method)"
        )
    positional = [
        parameter
        for parameter in parameters
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]
    needs_more = any(
        parameter.kind is parameter.KEYWORD_ONLY and parameter.default is parameter.empty
        for parameter in parameters
    )
    if len(positional) not in (1, 2) or needs_more:
        raise RegistryError(_TAKES)
    return positional[0], positional[1] if len(positional) == 2 else None


def _check_context(parameter: inspect.Parameter, annotation: Any, *, is_async: bool) -> None:
    """Raises RegistryError for a second parameter that was not meant for the context."""
    ours, other = (TaskContext, SyncTaskContext) if is_async else (SyncTaskContext, TaskContext)
    if annotation is other:
        kind = "an `async def`" if is_async else "a `def`"
        raise RegistryError(
            f"{kind} handler gets a {ours.__name__}, not a {other.__name__}: annotate "
            f"{parameter.name!r} with that"
        )
    has_value = parameter.default is not parameter.empty and parameter.default is not None
    if has_value or not _may_be_context(annotation):
        raise RegistryError(
            f"its second parameter {parameter.name!r} would be given the context: make it "
            f"keyword-only, with a default, or annotate it with {ours.__name__}"
        )


def _may_be_context(annotation: Any) -> bool:
    origin = get_origin(annotation)
    if origin is Annotated:
        return _may_be_context(get_args(annotation)[0])
    if origin in (Union, UnionType):
        return any(_may_be_context(part) for part in get_args(annotation))
    if annotation in (Any, object, TaskContext, SyncTaskContext):
        return True
    if isinstance(annotation, type) and origin is None:
        # A team's own Protocol, or a class that stands in for the context in its tests.
        is_protocol = getattr(annotation, "_is_protocol", False)
        return bool(is_protocol) or hasattr(annotation, "task_id")
    return isinstance(annotation, TypeVar | Unresolved)


def _annotation(function: Any, name: str) -> Any:
    """One annotation by itself: another one that cannot be resolved does no harm."""
    raw = _annotations(function).get(name, Any)
    if raw is Any:
        return Any

    def holder() -> None: ...

    holder.__annotations__ = {name: raw}
    names = getattr(inspect.unwrap(function), "__globals__", {})
    try:
        return get_type_hints(holder, names, include_extras=True)[name]
    except Exception as error:  # noqa: BLE001 - evaluating an annotation is running foreign code
        text = raw if isinstance(raw, str) else str(raw)
        return Unresolved(text, f"{type(error).__name__}: {error}".partition("\n")[0])


if sys.version_info >= (3, 14):
    # There annotations are evaluated when they are asked for, all of them, unless told otherwise.
    from annotationlib import Format, get_annotations

    _signature = functools.partial(inspect.signature, annotation_format=Format.FORWARDREF)
    _annotations = functools.partial(get_annotations, format=Format.FORWARDREF)
else:
    _signature = inspect.signature

    def _annotations(function: Any) -> dict[str, Any]:
        return getattr(function, "__annotations__", {})
