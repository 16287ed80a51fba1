"""The service in this process, in moments that no signal of another one can be sure to hit."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import trio
from trio.testing import MockClock

from task_queue_engine.cli.service import ServiceConfig, _Service
from task_queue_engine.config import Settings
from task_queue_engine.engine.engine import Engine
from task_queue_engine.registry import TaskRegistry

if TYPE_CHECKING:
    from task_queue_engine.cli.guard import Guard
    from task_queue_engine.cli.watchdog import Watchdog


async def test_a_signal_in_the_moment_in_which_it_has_started(autojump_clock: MockClock) -> None:
    """After the engine has said that it runs, before the service goes on: it is not lost."""

    class Service(_Service):
        def _make_engine(self) -> Engine:
            return StartedAsTheSignalComes(TaskRegistry(), settings)

    class StartedAsTheSignalComes(Engine):
        async def run(
            self, *, task_status: trio.TaskStatus[Engine] = trio.TASK_STATUS_IGNORED
        ) -> None:
            task_status.started(self)
            service._on_signal()
            await trio.sleep_forever()

    settings = Settings()
    service = Service(
        ServiceConfig(registry=TaskRegistry(), settings=settings, workers=True, http=False),
        # Armed by the signal handler, which has no part in this.
        cast("Watchdog", None),
        cast("Guard", None),
    )
    with trio.fail_after(60):
        await service._run_all()
