import os

from benchmarks.marks import mark

IS_ASYNC = False
broker = os.environ["BENCH_BROKER"]
if broker.startswith("redis"):
    from huey import RedisHuey

    huey = RedisHuey("noop", url=broker)
else:
    from huey import SqliteHuey

    huey = SqliteHuey("noop", filename=broker)


@huey.task()
def noop(number):
    return mark(number)


def submit(number):
    noop(number)
