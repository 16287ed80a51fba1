import os

import dramatiq
from dramatiq.middleware import default_middleware
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

from benchmarks.marks import mark

IS_ASYNC = False
# All that are on by default but the server of Prometheus's metrics.
middleware = [make() for make in default_middleware if make.__name__ != "Prometheus"]
if "BENCH_QUEUE" in os.environ:
    from dramatiq_sqs import SQSBroker

    broker = SQSBroker(
        # The queue's whole name is this, "_" and the name of the actor's queue.
        namespace=os.environ["BENCH_QUEUE"].removesuffix("_default"),
        middleware=middleware,
        endpoint_url=os.environ["BENCH_BROKER"],
        region_name=os.environ["AWS_REGION"],
    )
else:
    from dramatiq.brokers.redis import RedisBroker

    broker = RedisBroker(url=os.environ["BENCH_BROKER"], middleware=middleware)
broker.add_middleware(Results(backend=RedisBackend(url=os.environ["BENCH_RESULTS"])))
dramatiq.set_broker(broker)


@dramatiq.actor(store_results=True)
def noop(number):
    return mark(number)


def submit(number):
    noop.send(number)
