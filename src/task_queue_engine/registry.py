"""Task types: a name, the handler behind it, and how it is to be run."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, TypeVar, get_type_hints

from task_queue_engine.errors import RegistryError, UnknownTaskType
from task_queue_engine.payloads import Converter, make_converter
from task_queue_engine.retry import DEFAULT_BACKOFF, Backoff, ErrorRules, Seconds, to_seconds

F = TypeVar("F", bound=Callable[..., Any])
Handler = Callable[..., Any]

# SQS message attributes carry the name too: 256 characters at most, and nothing exotic.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,127}")


class RunsIn(Enum):
    """Where a handler runs."""

    TRIO = auto()
    THREAD = auto()
    PROCESS = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskDefinition:
    """One registered task type."""

    name: str
    handler: Handler
    runs_in: RunsIn
    takes_context: bool
    convert_payload: Converter
    """JSON data -> the annotated payload; raises InvalidTask naming the member."""
    convert_result: Converter
    """Stored JSON -> the annotated result."""
    payload_type: Any = Any
    max_attempts: int | None = None
    """None: the engine's default, `TQE_MAX_ATTEMPTS`."""
    timeout: float | None = None
    """Seconds; None: the engine's default, `TQE_TASK_TIMEOUT`."""
    backoff: Backoff = DEFAULT_BACKOFF
    error_rules: ErrorRules = field(default_factory=dict)


class TaskRegistry:
    """Collects task types by decorator.

    >>> tasks = TaskRegistry()
    >>> @tasks.task("greet", max_attempts=5, timeout=30)
    ... async def greet(name: str) -> str:
    ...     return f"Hello, {name}"

    The function stays as it was: call it, test it, submit it (`engine.submit(greet, "Ada")`).
    """

    def __init__(self) -> None:
        self._by_name: dict[str, TaskDefinition] = {}
        self._by_handler: dict[Handler, TaskDefinition] = {}

    def task(
        self,
        name: str,
        *,
        max_attempts: int | None = None,
        timeout: Seconds | None = None,
        backoff: Backoff | None = None,
        on_error: Mapping[type[BaseException], Backoff | None] | None = None,
        process: bool = False,
    ) -> Callable[[F], F]:
        """Register a handler.

        Args:
            name: what submissions call this type: letters, digits, ``_ . : -``, at most 128.
            max_attempts: 1 or more; a submission may ask for another number.
            timeout: seconds (or a timedelta) one attempt may take.
            backoff: waits between attempts; without one 20 s, 13 minutes, then an hour each.
            on_error: a backoff of their own for some exception types; None: never retried.
            process: run a `def` handler in a worker process, which a timeout or a cancel kills.

        The handler takes ``(payload)`` or ``(payload, context)``. `async def` runs on trio, `def`
        in a thread. An annotation on the payload is enforced when a task is submitted.

        Raises:
            RegistryError: at decoration, saying what is wrong.
        """

        def register(handler: F) -> F:
            definition = _define(
                name,
                handler,
                max_attempts=max_attempts,
                timeout=timeout,
                backoff=backoff,
                on_error=on_error,
                process=process,
            )
            if name in self._by_name:
                other = self._by_name[name].handler
                raise RegistryError(f"task type {name!r} is already registered, by {_spell(other)}")
            if handler in self._by_handler:
                raise RegistryError(
                    f"{_spell(handler)} is already registered, "
                    f"as {self._by_handler[handler].name!r}"
                )
            self._by_name[name] = definition
            self._by_handler[handler] = definition
            return handler

        return register

    def get(self, task: str | Handler) -> TaskDefinition:
        """By type name or by the decorated function. Raises UnknownTaskType."""
        found = self._by_name.get(task) if isinstance(task, str) else self._by_handler.get(task)
        if found is None:
            name = task if isinstance(task, str) else _spell(task)
            raise UnknownTaskType(name, self.names)
        return found

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(sorted(self._by_name))

    def include(self, other: TaskRegistry) -> None:
        """Take over all types of `other`. Raises RegistryError where a name is taken."""
        for definition in other:
            if definition.name in self._by_name:
                raise RegistryError(f"task type {definition.name!r} is already registered")
            self._by_name[definition.name] = definition
            self._by_handler[definition.handler] = definition

    def __contains__(self, name: object) -> bool:
        return name in self._by_name

    def __iter__(self) -> Iterator[TaskDefinition]:
        return iter(self._by_name.values())

    def __len__(self) -> int:
        return len(self._by_name)


def _spell(handler: Handler) -> str:
    module = getattr(handler, "__module__", "?")
    return f"{module}.{getattr(handler, '__qualname__', repr(handler))}"


def _define(
    name: str,
    handler: Handler,
    *,
    max_attempts: int | None,
    timeout: Seconds | None,
    backoff: Backoff | None,
    on_error: Mapping[type[BaseException], Backoff | None] | None,
    process: bool,
) -> TaskDefinition:
    if not _NAME.fullmatch(name):
        raise RegistryError(
            f"task type {name!r}: a name is 1 to 128 letters, digits, '_', '.', ':' or '-', "
            "the first a letter or digit"
        )
    where = f"task type {name!r} ({_spell(handler)})"
    if max_attempts is not None and max_attempts < 1:
        raise RegistryError(f"{where}: max_attempts must be at least 1, not {max_attempts}")
    try:
        seconds = None if timeout is None else to_seconds(timeout, name="timeout")
    except ValueError as error:
        raise RegistryError(f"{where}: {error}") from None
    if seconds == 0:
        raise RegistryError(f"{where}: timeout must be more than 0 seconds")

    is_async = inspect.iscoroutinefunction(handler)
    if process and is_async:
        raise RegistryError(f"{where}: process=True needs a plain `def` handler")
    if process and ("<locals>" in handler.__qualname__ or handler.__name__ == "<lambda>"):
        raise RegistryError(
            f"{where}: process=True needs a handler at module level, "
            "where a worker process can import it"
        )

    parameters = [
        parameter
        for parameter in inspect.signature(handler).parameters.values()
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]
    required_keywords = [
        parameter.name
        for parameter in inspect.signature(handler).parameters.values()
        if parameter.kind is parameter.KEYWORD_ONLY and parameter.default is parameter.empty
    ]
    if len(parameters) not in (1, 2) or required_keywords:
        raise RegistryError(f"{where}: a handler takes (payload) or (payload, context)")

    try:
        hints = get_type_hints(handler, include_extras=True)
    except NameError as error:
        raise RegistryError(f"{where}: an annotation cannot be resolved: {error}") from None
    payload_type = hints.get(parameters[0].name, Any)
    result_type = hints.get("return", Any)
    try:
        convert_payload = make_converter(payload_type)
    except TypeError as error:
        raise RegistryError(
            f"{where}: the payload annotation is neither JSON nor a dataclass, msgspec.Struct "
            f"or pydantic model: {error}"
        ) from None
    try:
        convert_result = make_converter(result_type, field="result")
    except TypeError:
        # A result is only ever read back as a convenience: any return annotation is allowed.
        convert_result = make_converter(Any)

    return TaskDefinition(
        name=name,
        handler=handler,
        runs_in=RunsIn.TRIO if is_async else RunsIn.PROCESS if process else RunsIn.THREAD,
        takes_context=len(parameters) == 2,
        convert_payload=convert_payload,
        convert_result=convert_result,
        payload_type=payload_type,
        max_attempts=max_attempts,
        timeout=seconds,
        backoff=backoff or DEFAULT_BACKOFF,
        error_rules=dict(on_error or {}),
    )
