"""Task types: a name, the handler behind it, and how it is to be run."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from functools import partial
from types import MethodType
from typing import Any, TypeVar

from task_queue_engine.errors import RegistryError, UnknownTaskType
from task_queue_engine.foreign import shown
from task_queue_engine.limits import MAX_ATTEMPTS
from task_queue_engine.payloads import Conversion, make_converter
from task_queue_engine.retry import DEFAULT_BACKOFF, Backoff, ErrorRules, Seconds, to_seconds
from task_queue_engine.signatures import Signature, Unresolved, read_signature, spell

_log = logging.getLogger(__name__)

OWN_PREFIX = "tqe."
"""Of the names of task types that are the engine's own."""

F = TypeVar("F", bound=Callable[..., Any])
Handler = Callable[..., Any]

# SQS message attributes carry the name too: 256 characters at most, and nothing exotic.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,127}")


class RunsIn(Enum):
    """Where a handler runs."""

    TRIO = auto()
    THREAD = auto()
    PROCESS = auto()

    # Enum's own is Python code, and each task is looked up by this several times.
    __hash__ = object.__hash__


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskDefinition:
    """One registered task type."""

    name: str
    aliases: tuple[str, ...] = ()
    """Names that stored tasks of this type may still have."""
    handler: Handler
    runs_in: RunsIn
    takes_context: bool
    convert_payload: Conversion
    """Called with JSON data: the annotated payload, or InvalidTask naming the member, whatever its
    checks raise. `pack` is the way back."""
    convert_result: Conversion
    """The same for the annotated result."""
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
        # Under its name and every alias.
        self._by_name: dict[str, TaskDefinition] = {}
        self._by_handler: dict[Handler, TaskDefinition] = {}
        # Types whose payload's annotation could not be resolved yet, and how to try again.
        self._unresolved: dict[str, Callable[[], TaskDefinition]] = {}

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
            max_attempts: 1 to 1000; a submission may ask for another number.
            timeout: seconds (or a timedelta) one attempt may take.
            backoff: waits between attempts; without one 20 s, 13 minutes, then an hour each.
            on_error: a backoff of their own for some exception types; None: never retried.
            process: run a `def` handler in a worker process, which a timeout or a cancel kills.

        The handler takes ``(payload)`` or ``(payload, context)``. `async def` runs on trio, `def`
        in a thread; functions, partials, methods of objects and objects with `__call__` all do. An
        annotation on the payload is enforced when a task is submitted. One that cannot be resolved,
        such as a class imported under TYPE_CHECKING, is looked at again when the registry is first
        used, and then left out with a warning: the handler gets JSON.

        Raises:
            RegistryError: at decoration, saying what is wrong.
        """

        def register(decorated: F) -> F:
            # In a class body a staticmethod is decorated, and its function is what is called later.
            handler = decorated.__func__ if isinstance(decorated, staticmethod) else decorated
            define = partial(
                _define,
                name,
                handler,
                aliases=aliases,
                max_attempts=max_attempts,
                timeout=timeout,
                backoff=backoff,
                on_error=on_error,
                process=process,
            )
            definition = define()
            self._check_names_are_free(definition)
            if handler in self._by_handler:
                raise RegistryError(
                    f"{spell(handler)} is already registered, as {self._by_handler[handler].name!r}"
                )
            self._add(definition)
            if isinstance(definition.payload_type, Unresolved):
                self._unresolved[name] = define
            return decorated

        if callable(name):  # @tasks.task without parentheses would replace the function
            raise RegistryError(f'@tasks.task needs a name: @tasks.task("{_suggest(name)}")')
        return register

    _reserved: str | None = OWN_PREFIX

    def _check_names_are_free(self, definition: TaskDefinition) -> None:
        for name in (definition.name, *definition.aliases):
            if self._reserved is not None and name.startswith(self._reserved):
                raise RegistryError(
                    f"task type {name!r}: names that begin with {self._reserved!r} are the "
                    "engine's own"
                )
            if name in self._by_name:
                other = self._by_name[name]
                what = "task type" if name == definition.name else "alias"
                as_alias = f", as an alias of {other.name!r}" if name != other.name else ""
                raise RegistryError(
                    f"{what} {name!r} is already registered, by {spell(other.handler)}{as_alias}"
                )

    def _add(self, definition: TaskDefinition) -> None:
        for name in (definition.name, *definition.aliases):
            self._by_name[name] = definition
        self._by_handler[definition.handler] = definition

    def _resolve(self) -> None:
        """Now that the modules are loaded: what comes further down in them is there."""
        while self._unresolved:
            name, define = self._unresolved.popitem()
            definition = define()
            unresolved = definition.payload_type
            if isinstance(unresolved, Unresolved):
                _log.warning(
                    "task type %r (%s): payloads are not checked and arrive as JSON, since the "
                    "annotation %r cannot be resolved (%s); import it at run time",
                    name,
                    spell(definition.handler),
                    unresolved.text,
                    unresolved.error,
                )
                definition = replace(definition, payload_type=Any)
            self._add(definition)

    def get(self, task: str | Handler) -> TaskDefinition:
        """By type name or alias, or by the decorated function. Raises UnknownTaskType."""
        self._resolve()
        try:
            found = self._by_name.get(task) if isinstance(task, str) else self._by_handler.get(task)
        except TypeError:  # it has no hash
            found = None
        return self._missing(task) if found is None else found

    def _missing(self, task: str | Handler) -> TaskDefinition:
        name = task if isinstance(task, str) else spell(task)
        raise UnknownTaskType(name, self.names)

    def result_converter(self, name: str) -> Conversion | None:
        """From JSON to the annotated result of the type that has this name or alias; None where
        there is none."""
        self._resolve()
        definition = self._by_name.get(name)
        return None if definition is None else definition.convert_result

    @property
    def names(self) -> tuple[str, ...]:
        """Without aliases."""
        return tuple(sorted(definition.name for definition in self))

    def runs_in(self) -> dict[str, RunsIn]:
        """Where handlers run, by every name of their types, aliases included."""
        self._resolve()
        return {name: definition.runs_in for name, definition in self._by_name.items()}

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
        self._resolve()
        # By identity: a type is there once for every name.
        return iter({id(one): one for one in self._by_name.values()}.values())

    def __len__(self) -> int:
        return len(list(iter(self)))


class OwnTypes(TaskRegistry):
    """The engine's own task types."""

    _reserved = None


