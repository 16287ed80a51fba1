"""The same shop on FastAPI, so on asyncio: fastapi run fastapi_app.py"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse
from tasks import Order, Parcel, pack, tasks

from task_queue_engine import ResultTimeout, TaskFailed, TaskNotFound
from task_queue_engine.client import AsyncClient
from task_queue_engine.errors import BackendUnavailable, IdempotencyKeyReused


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    url = os.environ.get("TQE_URL", "http://127.0.0.1:8080")
    async with AsyncClient(url, tasks=tasks) as client:
        app.state.client = client
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/orders", status_code=202)
async def order(order: Order, request: Request) -> dict[str, str]:
    client: AsyncClient = request.app.state.client
    handle = await client.submit(pack, order, idempotency_key=f"shop-{order.number}")
    return {"task": handle.id}


@app.get("/orders/{task_id}")
async def parcel(task_id: str, request: Request) -> Parcel:
    client: AsyncClient = request.app.state.client
    try:
        packed: Parcel = await client.result(task_id, timeout=5)
    except TaskNotFound:
        raise HTTPException(404, "no such order") from None
    except ResultTimeout:
        raise HTTPException(503, "being packed", {"Retry-After": "1"}) from None
    except TaskFailed as error:
        raise HTTPException(500, str(error)) from None
    return packed


@app.exception_handler(IdempotencyKeyReused)
async def another(_: Request, error: IdempotencyKeyReused) -> JSONResponse:
    return JSONResponse({"detail": f"this order's number is taken: {error}"}, 409)


@app.exception_handler(BackendUnavailable)
async def unavailable(_: Request, error: BackendUnavailable) -> JSONResponse:
    return JSONResponse({"detail": str(error)}, 503, {"Retry-After": "1"})
