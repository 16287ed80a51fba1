"""Spans of submissions and attempts, as a real SDK of OpenTelemetry exports them."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from msgspec import UNSET
from opentelemetry import trace
from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind, StatusCode

from task_queue_engine import (
    AttemptOutcome,
    Backoff,
    Engine,
    InvalidTask,
    Refused,
    Snooze,
    Submission,
    TaskContext,
    TaskFailed,
    TaskRegistry,
    TaskStatus,
)
from task_queue_engine.backends.memory import MemoryBackend
from task_queue_engine.backends.sqlite import SqliteBackend
from task_queue_engine.execution.attempt_logs import AttemptLogFilter
from task_queue_engine.trace_context import TraceContext
from tests.engine import traced_handlers
from tests.engine.engines import EVERY_SECOND, ended, reaches, running, settings
from tests.spans import Spans, id_of, install, links_of, parent_of, spans, trace_of

__all__ = ["spans"]  # the fixture

GIVEN = TraceContext(
    trace_id="4bf92f3577b34da6a3ce929d0e0e4736",
    span_id="00f067aa0ba902b7",
    sampled=True,
    tracestate="vendor=1",
)


AT_ONCE = Backoff(base=0.01, factor=1, jitter=False)


@asynccontextmanager
async def on(kind: str, tasks: TaskRegistry, folder: Path) -> AsyncIterator[Engine]:
    """In real time."""
    backend = MemoryBackend() if kind == "memory" else SqliteBackend(folder / "tasks.db")
    engine = Engine(tasks, settings(processes=1), backend=backend)
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            await nursery.start(engine.run)
            yield engine
            await engine.stop()


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_the_whole_life_of_a_task_with_a_retry(
    kind: str, tasks: TaskRegistry, tmp_path: Path, spans: Spans
) -> None:
    @tasks.task("mail", backoff=AT_ONCE)
    async def mail(payload: Any, context: TaskContext) -> str:
        with spans.tracer.start_as_current_span("of the handler"):
            if context.attempt == 1:
                raise ConnectionError("no answer")
        return "sent"

    async with on(kind, tasks, tmp_path) as engine:
        with spans.tracer.start_as_current_span("of the caller"):
            handle = await engine.submit("mail", {"secret": "xyzzy"})
        assert await handle.result(timeout=30) == "sent"
        task = await handle.task()

    (caller,) = spans.named("of the caller")
    submitted = spans.one("submit default")
    first, second = spans.named("process default")
    assert len({trace_of(span) for span in spans.all}) == 1
    assert task.trace_id == trace_of(caller)
    assert parent_of(submitted) == id_of(caller)
    assert submitted.kind is SpanKind.PRODUCER
    assert submitted.attributes == {
        "messaging.system": "task_queue_engine",
        "messaging.operation.name": "submit",
        "messaging.operation.type": "send",
        "messaging.destination.name": "default",
        "messaging.message.id": handle.id,
        "tqe.task.type": "mail",
    }
    assert submitted.status.status_code is StatusCode.UNSET

    for span in (first, second):
        assert span.kind is SpanKind.CONSUMER
        assert parent_of(span) == id_of(submitted)
    assert links_of(first) == [id_of(submitted)]
    assert links_of(second) == [id_of(submitted), id_of(first)]
    assert second.links[1].attributes == {"tqe.link": "attempt before"}
    assert first.attributes == {
        "messaging.system": "task_queue_engine",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": "default",
        "messaging.message.id": handle.id,
        "messaging.client.id": task.worker,
        "tqe.task.type": "mail",
        "tqe.task.attempt": 1,
        "tqe.task.retry_count": 0,
        "tqe.task.max_attempts": 3,
        "tqe.task.outcome": "retried",
        "tqe.task.retry_delay": 0.01,
        "error.type": "ConnectionError",
    }
    assert first.status.status_code is StatusCode.ERROR
    (event,) = first.events
    assert event.name == "exception"
    assert event.attributes is not None
    assert event.attributes["exception.type"] == "ConnectionError"
    assert event.attributes["exception.message"] == "no answer"
    assert "Traceback" in str(event.attributes["exception.stacktrace"])
    assert second.attributes is not None
    assert second.attributes["tqe.task.attempt"] == 2
    assert second.attributes["tqe.task.outcome"] == "succeeded"
    assert "error.type" not in second.attributes
    assert second.status.status_code is StatusCode.UNSET
    assert not second.events
    inner = spans.named("of the handler")
    assert [parent_of(span) for span in inner] == [id_of(first), id_of(second)]
    assert "xyzzy" not in "".join(span.to_json() for span in spans.all)


async def test_a_failure_cancel_and_snooze_say_so(
    tasks: TaskRegistry, backend: MemoryBackend, spans: Spans
) -> None:
    started = trio.Event()

    @tasks.task("fail", max_attempts=1)
    async def fail(payload: Any) -> None:
        raise ValueError("no good")

    @tasks.task("long")
    async def long(payload: Any) -> None:
        started.set()
        await trio.sleep_forever()

    @tasks.task("later")
    async def later(payload: Any, context: TaskContext) -> None:
        if context.attempt == 1:
            raise Snooze(5)

    async with running(tasks, backend) as engine:
        failing = await engine.submit("fail")
        await ended(engine, failing.id)
        running_one = await engine.submit("long")
        await started.wait()
        await running_one.cancel()
        await ended(engine, running_one.id)
        never = await engine.submit("fail", delay=3600)
        await never.cancel()
        await ended(engine, (await engine.submit("later")).id)
    processed = spans.named("process default")
    about = [
        (dict(span.attributes or {})["tqe.task.outcome"], span.status.status_code)
        for span in processed
    ]
    assert about == [
        ("failed", StatusCode.ERROR),
        ("cancelled", StatusCode.UNSET),
        ("snoozed", StatusCode.UNSET),
        ("succeeded", StatusCode.UNSET),
    ]
    assert dict(processed[2].attributes or {})["tqe.task.retry_delay"] == 5
    assert links_of(processed[3])[1:] == [id_of(processed[2])]


async def test_a_shutdown_gives_back_with_a_link(
    tasks: TaskRegistry, backend: MemoryBackend, spans: Spans
) -> None:
    @tasks.task("long")
    async def long(payload: Any, context: TaskContext) -> None:
        if context.attempt == 1:
            await trio.sleep_forever()

    async with backend.open():
        async with running(tasks, backend, shutdown_grace=1) as engine:
            handle = await engine.submit("long")
            await reaches(engine, handle.id, TaskStatus.PROCESSING)
        async with running(tasks, backend) as engine:
            await engine.result(handle.id, timeout=30)
    first, second = spans.named("process default")
    assert dict(first.attributes or {})["tqe.task.outcome"] == "interrupted"
    assert links_of(second)[1:] == [id_of(first)]


async def test_delayed_retried_and_redriven_tasks_stay_in_their_trace(
    tasks: TaskRegistry, backend: MemoryBackend, spans: Spans
) -> None:
    failing = True

    @tasks.task("work", max_attempts=1)
    async def work(payload: Any) -> None:
        if failing:
            raise ValueError

    async with running(tasks, backend) as engine:
        with spans.tracer.start_as_current_span("of the caller"):
            by_hand = await engine.submit("work", 1, delay=1800)
            redriven = await engine.submit("work", 2, delay=1800)
        for handle in (by_hand, redriven):
            with pytest.raises(TaskFailed):
                await handle.result(timeout=7200)
        failing = False
        await engine.retry(by_hand.id)
        await by_hand.result(timeout=60)
        letters = await engine.list_dead()
        (letter,) = [one.id for one in letters.dead_letters if one.task_id == redriven.id]
        assert (await engine.redrive([letter])).redriven == 1
        await redriven.result(timeout=60)
    assert len({trace_of(span) for span in spans.all}) == 1
    for handle in (by_hand, redriven):
        first, second = (
            span
            for span in spans.named("process default")
            if (span.attributes or {})["messaging.message.id"] == handle.id
        )
        assert links_of(second)[1:] == [id_of(first)]


async def test_a_batch_has_one_span_to_which_its_attempts_link(
    tasks: TaskRegistry, backend: MemoryBackend, spans: Spans
) -> None:
    @tasks.task("work")
    async def work(payload: Any) -> None: ...

    async with running(tasks, backend) as engine:
        verdicts = await engine.submit_many(
            [
                Submission(task="work", payload=1, trace_context=GIVEN),
                Submission(task="work", payload=2),
                Submission(task="unknown", payload=3),
            ]
        )
        for verdict in verdicts[:2]:
            assert not isinstance(verdict, Refused)
            await engine.result(verdict.task.id, timeout=30)
    submitted = spans.one("submit default")
    assert submitted.attributes is not None
    assert submitted.attributes["messaging.batch.message_count"] == 3
    assert submitted.attributes["tqe.submit.refused"] == 1
    assert submitted.attributes["error.type"] == "task_queue_engine.errors.UnknownTaskType"
    assert submitted.status.status_code is StatusCode.ERROR
    assert links_of(submitted) == [GIVEN.span_id]
    for span in spans.named("process default"):
        assert parent_of(span) == id_of(submitted)
        assert links_of(span) == [id_of(submitted)]


async def test_a_span_between_the_header_and_the_submission_is_its_parent(
    tasks: TaskRegistry, backend: MemoryBackend, spans: Spans
) -> None:
    """As an instrumented web framework has one. A span of another trace is none of it."""

    @tasks.task("work")
    async def work(payload: Any) -> None: ...

    of_header = trace.set_span_in_context(
        trace.NonRecordingSpan(
            trace.SpanContext(
                int(GIVEN.trace_id, 16),
                int(GIVEN.span_id, 16),
                is_remote=True,
                trace_flags=trace.TraceFlags(1),
            )
        )
    )
    submission = Submission(task="work", trace_context=GIVEN)
    async with running(tasks, backend, consume=False) as engine:
        with spans.tracer.start_as_current_span("of the framework", of_header):
            await engine.submit_task(submission)
        with spans.tracer.start_as_current_span("of another trace"):
            await engine.submit_task(submission)
    first, second = spans.named("submit default")
    assert parent_of(first) == id_of(spans.one("of the framework"))
    assert parent_of(second) == GIVEN.span_id


async def test_a_tracer_provider_that_cannot_be_loaded_keeps_no_engine_from_starting(
    tasks: TaskRegistry,
    backend: MemoryBackend,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", None)
    monkeypatch.setenv("OTEL_PYTHON_TRACER_PROVIDER", "not_there")

    @tasks.task("work")
    async def work(payload: Any) -> str:
        return "done"

    async with running(tasks, backend) as engine:
        assert await (await engine.submit("work")).result(timeout=30) == "done"
    assert "tracer provider has failed" in caplog.text


async def test_a_refusal_and_a_repetition_show_at_the_submission(
    tasks: TaskRegistry, backend: MemoryBackend, spans: Spans
) -> None:
    @tasks.task("work")
    async def work(payload: Any) -> None: ...

    async with running(tasks, backend, consume=False) as engine:
        with pytest.raises(InvalidTask):
            await engine.submit("work", 1, max_attempts=0)
        await engine.submit("work", 1, idempotency_key="a")
        again = await engine.submit("work", 1, idempotency_key="a")
        assert not again.created
        task = await again.task()
        with pytest.raises(InvalidTask):
            await engine.submit("\ud800")
    refused, first, second, no_text = spans.named("submit default")
    assert (no_text.attributes or {})["tqe.task.type"] == "\\ud800"
    assert "\ud800" not in str(no_text.status.description)
    assert (refused.attributes or {})["error.type"] == "task_queue_engine.errors.InvalidTask"
    assert refused.status.status_code is StatusCode.ERROR
    assert task.trace_id == trace_of(first)
    assert links_of(second) == [id_of(first)]
    assert (second.attributes or {})["tqe.submit.replayed"] is True


async def test_a_task_without_a_context_is_of_its_first_attempt_s_trace(
    tasks: TaskRegistry, backend: MemoryBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    @tasks.task("work", backoff=EVERY_SECOND)
    async def work(payload: Any, context: TaskContext) -> None:
        if context.attempt == 1:
            raise ValueError

    async with backend.open():
        async with running(tasks, backend, consume=False) as engine:
            handle = await engine.submit("work")
            assert (await handle.task()).trace_context is UNSET
        spans = Spans()
        install(monkeypatch, spans)
        # Not of the trace in which the program happened to start its engine.
        with spans.tracer.start_as_current_span("of the start"):
            async with running(tasks, backend) as engine:
                await engine.result(handle.id, timeout=30)
                task = await engine.get(handle.id)
    first, second = spans.named("process default")
    assert (parent_of(first), links_of(first)) == (None, [])
    assert trace_of(first) == trace_of(second) == task.trace_id
    assert trace_of(first) != trace_of(spans.one("of the start"))
    assert id_of(first) in links_of(second)


async def test_without_a_tracer_provider_a_context_is_handed_on(
    tasks: TaskRegistry, backend: MemoryBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    @tasks.task("work")
    async def work(payload: Any) -> None: ...

    async with backend.open():
        async with running(tasks, backend, consume=False) as engine:
            accepted = await engine.submit_task(Submission(task="work", trace_context=GIVEN))
            assert accepted.task.trace_context == GIVEN
        spans = Spans()
        install(monkeypatch, spans)
        async with running(tasks, backend) as engine:
            await engine.result(accepted.task.id, timeout=30)
    processed = spans.one("process default")
    assert (trace_of(processed), parent_of(processed)) == (GIVEN.trace_id, GIVEN.span_id)
    assert processed.context.trace_state.to_header() == "vendor=1"


async def test_what_is_not_sampled_stays_so_and_writes_nothing_more(
    tasks: TaskRegistry, backend: MemoryBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    off = Spans(ALWAYS_OFF)
    install(monkeypatch, off)

    @tasks.task("work", backoff=EVERY_SECOND)
    async def work(payload: Any, context: TaskContext) -> None:
        if context.attempt == 1:
            raise ValueError

    async with running(tasks, backend) as engine:
        handle = await engine.submit("work")
        await handle.result(timeout=30)
        context = (await handle.task()).trace_context
    assert context is not UNSET
    assert (context.sampled, context.last_span_id) == (False, UNSET)
    assert off.all == ()


async def test_a_thread_and_a_worker_process_are_within_the_span(
    tasks: TaskRegistry, tmp_path: Path, spans: Spans
) -> None:
    tasks.task("thread")(lambda payload: traced_handlers.says_what_is_active(payload))
    tasks.task("process", process=True)(traced_handlers.says_what_is_active)
    async with on("memory", tasks, tmp_path) as engine:
        seen = [
            await (await engine.submit(kind)).result(timeout=60) for kind in ("thread", "process")
        ]
    for span, (trace_id, span_id) in zip(spans.named("process default"), seen, strict=True):
        assert (trace_id, span_id) == (trace_of(span), id_of(span))


class Collected(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.addFilter(AttemptLogFilter())
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@pytest.fixture
def collected() -> Iterator[Collected]:
    handler = Collected()
    logging.root.addHandler(handler)
    yield handler
    logging.root.removeHandler(handler)


async def test_log_lines_say_the_span(
    tasks: TaskRegistry, tmp_path: Path, spans: Spans, collected: Collected
) -> None:
    tasks.task("thread")(lambda payload: traced_handlers.warns(payload))
    tasks.task("process", process=True)(traced_handlers.warns)
    tasks.task("inner", process=True)(traced_handlers.warns_in_a_span_of_its_own)

    @tasks.task("trio")
    async def on_trio(payload: Any) -> None:
        with spans.tracer.start_as_current_span("inner"):
            traced_handlers.warns(payload)

    async with on("memory", tasks, tmp_path) as engine:
        for kind in ("thread", "process", "trio", "inner"):
            await (await engine.submit(kind)).result(timeout=60)
    said = [
        (record.__dict__["trace_id"], record.__dict__["span_id"])
        for record in collected.records
        if record.getMessage() == "mind this"
    ]
    thread, process, on_loop, _ = spans.named("process default")
    inner = spans.one("inner")
    assert said == [(trace_of(span), id_of(span)) for span in (thread, process, inner)]
    assert trace_of(inner) == trace_of(on_loop)
    (that,) = (one for one in collected.records if one.getMessage() == "mind that")
    assert that.__dict__["span_id"] == f"{0x1234:016x}"


DOCUMENT = Path(__file__).parents[2] / "docs" / "tracing.md"


async def test_the_document_tells_all_spans_and_attributes(
    tasks: TaskRegistry, backend: MemoryBackend, spans: Spans
) -> None:
    @tasks.task("work", backoff=EVERY_SECOND)
    async def work(payload: Any, context: TaskContext) -> None:
        if context.attempt == 1:
            raise ValueError

    one = Submission(task="work", idempotency_key="a")
    async with running(tasks, backend) as engine:
        accepted = await engine.submit_task(one)
        await engine.result(accepted.task.id, timeout=60)
        await engine.submit_task(one)
        await engine.submit_many([one, Submission(task="unknown")])
    seen = {name for span in spans.all for name in span.attributes or {}}
    seen |= {name for span in spans.all for link in span.links for name in link.attributes or {}}
    text = DOCUMENT.read_text(encoding="utf-8")
    about_spans, about_attributes = text.split("## Spans")[1].split("### Attributes")
    assert set(re.findall(r"^\| `([a-z_.]+)`", about_attributes, re.M)) == seen
    told = dict(re.findall(r"^\| `([a-z]+) \{queue\}` \| ([A-Z]+)", about_spans, re.M))
    assert {f"{name} default": kind for name, kind in told.items()} == {
        span.name: span.kind.name for span in spans.all
    }
    (outcomes,) = re.findall(r"^\| `tqe.task.outcome` \| process \| (.*), as in", text, re.M)
    assert set(re.findall("`([a-z_]+)`", outcomes)) == {each.value for each in AttemptOutcome} - {
        "running",
        "crashed",
    }


class Broken(SpanProcessor):
    def on_start(self, *args: Any, **kwargs: Any) -> None:
        raise RuntimeError("no room")


async def test_a_tracer_provider_that_raises_harms_no_task(
    tasks: TaskRegistry,
    backend: MemoryBackend,
    spans: Spans,
    caplog: pytest.LogCaptureFixture,
) -> None:
    spans.provider.add_span_processor(Broken())

    @tasks.task("work")
    async def work(payload: Any) -> str:
        return "done"

    async with running(tasks, backend) as engine:
        assert await (await engine.submit("work")).result(timeout=30) == "done"
    assert "tracer provider has failed" in caplog.text


async def test_a_stored_context_that_is_none_harms_no_task(
    tasks: TaskRegistry, backend: MemoryBackend, spans: Spans
) -> None:
    @tasks.task("work")
    async def work(payload: Any) -> str:
        return "done"

    bad = TraceContext(trace_id="no hex", span_id="x", sampled=True)
    async with running(tasks, backend) as engine:
        accepted = await engine.submit_task(Submission(task="work", trace_context=bad))
        assert await engine.result(accepted.task.id, timeout=30) == "done"


PROGRAM = """
import sys, trio
from task_queue_engine import Engine, Settings, TaskRegistry
if "with" in sys.argv:
    import opentelemetry.trace
tasks = TaskRegistry()

@tasks.task("work")
async def work(payload): ...

calls = 0
def profile(frame, event, argument):
    global calls
    name = frame.f_code.co_filename
    if event == "call" and ("opentelemetry" in name or name.endswith(("tracing.py", "_spans.py"))):
        calls += 1

async def main():
    async with trio.open_nursery() as nursery:
        engine = await nursery.start(Engine(tasks, Settings(backend="memory", _env_file=None)).run)
        sys.setprofile(profile)
        for _ in range(20):
            await (await engine.submit("work")).result(timeout=60)
        sys.setprofile(None)
        await engine.stop()
trio.run(main)
print(calls, any(name.startswith("opentelemetry") for name in sys.modules))
"""


@pytest.mark.parametrize("program", ["with", "without"])
def test_where_nothing_is_traced_nothing_is_called_or_imported(program: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, program], capture_output=True, text=True, check=True
    )
    assert ended.stdout.split() == ["0", str(program == "with")]
