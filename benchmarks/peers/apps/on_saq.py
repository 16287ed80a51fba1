import os

from saq import Queue

from benchmarks.marks import mark

IS_ASYNC = True
queue = Queue.from_url(os.environ["BENCH_BROKER"])


async def noop(ctx, *, number):
    return mark(number)


settings = {"queue": queue, "functions": [noop], "concurrency": 100}


async def setup():
    await queue.connect()


async def submit(number):
    await queue.enqueue("noop", number=number)


async def close():
    await queue.disconnect()
