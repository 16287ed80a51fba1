"""Registering task types: what is taken, and what is refused at the decorator."""

from __future__ import annotations

import functools
import math
import re
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import msgspec
import pydantic
import pytest

from task_queue_engine import Backoff, InvalidTask, SyncTaskContext, TaskRegistry
from task_queue_engine import TaskContext as TaskContextAtRunTime
from task_queue_engine.backends.memory import MemoryBackend
from task_queue_engine.errors import RegistryError, UnknownTaskType
from task_queue_engine.registry import RunsIn
from tests.engine.engines import running


def _named(value: object) -> str:
    """The same in every process that runs these tests."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))


@dataclass
class Plain:
    to: str


class Struct(msgspec.Struct):
    to: str


class Model(pydantic.BaseModel):
    to: str


class NotJson:
    def __init__(self, stream: Any) -> None: ...


def at_module_level(payload: Any) -> None: ...


@pytest.fixture
def tasks() -> TaskRegistry:
    return TaskRegistry()


async def test_the_function_stays_as_it_was(tasks: TaskRegistry) -> None:
    async def greet(name: str) -> str:
        return f"Hello, {name}"

    decorated = tasks.task("greet")(greet)
    assert decorated is greet
    assert await decorated("Ada") == "Hello, Ada"
    assert tasks.get("greet") is tasks.get(greet)


def test_options_are_kept(tasks: TaskRegistry) -> None:
    backoff = Backoff(base=7)

    @tasks.task(
        "t",
        max_attempts=5,
        timeout=timedelta(minutes=1),
        backoff=backoff,
        on_error={ValueError: None},
    )
    def t(payload: Any, context: Any) -> None: ...

    definition = tasks.get("t")
    assert (definition.max_attempts, definition.timeout) == (5, 60.0)
    assert (definition.backoff, definition.error_rules) == (backoff, {ValueError: None})
    assert definition.takes_context


def test_where_it_runs_follows_from_what_it_is(tasks: TaskRegistry) -> None:
    @tasks.task("async")
    async def on_trio(payload: Any) -> None: ...

    @tasks.task("sync")
    def in_a_thread(payload: Any) -> None: ...

    tasks.task("process", process=True)(at_module_level)
    assert [tasks.get(name).runs_in for name in ("async", "sync", "process")] == list(RunsIn)


@pytest.mark.parametrize("name", ["a", "email", "image-resize", "a.b:c_d-1", "x" * 128, "9"])
def test_names_that_are_taken(tasks: TaskRegistry, name: str) -> None:
    tasks.task(name)(at_module_level)
    assert name in tasks


@pytest.mark.parametrize("name", ["", " ", "a b", "-a", ".a", "ä", "x" * 129, "a\n", "a/b"])
def test_names_that_are_not(tasks: TaskRegistry, name: str) -> None:
    with pytest.raises(RegistryError, match="a name is 1 to 128"):
        tasks.task(name)(at_module_level)
    assert len(tasks) == 0


def test_a_name_is_taken_once(tasks: TaskRegistry) -> None:
    tasks.task("t")(at_module_level)
    with pytest.raises(RegistryError, match=r"already registered, by .*at_module_level"):

        @tasks.task("t")
        def other(payload: Any) -> None: ...


def test_a_function_is_registered_once(tasks: TaskRegistry) -> None:
    tasks.task("t")(at_module_level)
    with pytest.raises(RegistryError, match="already registered, as 't'"):
        tasks.task("u")(at_module_level)


def none() -> None: ...


def three(a: Any, b: Any, c: Any) -> None: ...


def needs_keyword(payload: Any, *, more: Any) -> None: ...


@pytest.mark.parametrize("handler", [none, three, needs_keyword])
def test_a_handler_takes_a_payload_and_perhaps_a_context(tasks: TaskRegistry, handler: Any) -> None:
    with pytest.raises(RegistryError, match=r"takes \(payload\) or \(payload, context\)"):
        tasks.task("t")(handler)


def test_keywords_with_a_default_do_no_harm(tasks: TaskRegistry) -> None:
    @tasks.task("t")
    def t(payload: Any, *, verbose: bool = False) -> None: ...

    assert not tasks.get("t").takes_context


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"max_attempts": 0}, "max_attempts must be an integer from 1 to 1000, not 0"),
        ({"max_attempts": 1001}, "max_attempts must be"),
        ({"max_attempts": 2**63}, "max_attempts must be"),
        ({"max_attempts": 10**5000}, "max_attempts must be"),
        ({"max_attempts": math.inf}, "max_attempts must be"),
        ({"max_attempts": math.nan}, "max_attempts must be"),
        ({"max_attempts": 2.5}, "max_attempts must be"),
        ({"max_attempts": 3.0}, "max_attempts must be"),
        ({"max_attempts": True}, "max_attempts must be"),
        ({"max_attempts": "3"}, "max_attempts must be"),
        ({"max_attempts": [3]}, "max_attempts must be"),
        ({"timeout": "30"}, "timeout must be 0 to"),
        ({"timeout": True}, "timeout must be 0 to"),
        ({"timeout": math.inf}, "timeout must be 0 to"),
        ({"timeout": 10**400}, "timeout must be 0 to"),
        ({"timeout": 10**5000}, "timeout must be 0 to"),
        ({"timeout": [1]}, "timeout must be 0 to"),
        ({"backoff": 5}, "backoff must be a Backoff, not 5"),
        ({"backoff": Backoff}, "backoff must be a Backoff"),
        ({"on_error": [ValueError]}, "on_error must map exception types"),
        ({"on_error": {"ValueError": None}}, "on_error: 'ValueError' is not an exception type"),
        ({"on_error": {ValueError("x"): None}}, "on_error: .* is not an exception type"),
        ({"on_error": {int: None}}, "on_error: .* is not an exception type"),
        ({"on_error": {ValueError: 5}}, "on_error: ValueError needs a Backoff or None, not 5"),
        ({"process": 1}, "process must be True or False"),
        ({"timeout": 0}, "timeout must be more than 0"),
        ({"timeout": -1}, "timeout must be 0 to"),
        ({"timeout": float("nan")}, "timeout must be 0 to"),
    ],
)
def test_options_that_make_no_sense(
    tasks: TaskRegistry, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(RegistryError, match=said) as caught:
        tasks.task("t", **options)(at_module_level)
    assert "\n" not in str(caught.value)
    assert len(tasks) == 0


def test_process_handlers_can_be_found_by_a_worker_process(tasks: TaskRegistry) -> None:
    def local(payload: Any) -> None: ...

    async def on_trio(payload: Any) -> None: ...

    with pytest.raises(RegistryError, match="at module level"):
        tasks.task("t", process=True)(local)
    with pytest.raises(RegistryError, match="plain `def`"):
        tasks.task("t", process=True)(on_trio)
    with pytest.raises(RegistryError, match="at module level"):
        tasks.task("t", process=True)(lambda payload: None)


def test_an_annotation_that_is_no_json_is_refused_at_once(tasks: TaskRegistry) -> None:
    with pytest.raises(RegistryError, match="the payload annotation is neither JSON nor"):

        @tasks.task("t")
        def t(payload: NotJson) -> None: ...


if TYPE_CHECKING:
    from decimal import Decimal as OnlyForTheTypeChecker

    from task_queue_engine import TaskContext


async def announced(payload: Plain, context: TaskContext) -> OnlyForTheTypeChecker | None:
    return None


def with_a_hidden_payload(payload: OnlyForTheTypeChecker) -> Plain:
    return Plain(str(payload))


def test_what_is_imported_for_the_type_checker_alone_keeps_nothing_from_starting(
    tasks: TaskRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    tasks.task("a")(announced)
    definition = tasks.get("a")
    assert definition.takes_context
    assert definition.convert_payload({"to": "Ada"}) == Plain("Ada")  # its own is known
    assert not caplog.records

    tasks.task("b")(with_a_hidden_payload)
    assert tasks.names == ("a", "b")
    (record,) = caplog.records
    said = record.getMessage()
    assert "'b'" in said
    assert "with_a_hidden_payload" in said
    assert "'OnlyForTheTypeChecker' cannot be resolved" in said
    assert "\n" not in said
    assert tasks.get("b").convert_payload({"any": 1}) == {"any": 1}
    assert tasks.get("b").convert_result({"to": "Ada"}) == Plain("Ada")
    assert tasks.names == ("a", "b")
    assert len(caplog.records) == 1  # once


def test_a_class_further_down_in_the_module_is_found(
    tasks: TaskRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    names: dict[str, Any] = {"tasks": tasks}
    exec("@tasks.task('t')\ndef t(payload: 'Later'): ...\n", names)
    exec("from dataclasses import dataclass\n@dataclass\nclass Later:\n    to: str\n", names)
    with pytest.raises(InvalidTask):
        tasks.get("t").convert_payload({"to": 5})
    whole = TaskRegistry()
    whole.include(tasks)
    assert whole.get("t").convert_payload({"to": "Ada"}) == names["Later"]("Ada")
    assert not caplog.records


def test_a_class_further_down_that_is_no_json_is_refused_when_it_is_known(
    tasks: TaskRegistry,
) -> None:
    names: dict[str, Any] = {"tasks": tasks}
    exec("@tasks.task('t')\ndef t(payload: 'Later'): ...\nclass Later: ...\n", names)
    with pytest.raises(RegistryError, match="neither JSON nor"):
        tasks.get("t")


class Greeter:
    def __init__(self, greeting: str) -> None:
        self.greeting = greeting

    async def greet(self, payload: Plain) -> str:
        return f"{self.greeting}, {payload.to}"

    async def __call__(self, payload: Plain, context: Any) -> str:
        return f"{self.greeting}, {payload.to}"


class Caller:
    def __call__(self, payload: Plain) -> str:
        return payload.to


def greet(greeting: str, payload: Plain, context: Any, *, loud: bool = False) -> str:
    return f"{greeting}, {payload.to}"


async def greet_later(payload: Plain, *, greeting: str = "x") -> str:
    return f"{greeting}, {payload.to}"


class Holder:
    @staticmethod
    async def handle(payload: Plain) -> str:
        return payload.to

    @classmethod
    async def build(cls, payload: Plain) -> str:
        return f"{cls.__name__}, {payload.to}"


@pytest.mark.parametrize(
    ("handler", "runs_in", "takes_context"),
    [
        (functools.partial(greet, "Hi"), RunsIn.THREAD, True),
        (functools.partial(functools.partial(greet, "Hi"), loud=True), RunsIn.THREAD, True),
        (functools.partial(greet_later, greeting="Hi"), RunsIn.TRIO, False),
        (Greeter("Hi"), RunsIn.TRIO, True),
        (Greeter("Hi").greet, RunsIn.TRIO, False),
        (Caller(), RunsIn.THREAD, False),
        (functools.partial(Greeter.greet, Greeter("Hi")), RunsIn.TRIO, False),
        (Holder.handle, RunsIn.TRIO, False),
        (Holder.build, RunsIn.TRIO, False),
        (staticmethod(greet_later), RunsIn.TRIO, False),
        (lambda payload: payload, RunsIn.THREAD, False),
    ],
    ids=_named,
)
def test_what_can_be_called_can_be_a_handler(
    tasks: TaskRegistry, handler: Any, runs_in: RunsIn, takes_context: bool
) -> None:
    assert tasks.task("t")(handler) is handler
    definition = tasks.get("t")
    assert (definition.runs_in, definition.takes_context) == (runs_in, takes_context)
    called = handler.__func__ if isinstance(handler, staticmethod) else handler
    assert tasks.get(called) is definition
    if "lambda" not in repr(handler):
        assert definition.convert_payload({"to": "Ada"}) == Plain("Ada")


async def test_handlers_of_all_kinds_run(tasks: TaskRegistry, autojump_clock: Any) -> None:
    hi = Greeter("Hi")
    for name, handler in {
        "partial": functools.partial(greet, "Hi"),
        "async partial": functools.partial(greet_later, greeting="Hi"),
        "object": hi,
        "method": hi.greet,
    }.items():
        tasks.task(name.replace(" ", "-"))(handler)
    backend = MemoryBackend()
    async with running(tasks, backend) as engine:
        for name in tasks.names:
            handle = await engine.submit(name, Plain("Ada"))
            assert await handle.result() == "Hi, Ada"


def generator(payload: Any) -> Any:
    yield payload


async def async_generator(payload: Any) -> Any:
    yield payload


def retries(payload: Any, retries: int = 3) -> None: ...
def amount(payload: Any, amount: int) -> None: ...
def items(payload: Any, items: list[int]) -> None: ...
def wrong_context(payload: Any, context: TaskContextAtRunTime) -> None: ...
async def wrong_async_context(payload: Any, context: SyncTaskContext) -> None: ...
def method_like(self: Any, payload: Any) -> None: ...


class WithoutHash:
    __hash__ = None  # type: ignore[assignment]  # the point

    def __call__(self, payload: Any) -> None: ...


@pytest.mark.parametrize(
    ("handler", "said"),
    [
        (generator, "is a generator: return the result"),
        (async_generator, "is a generator: return the result"),
        (functools.partial(generator), "is a generator"),
        (Plain, "is a class: register a function"),
        (Greeter, "is a class"),
        (Greeter.greet, r"is a method in its class: .*tasks.task\(NAME\)\(object.method\)"),
        (Greeter.__call__, "is a method in its class"),
        (vars(Holder)["build"], "is a classmethod"),
        (5, "is no function"),
        (None, "is no function"),
        (retries, "second parameter 'retries' would be given the context: make it keyword-only"),
        (amount, "second parameter 'amount' would be given the context"),
        (items, "second parameter 'items' would be given the context"),
        (wrong_context, "a `def` handler gets a SyncTaskContext, not a TaskContext"),
        (wrong_async_context, "an `async def` handler gets a TaskContext, not a SyncTaskContext"),
        (WithoutHash(), "no hash"),
        (print, r"a handler takes \(payload\)"),
        (functools.partial(greet), r"a handler takes \(payload\)"),
    ],
    ids=_named,
)
def test_what_cannot_be_a_handler_is_told_what_to_do(
    tasks: TaskRegistry, handler: Any, said: str
) -> None:
    with pytest.raises(RegistryError, match=said) as caught:
        tasks.task("t")(handler)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("task type 't' (")
    assert len(tasks) == 0


def test_a_decorator_without_a_name_is_told_so(tasks: TaskRegistry) -> None:
    with pytest.raises(RegistryError, match=r'needs a name: @tasks.task\("at_module_level"\)'):
        tasks.task(at_module_level)  # type: ignore[arg-type]  # the point
    with pytest.raises(RegistryError, match="a name is 1 to 128"):
        tasks.task(5)(at_module_level)  # type: ignore[arg-type]  # the point
    with pytest.raises(RegistryError, match="a name is 1 to 128"):
        tasks.task("\ud800")(at_module_level)


@pytest.mark.parametrize("second", ["context", "_", "ctx"])
def test_a_second_parameter_without_an_annotation_is_the_context(
    tasks: TaskRegistry, second: str
) -> None:
    names: dict[str, Any] = {}
    exec(f"def t(payload, {second}): ...\ndef u(payload, {second}=None): ...", names)
    tasks.task("t")(names["t"])
    tasks.task("u")(names["u"])
    assert tasks.get("t").takes_context
    assert tasks.get("u").takes_context


def test_a_partial_cannot_be_found_by_a_worker_process(tasks: TaskRegistry) -> None:
    for handler in (functools.partial(greet, "Hi"), Caller(), Holder().build):
        with pytest.raises(RegistryError, match=r"process=True needs"):
            tasks.task("t", process=True)(handler)


def test_a_handler_without_a_hash_is_no_task_either(tasks: TaskRegistry) -> None:
    with pytest.raises(UnknownTaskType):
        tasks.get(WithoutHash())
    with pytest.raises(UnknownTaskType):
        tasks.get([])  # type: ignore[arg-type]  # the point


def test_any_annotation_of_a_result_is_fine(tasks: TaskRegistry) -> None:
    @tasks.task("t")
    def t(payload: Any) -> NotJson:
        return NotJson(1)

    assert tasks.get("t").convert_result({"a": 1}) == {"a": 1}


@pytest.mark.parametrize("annotation", [Plain, Struct, Model])
def test_payload_annotations_are_enforced(tasks: TaskRegistry, annotation: Any) -> None:
    def t(payload: Any) -> None: ...

    t.__annotations__["payload"] = annotation
    tasks.task("t")(t)
    convert = tasks.get("t").convert_payload
    converted = convert({"to": "Ada"})
    assert isinstance(converted, annotation)
    assert converted.to == "Ada"
    with pytest.raises(InvalidTask) as caught:
        convert({"to": 5})
    assert caught.value.field == "payload.to"


def test_a_wrapped_handler_is_still_an_async_one(tasks: TaskRegistry) -> None:
    async def inner(payload: int) -> None: ...

    @functools.wraps(inner)
    async def outer(*args: Any, **kwargs: Any) -> None:
        await inner(*args, **kwargs)

    tasks.task("t")(outer)
    definition = tasks.get("t")
    assert definition.runs_in is RunsIn.TRIO
    with pytest.raises(InvalidTask):
        definition.convert_payload("x")


def test_what_is_not_registered_is_told_with_what_is(tasks: TaskRegistry) -> None:
    tasks.task("b")(at_module_level)
    tasks.task("a")(lambda payload: None)
    with pytest.raises(UnknownTaskType, match="unknown task type 'c'; registered: a, b"):
        tasks.get("c")
    with pytest.raises(UnknownTaskType, match="none_"):
        tasks.get(none_)
    with pytest.raises(UnknownTaskType, match="registered: none"):
        TaskRegistry().get("c")


def none_(payload: Any) -> None: ...


def test_registries_can_be_put_together(tasks: TaskRegistry) -> None:
    tasks.task("a")(at_module_level)
    whole = TaskRegistry()
    whole.include(tasks)
    assert whole.names == ("a",)
    assert whole.get(at_module_level) is tasks.get("a")
    assert [definition.name for definition in whole] == ["a"]
    with pytest.raises(RegistryError, match="already registered"):
        whole.include(tasks)


# --- aliases --------------------------------------------------------------------------------


def test_a_renamed_type_is_found_by_its_old_names(tasks: TaskRegistry) -> None:
    @tasks.task("send-email", aliases=["mail", "email.send"])
    async def send_email(payload: Any) -> None: ...

    definition = tasks.get("mail")
    assert definition is tasks.get("send-email") is tasks.get(send_email)
    assert definition.name == tasks.canonical("email.send") == "send-email"
    assert tasks.names == ("send-email",)
    assert [one.name for one in tasks] == ["send-email"]
    assert len(tasks) == 1
    assert "mail" in tasks
    assert tasks.canonical("unheard-of") == "unheard-of"
    other = TaskRegistry()
    other.include(tasks)
    assert other.get("mail") is definition


@pytest.mark.parametrize(
    ("name", "aliases", "said"),
    [
        ("b", ["a"], "alias 'a' is already registered, by .*first$"),
        ("b", ["old"], "alias 'old' is already registered, by .*first, as an alias of 'a'"),
        ("old", [], "task type 'old' is already registered, by .*first, as an alias of 'a'"),
        ("b", ["b"], "each name is given once"),
        ("b", ["c", "c"], "each name is given once"),
        ("b", "cd", "aliases must be a list of names"),
        ("b", [1], "alias 1: a name is"),
        ("b", ["no spaces"], "alias 'no spaces': a name is"),
    ],
)
def test_aliases_that_make_no_sense(
    tasks: TaskRegistry, name: str, aliases: Any, said: str
) -> None:
    @tasks.task("a", aliases=["old"])
    async def first(payload: Any) -> None: ...

    with pytest.raises(RegistryError, match=said):

        @tasks.task(name, aliases=aliases)
        async def second(payload: Any) -> None: ...

    assert tasks.names == ("a",)


def test_a_registry_with_a_taken_alias_is_not_included(tasks: TaskRegistry) -> None:
    @tasks.task("a", aliases=["old"])
    async def first(payload: Any) -> None: ...

    other = TaskRegistry()

    @other.task("b", aliases=["old"])
    async def second(payload: Any) -> None: ...

    with pytest.raises(RegistryError, match="alias 'old' is already registered"):
        other.include(tasks)
