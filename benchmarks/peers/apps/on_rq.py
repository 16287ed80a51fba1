import os

from redis import Redis
from rq import Queue

from benchmarks.marks import mark

IS_ASYNC = False
queue = Queue("noop", connection=Redis.from_url(os.environ["BENCH_BROKER"]))


def noop(number):
    return mark(number)


def submit(number):
    queue.enqueue("benchmarks.peers.apps.on_rq.noop", number)
