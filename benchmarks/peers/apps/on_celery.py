import os

from celery import Celery

from benchmarks.marks import mark

IS_ASYNC = False
broker = os.environ["BENCH_BROKER"]
if "BENCH_QUEUE" in os.environ:
    key, secret = os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"]
    broker = broker.replace("http://", f"sqs://{key}:{secret}@") + "//"
app = Celery("noop", broker=broker, backend=os.environ["BENCH_RESULTS"])
app.conf.update(
    # Its guide: 50 to 150 for many short tasks.
    worker_prefetch_multiplier=64,
    broker_connection_retry_on_startup=True,
    worker_enable_remote_control=False,
)
if "BENCH_QUEUE" in os.environ:
    app.conf.update(
        task_default_queue=os.environ["BENCH_QUEUE"],
        broker_transport_options={
            "region": os.environ["AWS_REGION"],
            "wait_time_seconds": 10,
            "polling_interval": 0,
            "visibility_timeout": 3600,
        },
    )


@app.task
def noop(number):
    return mark(number)


def submit(number):
    noop.delay(number)
