"""Exceptions on their way out of a worker process, without one."""

from __future__ import annotations

import importlib
import pickle
import sys
import threading
import types
from pathlib import Path

import msgspec
import pytest

from task_queue_engine import Discard, Retry, Snooze
from task_queue_engine.errors import InvalidTask
from task_queue_engine.execution.failures import describe_error
from task_queue_engine.execution.remote_errors import RemoteError, pack, unpack


class Refused(ValueError):
    def __init__(self, code: int, *, holder: object) -> None:
        super().__init__(f"refused with {code}")
        self.code = code
        self.holder = holder


class Unbuildable(ValueError):
    def __new__(cls, *args: object) -> Unbuildable:
        if "yes, really" not in args:
            raise RuntimeError("not that way")
        return super().__new__(cls, *args)


class Bomb(Exception):
    def __reduce__(self) -> object:
        return exec, ("raise SystemError('unpickled')",)


def travel(error: Exception) -> Exception:
    """There and back, over the wire."""
    try:
        raise error
    except type(error) as caught:
        sent = msgspec.json.encode(pack(caught))
    return unpack(msgspec.json.decode(sent, type=RemoteError))


@pytest.mark.parametrize("error", [Retry(5), Retry(60, "7"), Snooze(5, "later"), Discard("no")])
def test_instructions_arrive_whole(error: Exception) -> None:
    arrived = travel(error)

    assert type(arrived) is type(error)
    assert str(arrived) == str(error)
    assert vars(arrived) == vars(error)


def test_builtin_errors_keep_their_fields() -> None:
    missing = travel(FileNotFoundError(2, "No such file", "a.txt"))
    assert isinstance(missing, FileNotFoundError)
    assert (missing.errno, missing.filename) == (2, "a.txt")

    undecodable = travel(UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid"))
    assert str(undecodable) == "'utf-8' codec can't decode byte 0xff in position 0: invalid"


def test_an_error_with_keyword_arguments_keeps_its_attributes() -> None:
    arrived = travel(InvalidTask("is missing", field="payload.to"))

    assert isinstance(arrived, InvalidTask)
    assert (arrived.field, arrived.reason) == ("payload.to", "is missing")


def test_an_unpicklable_error_keeps_class_message_and_what_pickles() -> None:
    arrived = travel(Refused(7, holder=threading.Lock()))

    assert type(arrived) is Refused
    assert str(arrived) == "refused with 7"
    assert arrived.code == 7
    assert not hasattr(arrived, "holder")


def test_a_class_that_cannot_travel_arrives_as_its_nearest_base() -> None:
    class Local(LookupError):
        pass

    arrived = travel(Local("who?"))

    assert type(arrived) is LookupError
    described = describe_error(arrived)
    assert described.type.endswith("Local")
    assert described.message == "who?"
    assert "in travel" in (described.traceback or "")


def test_a_class_that_refuses_to_be_built_arrives_as_its_base() -> None:
    arrived = travel(Unbuildable("yes, really", threading.Lock()))

    assert type(arrived) is ValueError


def test_a_class_of_a_module_the_engine_has_not_loaded_is_not_imported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = types.ModuleType("only_in_the_worker_process")
    exec("class Odd(ArithmeticError): pass", module.__dict__)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    packed = pack(module.Odd("too odd"))
    monkeypatch.delitem(sys.modules, module.__name__)

    arrived = unpack(packed)

    assert type(arrived) is ArithmeticError
    assert describe_error(arrived).type == "only_in_the_worker_process.Odd"


def test_nor_is_a_module_that_an_error_only_holds_something_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "heavy_module.py").write_text("class Thing: pass")
    monkeypatch.syspath_prepend(tmp_path)
    heavy = importlib.import_module("heavy_module")
    packed = pack(ValueError("with a thing", heavy.Thing()))
    monkeypatch.delitem(sys.modules, "heavy_module")

    arrived = unpack(packed)

    assert type(arrived) is ValueError
    assert "heavy_module" not in sys.modules


def test_pickles_that_fail_or_lie_do_no_harm() -> None:
    assert type(travel(Bomb("x"))) is Bomb

    damaged = msgspec.structs.replace(pack(ValueError("x")), pickled=b"not a pickle")
    assert repr(unpack(damaged)) == "ValueError('x')"

    other = msgspec.structs.replace(pack(ValueError("x")), pickled=pickle.dumps("a string"))
    assert repr(unpack(other)) == "ValueError('x')"


def test_a_huge_error_travels_without_its_state() -> None:
    error = ValueError("x" * 10**6)

    packed = pack(error)

    assert len(msgspec.json.encode(packed)) < 20_000
    assert type(unpack(packed)) is ValueError
