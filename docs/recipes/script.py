"""Packs the orders of a file, one `NUMBER CITY` a line: python script.py orders.txt"""

import os
import sys
from pathlib import Path

from tasks import Order, pack, tasks

from task_queue_engine import Refused, Submission, TaskFailed
from task_queue_engine.client import Client


def main(file: str) -> None:
    with Client(os.environ.get("TQE_URL", "http://127.0.0.1:8080"), tasks=tasks) as client:
        orders = []
        for line in Path(file).read_text().splitlines():
            number, city = line.split(maxsplit=1)
            orders.append(Order(int(number), city))

        # The same file again submits nothing twice.
        verdicts = client.submit_many(
            [
                Submission(task=pack, payload=order, idempotency_key=f"shop-{order.number}")
                for order in orders
            ]
        )
        for order, verdict in zip(orders, verdicts, strict=True):
            if isinstance(verdict, Refused):
                print(f"order {order.number}: {verdict.error}")
                continue
            try:
                parcel = client.result(verdict.task.id, timeout=60)
            except TaskFailed as error:
                print(f"order {order.number}: {error}")
            else:
                print(parcel.label)


main(*sys.argv[1:])
