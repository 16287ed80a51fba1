"""Workers by id."""

from __future__ import annotations

from datetime import timedelta

import msgspec

from task_queue_engine.backends.memory.state import MemoryState
from task_queue_engine.worker import LIVING_FOR, LOST_FOR, Worker, WorkerList, in_order


class MemoryWorkers:
    def __init__(self, state: MemoryState) -> None:
        self._state = state

    async def put(self, worker: Worker) -> None:
        def put() -> None:
            seen = msgspec.structs.replace(worker, last_seen=self._state.clock.now())
            self._state.workers[worker.id] = seen

        await self._state.call("put_worker", put)

    async def remove(self, worker_id: str) -> None:
        def remove() -> None:
            self._state.workers.pop(worker_id, None)

        await self._state.call("remove_worker", remove)

    async def look(self) -> WorkerList:
        def look() -> WorkerList:
            now = self._state.clock.now()
            living_since = now - timedelta(seconds=LIVING_FOR)
            lost_since = now - timedelta(seconds=LOST_FOR)
            rows = list(self._state.workers.values())
            living = [row for row in rows if row.last_seen >= living_since]
            lost = [row for row in rows if row.slots and lost_since <= row.last_seen < living_since]
            return WorkerList(workers=in_order(living), lost=len(lost))

        return await self._state.call("look_at_workers", look)

    async def forget_lost(self) -> None:
        def forget() -> None:
            lost_since = self._state.clock.now() - timedelta(seconds=LOST_FOR)
            rows = self._state.workers.items()
            self._state.workers = {key: row for key, row in rows if row.last_seen >= lost_since}

        await self._state.call("forget_lost_workers", forget)
