import os

from arq import create_pool
from arq.connections import RedisSettings

from benchmarks.marks import mark

IS_ASYNC = True
REDIS = RedisSettings.from_dsn(os.environ["BENCH_BROKER"])
# The worker takes it by `arq --custom-log-dict`.
LOG = {
    "version": 1,
    "disable_existing_loggers": False,
    "loggers": {"arq": {"level": "WARNING"}},
}


async def noop(ctx, number):
    return mark(number)


class WorkerSettings:
    functions = (noop,)
    redis_settings = REDIS
    max_jobs = 100


async def setup():
    global pool
    pool = await create_pool(REDIS)


async def submit(number):
    await pool.enqueue_job("noop", number)


async def close():
    await pool.aclose()