class EngineTypes(TaskRegistry):
    """What an engine runs: a team's types, those that it adds later too, and the engine's own.
    These are no part of `names` nor of iteration, and are looked for last."""

    def __init__(self, tasks: TaskRegistry, own: OwnTypes) -> None:
        super().__init__()
        self._by_name, self._by_handler = tasks._by_name, tasks._by_handler
        self._unresolved = tasks._unresolved
        self._own = own

    def _missing(self, task: str | Handler) -> TaskDefinition:
        return self._own.get(task) if task in self._own else super()._missing(task)

    def runs_in(self) -> dict[str, RunsIn]:
        return super().runs_in() | self._own.runs_in()

    def __contains__(self, name: object) -> bool:
        return name in self._by_name or name in self._own


def is_task_type(name: str) -> bool:
    """Whether a type can be called so."""
    return _NAME.fullmatch(name) is not None


def _check_names(name: Any, aliases: Any) -> None:
    if callable(name):
        raise RegistryError(f'@tasks.task needs a name: @tasks.task("{_suggest(name)}")')
    if isinstance(aliases, str) or not isinstance(aliases, Sequence):
        raise RegistryError(
            f"task type {shown(name)}: aliases must be a list of names, not {shown(aliases)}"
        )
    for number, each in enumerate((name, *aliases)):
        if not isinstance(each, str) or not _NAME.fullmatch(each):
            what = "alias" if number else "task type"
            raise RegistryError(
                f"{what} {shown(each)}: a name is 1 to 128 letters, digits, '_', '.', ':' or '-', "
                "the first a letter or digit"
            )
    if len({name, *aliases}) != 1 + len(aliases):
        raise RegistryError(
            f"task type {name!r}: each name is given once, not {shown(aliases)} with it"
        )


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
    """An annotation that cannot be resolved yet leaves `payload_type` Unresolved."""
    _check_names(name, aliases)
    where = f"task type {name!r} ({spell(handler)})"
    try:
        options = _check_options(max_attempts, timeout, backoff, on_error, process)
        signature = read_signature(handler)
        hash(handler)
    except (RegistryError, ValueError) as error:
        raise RegistryError(f"{where}: {error}") from None
    except TypeError:
        raise RegistryError(f"{where}: an object that has no hash cannot be registered") from None
    if process:
        _check_process(handler, signature, where)
    try:
        late = isinstance(signature.payload, Unresolved)
        convert_payload = make_converter(Any if late else signature.payload)
    except TypeError as error:
        raise RegistryError(
            f"{where}: the payload annotation is neither JSON nor a dataclass, msgspec.Struct, "
            f"attrs class or pydantic model: {error}"
        ) from None
    return TaskDefinition(
        name=name,
        aliases=tuple(aliases),
        handler=handler,
        runs_in=(
            RunsIn.TRIO if signature.is_async else RunsIn.PROCESS if process else RunsIn.THREAD
        ),
        takes_context=signature.takes_context,
        convert_payload=convert_payload,
        convert_result=_result_conversion(signature.result),
        payload_type=signature.payload,
        **options,
    )


