"""Registering task types: what is taken, and what is refused at the decorator."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import msgspec
import pydantic
import pytest

from task_queue_engine import Backoff, InvalidTask, TaskRegistry
from task_queue_engine.errors import RegistryError, UnknownTaskType
from task_queue_engine.registry import RunsIn


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
        ({"max_attempts": 0}, "max_attempts must be at least 1"),
        ({"timeout": 0}, "timeout must be more than 0"),
        ({"timeout": -1}, "timeout must be 0 to"),
        ({"timeout": float("nan")}, "timeout must be 0 to"),
    ],
)
def test_options_that_make_no_sense(
    tasks: TaskRegistry, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(RegistryError, match=said):
        tasks.task("t", **options)(at_module_level)


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


def test_an_annotation_that_cannot_be_resolved_is_refused_at_once(tasks: TaskRegistry) -> None:
    def t(payload: Elsewhere) -> None: ...  # type: ignore[name-defined]  # noqa: F821 - the point

    with pytest.raises(RegistryError, match="cannot be resolved: name 'Elsewhere'"):
        tasks.task("t")(t)


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
        ("b", [1], "aliases must be a list of names"),
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
