"""A shop on Flask, with any number of threads and processes: flask --app flask_app run"""

import os

from flask import Flask, request
from flask.typing import ResponseReturnValue
from tasks import Order, pack, tasks

from task_queue_engine import InvalidTask, ResultTimeout, TaskFailed, TaskNotFound
from task_queue_engine.client import Client
from task_queue_engine.errors import BackendUnavailable, IdempotencyKeyReused

app = Flask(__name__)
# For all threads. It connects at its first request, so a server may fork after this line.
client = Client(os.environ.get("TQE_URL", "http://127.0.0.1:8080"), tasks=tasks)


@app.post("/orders")
def order() -> ResponseReturnValue:
    # With a key of the order's own a page that is sent twice packs once.
    number = request.form.get("number", type=int)
    if number is None:
        return {"error": "number is missing"}, 400
    placed = Order(number, request.form["city"])
    try:
        handle = client.submit(pack, placed, idempotency_key=f"shop-{number}")
    except IdempotencyKeyReused:
        return {"error": f"order {number} is another one"}, 409
    return {"task": handle.id}, 202


@app.get("/orders/<task_id>")
def parcel(task_id: str) -> ResponseReturnValue:
    try:
        return {"label": client.result(task_id, timeout=5).label}
    except TaskNotFound:
        return {"error": "no such order"}, 404
    except ResultTimeout:
        return {"status": "being packed"}, 202
    except TaskFailed as error:
        return {"error": str(error)}, 500


@app.errorhandler(InvalidTask)
def refused(error: InvalidTask) -> ResponseReturnValue:
    return {"error": error.reason, "field": error.field}, 422


@app.errorhandler(BackendUnavailable)
def unavailable(error: BackendUnavailable) -> ResponseReturnValue:
    return {"error": str(error)}, 503, {"Retry-After": "1"}
