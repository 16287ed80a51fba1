import os

from taskiq_redis import RedisAsyncResultBackend, RedisStreamBroker

from benchmarks.marks import mark

IS_ASYNC = True
results = RedisAsyncResultBackend(os.environ["BENCH_RESULTS"])
if "BENCH_QUEUE" in os.environ:
    from taskiq_aio_sqs import SQSBroker

    broker = SQSBroker(
        sqs_queue_name=os.environ["BENCH_QUEUE"],
        endpoint_url=os.environ["BENCH_BROKER"],
        region_name=os.environ["AWS_REGION"],
        aws_access_key_id=os.environ["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=os.environ["AWS_SECRET_ACCESS_KEY"],
        max_number_of_messages=10,
        wait_time_seconds=10,
    ).with_result_backend(results)
else:
    broker = RedisStreamBroker(os.environ["BENCH_BROKER"]).with_result_backend(results)


@broker.task
async def noop(number: int) -> int:
    return mark(number)


async def setup():
    await broker.startup()


async def submit(number):
    await noop.kiq(number)


async def close():
    await broker.shutdown()