def _check_options(
    max_attempts: Any, timeout: Any, backoff: Any, on_error: Any, process: Any
) -> dict[str, Any]:
    """Those for the definition. Raises ValueError, naming the one that is wrong: what gets past
    here ends up in the store, or in a worker that has to decide about a retry."""
    if max_attempts is not None:
        is_number = isinstance(max_attempts, int) and not isinstance(max_attempts, bool)
        if not is_number or not 1 <= max_attempts <= MAX_ATTEMPTS:
            raise ValueError(
                f"max_attempts must be an integer from 1 to {MAX_ATTEMPTS}, "
                f"not {shown(max_attempts)}"
            )
    seconds = None if timeout is None else to_seconds(timeout, name="timeout")
    if seconds == 0:
        raise ValueError("timeout must be more than 0 seconds")
    if backoff is not None and not isinstance(backoff, Backoff):
        raise ValueError(f"backoff must be a Backoff, not {shown(backoff)}")
    if on_error is not None and not isinstance(on_error, Mapping):
        raise ValueError(f"on_error must map exception types to a Backoff, not {shown(on_error)}")
    for kind, rule in (on_error or {}).items():
        if not (isinstance(kind, type) and issubclass(kind, BaseException)):
            raise ValueError(f"on_error: {shown(kind)} is not an exception type")
        if rule is not None and not isinstance(rule, Backoff):
            raise ValueError(
                f"on_error: {kind.__name__} needs a Backoff or None, not {shown(rule)}"
            )
    if not isinstance(process, bool):
        raise ValueError(f"process must be True or False, not {shown(process)}")
    return {
        "max_attempts": None if max_attempts is None else int(max_attempts),
        "timeout": seconds,
        "backoff": backoff or DEFAULT_BACKOFF,
        "error_rules": dict(on_error or {}),
    }


def _check_process(handler: Handler, signature: Signature, where: str) -> None:
    if signature.is_async:
        raise RegistryError(f"{where}: process=True needs a plain `def` handler")
    name = getattr(handler, "__qualname__", "<locals>")  # a partial or an object has none
    if isinstance(handler, MethodType) or "<locals>" in name or "<lambda>" in name:
        raise RegistryError(
            f"{where}: process=True needs a handler at module level, "
            "where a worker process can import it"
        )


def _result_conversion(annotation: Any) -> Conversion:
    """A result is only ever read back as a convenience: any return annotation is allowed."""
    try:
        known = Any if isinstance(annotation, Unresolved) else annotation
        return make_converter(known, field="result")
    except TypeError:
        return make_converter(Any, field="result")


def _suggest(handler: Any) -> str:
    return str(getattr(handler, "__name__", "name"))
