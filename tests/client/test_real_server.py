"""Clients of every kind, and the recipes of docs/clients.md, in front of one `tqe serve`."""

from __future__ import annotations

import asyncio
import importlib
import shutil
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import httpx
import pytest
import trio

from task_queue_engine import Accepted, Submission, TaskStatus
from task_queue_engine.client import AsyncClient, Client
from task_queue_engine.engine.api import SubmitVerdict
from tests.cli.runner import Server, Shop
from tests.client.dropping_proxy import dropping
from tests.client.light import ROOT, LightEnvironment

RECIPES = ROOT / "docs" / "recipes"
LIGHT_PROGRAM = Path(__file__).with_name("light_program.py")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Of the recipes' shop."""
    shop = Shop(tmp_path_factory.mktemp("shop"))
    shutil.copy(RECIPES / "tasks.py", shop.path)
    with shop.serve(TQE_APP="tasks:tasks") as server:
        yield server


def test_the_light_distribution(light: LightEnvironment, server: Server) -> None:
    for way in ("plain", "asyncio"):
        assert light.run(str(LIGHT_PROGRAM), way, server.url) == f"{way} works\n"
    said = light.run(str(LIGHT_PROGRAM), "trio", server.url, **light.with_trio)
    assert said == "trio works\n"


def test_one_plain_client_serves_many_threads(server: Server) -> None:
    def pack(number: int) -> str:
        handle = client.submit("pack", {"number": number, "city": "Oslo"})
        return str(handle.result(timeout=20)["label"])

    with Client(server.url) as client, ThreadPoolExecutor(8) as threads:
        assert list(threads.map(pack, range(100, 132))) == [f"Oslo #{n}" for n in range(100, 132)]


# --- an answer that is lost -----------------------------------------------------------------

ORDER = Submission(task="pack", payload={"number": 1, "city": "Oslo"})


def submit_plainly(url: str) -> list[SubmitVerdict]:
    with Client(url) as client:
        return [client.submit_task(ORDER), *client.submit_many([ORDER, ORDER])]


async def submit_on_a_loop(url: str) -> list[SubmitVerdict]:
    async with AsyncClient(url) as client:
        return [await client.submit_task(ORDER), *await client.submit_many([ORDER, ORDER])]


WAYS: dict[str, Callable[[str], list[SubmitVerdict]]] = {
    "plain": submit_plainly,
    "asyncio": lambda url: asyncio.run(submit_on_a_loop(url)),
    "trio": lambda url: trio.run(submit_on_a_loop, url),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_submission_whose_answer_is_lost_is_sent_again_and_stored_once(
    server: Server, way: str
) -> None:
    with Client(server.url) as client:
        before = {task.id for task in client.list(type="pack")}
        with dropping(server.url, drops={0, 2}) as proxy:
            submitted = WAYS[way](proxy.url)
        first, again, many, many_again = proxy.passed_on
        assert (first, many) == (again, many_again), "the keys of the batch are in its body"
        stored = {task.id for task in client.list(type="pack")} - before
    assert [verdict.created for verdict in submitted if isinstance(verdict, Accepted)] == [True] * 3
    assert sorted(stored) == sorted(
        verdict.task.id for verdict in submitted if isinstance(verdict, Accepted)
    )


# --- the recipes ----------------------------------------------------------------------------


@pytest.fixture
def recipe(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str], ModuleType]]:
    """Imports one."""
    monkeypatch.setenv("TQE_URL", server.url)
    monkeypatch.syspath_prepend(str(RECIPES))
    before = set(sys.modules)
    yield importlib.import_module
    for name in ("tasks", "flask_app", "fastapi_app"):
        if name not in before:
            sys.modules.pop(name, None)


def test_the_script_recipe(light: LightEnvironment, server: Server, tmp_path: Path) -> None:
    orders = tmp_path / "orders.txt"
    orders.write_text("11 Oslo\n12 New York\n")
    for _ in range(2):
        said = light.run(str(RECIPES / "script.py"), str(orders), TQE_URL=server.url)
        assert said == "Oslo #11\nNew York #12\n"
    with Client(server.url) as client:
        packed = [task.payload["number"] for task in client.list(type="pack")]
    assert packed.count(11) == packed.count(12) == 1


def test_the_recipe_for_many(light: LightEnvironment, server: Server) -> None:
    script = str(RECIPES / "recall.py")
    with Client(server.url) as client:
        order = {"number": 41, "city": "Oslo"}
        ids = [client.submit("pack", order, delay=3600).id for _ in range(3)]
        waits, said = light.run(script, TQE_URL=server.url).splitlines()
        assert waits == "3 orders wait"
        done, _, action = said.partition(": ")
        assert done == "3 of 3"
        assert {client.get(each).status for each in ids} == {TaskStatus.CANCELLED}
        said = light.run(script, "--undo", action, TQE_URL=server.url)
        assert said.startswith("3 of 3: ")
        assert {client.wait(each, timeout=20).status for each in ids} == {TaskStatus.COMPLETED}
    assert light.run(script, TQE_URL=server.url) == "0 orders wait\nnothing to do\n"


def test_the_flask_recipe(recipe: Callable[[str], ModuleType]) -> None:
    app = recipe("flask_app")
    with app.client, app.app.test_client() as browser:
        placed = browser.post("/orders", data={"number": "21", "city": "Oslo"})
        again = browser.post("/orders", data={"number": "21", "city": "Oslo"})
        assert placed.status_code == 202
        assert placed.json == again.json
        assert browser.get(f"/orders/{placed.json['task']}").json == {"label": "Oslo #21"}
        assert browser.get("/orders/nothing").status_code == 404
        assert browser.post("/orders", data={"city": "Oslo"}).status_code == 400
        other = browser.post("/orders", data={"number": "21", "city": "Rome"})
        assert other.status_code == 409


def test_the_fastapi_recipe(recipe: Callable[[str], ModuleType]) -> None:
    app = recipe("fastapi_app").app

    async def order() -> None:
        transport = httpx.ASGITransport(app)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(base_url="http://shop", transport=transport) as browser,
        ):
            placed = await browser.post("/orders", json={"number": 31, "city": "Rome"})
            assert placed.status_code == 202
            parcel = await browser.get(f"/orders/{placed.json()['task']}")
            assert parcel.json() == {"order": 31, "label": "Rome #31"}
            assert (await browser.get("/orders/nothing")).status_code == 404
            other = await browser.post("/orders", json={"number": 31, "city": "Oslo"})
            assert other.status_code == 409

    asyncio.run(order())


def test_the_page_shows_the_recipes_as_they_are() -> None:
    page = (ROOT / "docs" / "clients.md").read_text(encoding="utf-8")
    for file in RECIPES.glob("*.py"):
        assert f"```python\n# {file.name}\n{file.read_text(encoding='utf-8')}```\n" in page, file
