"""Task types: a name, the handler behind it, and how it is to be run."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, TypeVar, get_type_hints

from task_queue_engine.errors import RegistryError, UnknownTaskType
from task_queue_engine.payloads import Converter, make_converter
from task_queue_engine.retry import Backoff, ErrorRules, Seconds, to_seconds

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
    aliases: tuple[str, ...] = ()
    """Names that stored tasks of this type may still have."""
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
    backoff: Backoff = field(default_factory=Backoff)
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
        # Under its name and every alias.
        self._by_name: dict[str, TaskDefinition] = {}
        self._by_handler: dict[Handler, TaskDefinition] = {}

    def task(
        self,
        name: str,
        *,
        aliases: Sequence[str] = (),
        max_attempts: int | None = None,
        timeout: Seconds | None = None,
        backoff: Backoff | None = None,
        on_error: Mapping[type[BaseException], Backoff | None] | None = None,
        process: bool = False,
    ) -> Callable[[F], F]:
        """Register a handler.

        Args:
            name: what submissions call this type: letters, digits, ``_ . : -``, at most 128.
            aliases: names that this type had before. Tasks stored under one are run by this
                handler, and a submission may use it: the task is stored under `name`. To rename a
                type, add the old name here and leave it until no task has it any more.
            max_attempts: 1 or more; a submission may ask for another number.
            timeout: seconds (or a timedelta) one attempt may take.
            backoff: waits between attempts.
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
                aliases=aliases,
                max_attempts=max_attempts,
                timeout=timeout,
                backoff=backoff,
                on_error=on_error,
                process=process,
            )
            self._check_names_are_free(definition)
            if handler in self._by_handler:
                raise RegistryError(
                    f"{_spell(handler)} is already registered, "
                    f"as {self._by_handler[handler].name!r}"
                )
            self._add(definition)
            return handler

        return register

    def _check_names_are_free(self, definition: TaskDefinition) -> None:
        for name in (definition.name, *definition.aliases):
            if name in self._by_name:
                other = self._by_name[name]
                what = "task type" if name == definition.name else "alias"
                as_alias = f", as an alias of {other.name!r}" if name != other.name else ""
                raise RegistryError(
                    f"{what} {name!r} is already registered, by {_spell(other.handler)}{as_alias}"
                )

    def _add(self, definition: TaskDefinition) -> None:
        for name in (definition.name, *definition.aliases):
            self._by_name[name] = definition
        self._by_handler[definition.handler] = definition

    def get(self, task: str | Handler) -> TaskDefinition:
        """By type name or alias, or by the decorated function. Raises UnknownTaskType."""
        found = self._by_name.get(task) if isinstance(task, str) else self._by_handler.get(task)
        if found is None:
            name = task if isinstance(task, str) else _spell(task)
            raise UnknownTaskType(name, self.names)
        return found

    @property
    def names(self) -> tuple[str, ...]:
        """Without aliases."""
        return tuple(sorted(definition.name for definition in self))

    def canonical(self, name: str) -> str:
        """The name of the type that has this name or alias; itself where there is none."""
        definition = self._by_name.get(name)
        return name if definition is None else definition.name

    def include(self, other: TaskRegistry) -> None:
        """Take over all types of `other`. Raises RegistryError where a name is taken."""
        for definition in other:
            self._check_names_are_free(definition)
            self._add(definition)

    def __contains__(self, name: object) -> bool:
        return name in self._by_name

    def __iter__(self) -> Iterator[TaskDefinition]:
        # By identity: a type is there once for every name.
        return iter({id(one): one for one in self._by_name.values()}.values())

    def __len__(self) -> int:
        return len(list(iter(self)))


def _spell(handler: Handler) -> str:
    module = getattr(handler, "__module__", "?")
    return f"{module}.{getattr(handler, '__qualname__', repr(handler))}"


def _check_names(name: str, aliases: Sequence[str]) -> None:
    if isinstance(aliases, str) or not all(isinstance(alias, str) for alias in aliases):
        raise RegistryError(f"task type {name!r}: aliases must be a list of names, not {aliases!r}")
    for each in (name, *aliases):
        if not _NAME.fullmatch(each):
            what = "task type" if each == name else "alias"
            raise RegistryError(
                f"{what} {each!r}: a name is 1 to 128 letters, digits, '_', '.', ':' or '-', "
                "the first a letter or digit"
            )
    if len({name, *aliases}) != 1 + len(aliases):
        raise RegistryError(f"task type {name!r}: each name is given once, not {aliases!r} with it")


def _define(
    name: str,
    handler: Handler,
    *,
    aliases: Sequence[str],
    max_attempts: int | None,
    timeout: Seconds | None,
    backoff: Backoff | None,
    on_error: Mapping[type[BaseException], Backoff | None] | None,
    process: bool,
) -> TaskDefinition:
    _check_names(name, aliases)
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
        aliases=tuple(aliases),
        handler=handler,
        runs_in=RunsIn.TRIO if is_async else RunsIn.PROCESS if process else RunsIn.THREAD,
        takes_context=len(parameters) == 2,
        convert_payload=convert_payload,
        convert_result=convert_result,
        payload_type=payload_type,
        max_attempts=max_attempts,
        timeout=seconds,
        backoff=backoff or Backoff(),
        error_rules=dict(on_error or {}),
    )
