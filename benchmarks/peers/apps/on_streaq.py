import os

from streaq import Worker

from benchmarks.marks import mark

IS_ASYNC = True
LOOP = os.environ["BENCH_LOOP"]
worker = Worker(
    redis_url=os.environ["BENCH_BROKER"],
    concurrency=100,
    anyio_backend=LOOP,
    anyio_kwargs={"use_uvloop": True} if LOOP == "asyncio" else {},
)


@worker.task(silent=True)
async def noop(number: int) -> int:
    return mark(number)


async def setup():
    await worker.__aenter__()


async def submit(number):
    await noop.enqueue(number)


async def close():
    await worker.__aexit__(None, None, None)
