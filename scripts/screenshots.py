"""The pictures of the pages in docs/images, made anew: `python -m scripts.screenshots`.

A shop is served by a real engine, works for a while, and Chromium looks at it.
"""

from __future__ import annotations

import json
import logging
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import trio

from task_queue_engine import TaskContext, TaskRegistry

ROOT = Path(__file__).parent.parent
IMAGES = ROOT / "docs" / "images"
PORT = 18_099
URL = f"http://127.0.0.1:{PORT}"
SECONDS = 120
"""Of work, so that there is something to plot."""

shop = TaskRegistry()
log = logging.getLogger("shop")


@dataclass
class Card:
    number: str
    holder: str


@dataclass
class Order:
    order: int
    items: list[str]
    card: Card


@dataclass
class Mail:
    to: str
    subject: str
    priority: Literal["low", "normal", "high"] = "normal"
    copies: int = 1


@shop.task("charge-order", max_attempts=2)
async def charge_order(order: Order) -> dict[str, Any]:
    log.info("charging order %d", order.order)
    await trio.sleep(random.uniform(0.05, 0.5))  # noqa: S311 - for a picture
    if order.order % 17 == 0:
        log.warning("the bank said no")
        raise RuntimeError(f"card {order.card.number} was declined")
    return {"charged": order.order}


@shop.task("send-mail")
async def send_mail(mail: Mail) -> None:
    await trio.sleep(random.uniform(0.02, 0.2))  # noqa: S311 - as above


@shop.task("encode-video")
async def encode_video(payload: dict[str, Any], context: TaskContext) -> None:
    for step in range(1, 600):
        await context.progress({"done": step, "total": 600, "step": "encoding"})
        await trio.sleep(0.5)


def main() -> None:
    from playwright.sync_api import sync_playwright

    from local_aws.downloads import chromium

    IMAGES.mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="screenshots-"))
    environment = os.environ | {
        "TQE_APP": "scripts.screenshots:shop",
        "TQE_DATABASE": str(folder / "tasks.db"),
        "TQE_REDACT": "payload.card.number",
        "PORT": str(PORT),
        "WORKER_COUNT": "8",
    }
    command = [sys.executable, "-m", "task_queue_engine", "serve"]
    server = subprocess.Popen(command, cwd=ROOT, env=environment)  # noqa: S603 - ours
    try:
        failed, running = _work()
        acted = _act()
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=str(chromium()), args=["--no-sandbox"]
            )
            for name, path, scheme, width, height in (
                ("overview", "/", "light", 1280, 800),
                ("overview-dark", "/", "dark", 1280, 800),
                ("overview-narrow", "/", "light", 375, 812),
                ("tasks", "/dashboard/tasks", "light", 1280, 800),
                ("task-failed", f"/dashboard/tasks/{failed}", "light", 1280, 900),
                ("task-running", f"/dashboard/tasks/{running}", "dark", 1280, 700),
                ("action", f"/dashboard/tasks/{acted}", "light", 1280, 800),
                ("workers", "/dashboard/workers", "light", 1280, 400),
                ("dead-letters", "/dashboard/dead-letters", "light", 1280, 600),
                ("submit", "/dashboard/submit?type=send-mail", "light", 1280, 650),
            ):
                context = browser.new_context(
                    viewport={"width": width, "height": height}, color_scheme=scheme
                )
                page = context.new_page()
                page.goto(URL + path)
                page.wait_for_load_state("networkidle")
                page.screenshot(path=IMAGES / f"{name}.png")
                context.close()
            browser.close()
    finally:
        server.terminate()
        server.wait()
        shutil.rmtree(folder)


def _work() -> tuple[str, str]:
    """Ids of a task that failed and of one that runs."""
    _until(lambda: _ask("GET", "/health"))
    running = _submit([{"type": "encode-video", "payload": {"source": "trailer.mov"}}])[0]
    failed = _submit([_order(17, max_attempts=1)])[0]
    ends = time.monotonic() + SECONDS
    number = 18
    while time.monotonic() < ends:
        some = random.randint(5, 60)  # noqa: S311 - the plots are to have hills
        _submit([_order(number + each) for each in range(some // 5)])
        number += some // 5
        _submit([_mail(each) for each in range(some)])
        time.sleep(random.uniform(2, 8))  # noqa: S311 - and valleys
    _submit([{**_mail(1), "delay_seconds": 7200}])
    return failed, running


def _act() -> str:
    """The id of an action on many tasks, which is done."""
    _submit([{**_mail(each), "delay_seconds": 7200} for each in range(800)])
    which = {"type": "send-mail", "status": "PENDING"}
    action = _ask("POST", "/tasks/actions", {"action": "cancel", "filter": which})
    _ask("GET", f"/tasks/{action['id']}?wait=30")
    return str(action["id"])


def _order(number: int, **more: Any) -> dict[str, Any]:
    card = {"number": "4242424242424242", "holder": "Ada Lovelace"}
    payload = {"order": number, "items": ["tea", "mug"], "card": card}
    return {"type": "charge-order", "payload": payload, **more}


def _mail(number: int) -> dict[str, Any]:
    payload = {"to": f"customer{number}@example.com", "subject": "Your order is on its way"}
    return {"type": "send-mail", "payload": payload}


def _submit(items: list[dict[str, Any]]) -> list[str]:
    answer = _ask("POST", "/tasks/batch", {"tasks": items})
    return [each["task"]["id"] for each in answer["results"]]


def _ask(method: str, path: str, body: Any = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(URL + path, data, headers, method=method)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def _until(ask: Any) -> None:
    for _ in range(100):
        try:
            ask()
        except OSError:
            time.sleep(0.2)  # its port has no event for another process
        else:
            return
    raise SystemExit("the server does not start")


if __name__ == "__main__":
    main()
