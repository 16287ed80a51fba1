"""The form that submits, made from what a payload is annotated with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import msgspec
import pydantic
import pytest

from tests.http.browser import Browser
from tests.http.fakes import FakeEngine
from tests.http.test_pages import EVIL


@dataclass
class Nested:
    street: str


class Everything(msgspec.Struct):
    name: str
    count: int
    share: float = 0.5
    urgent: bool = False
    format: Literal["jpeg", "webp"] = "jpeg"
    nickname: str | None = None
    address: Nested | None = None
    tags: list[str] = msgspec.field(default_factory=list)


class Login(pydantic.BaseModel):
    user: str
    password: pydantic.SecretStr


class TestSubmit:
    @pytest.fixture(autouse=True)
    def _types(self, engine: FakeEngine) -> None:
        @engine.registry.task("everything")
        async def everything(payload: Everything) -> None:
            """Do all of it, <b>now</b>.

            Not shown.
            """
            del payload

        @engine.registry.task("login")
        async def login(payload: Login) -> None:
            del payload

        @engine.registry.task("text")
        async def text(payload: str) -> None:
            del payload

    async def test_a_form_of_the_payloads_schema(
        self, browser: Browser, engine: FakeEngine
    ) -> None:
        page = await browser.get("/dashboard/submit?type=everything")

        fields = {
            str(each["name"]): (tag, each)
            for tag, each in page.tags()
            if str(each.get("name", "")).startswith("payload.")
        }
        assert fields["payload.count"][1]["type"] == "number"
        assert fields["payload.format"][0] == "select"
        assert fields["payload.address"][0] == "textarea"
        assert "required" in fields["payload.name"][1]
        given = {
            "payload.name": "Ada",
            "payload.count": "3",
            "payload.share": "",
            "payload.urgent": "true",
            "payload.format": '"webp"',
            "payload.nickname": "",
            "payload.address": '{"street": "Main"}',
            "payload.tags": "",
        }
        after = await browser.send("/dashboard/submit", on=page, type="everything", **given)

        (task,) = engine.stored
        assert after.path == f"/dashboard/tasks/{task.id}"
        assert "Submitted." in after.shown
        assert task.payload == {
            "name": "Ada",
            "count": 3,
            "urgent": True,
            "format": "webp",
            "address": {"street": "Main"},
        }

    async def test_what_a_type_does(self, browser: Browser) -> None:
        for path in ("/dashboard/submit", "/dashboard/submit?type=everything"):
            page = await browser.get(path)
            assert "Do all of it, <b>now</b>." in page.shown
            assert "Not shown" not in page.shown
            assert "b" not in {tag for tag, _ in page.tags() if tag == "b"}

    async def test_errors_name_what_the_form_names(self, browser: Browser) -> None:
        page = await browser.get("/dashboard/submit?type=everything")
        right = {"payload.name": "Ada", "payload.count": "3", "payload.urgent": "false"}
        for member, text, said, wrong in (
            ("delay", "soon", "Start in: must be a number of seconds", "delay"),
            ("delay", "1e300", "Start in: ", "delay"),
            ("payload.address", '{"street": 1}', "address.street: ", "payload.address"),
            ("payload.count", "many", "count: ", "payload.count"),
        ):
            after = await browser.send(
                "/dashboard/submit", on=page, type="everything", **(right | {member: text})
            )
            assert f"Not submitted. {said}" in after.shown
            marked = [each["name"] for _, each in after.tags() if each.get("aria-invalid")]
            assert marked == [wrong]

    async def test_what_does_not_fit_is_said_at_its_field(
        self, browser: Browser, engine: FakeEngine
    ) -> None:
        page = await browser.get("/dashboard/submit?type=everything")
        for member, text in (("count", "many"), ("address", "{"), ("address", '{"street": 1}')):
            given = {"payload.name": EVIL, "payload.count": "3", f"payload.{member}": text}

            after = await browser.send("/dashboard/submit", on=page, type="everything", **given)

            assert after.status == 422
            marked = [each for _, each in after.tags() if each.get("aria-invalid")]
            assert [each["name"] for each in marked] == [f"payload.{member}"]
            assert EVIL in after.shown or any(each.get("value") == EVIL for _, each in after.tags())
        assert engine.stored == []

    async def test_a_secret_is_typed_unseen_and_not_sent_back(
        self, browser: Browser, engine: FakeEngine
    ) -> None:
        page = await browser.get("/dashboard/submit?type=login")
        (field,) = (each for _, each in page.tags() if each.get("name") == "payload.password")
        assert field["type"] == "password"
        assert field["autocomplete"] == "new-password"  # a browser's saved API key is none

        after = await browser.send(
            "/dashboard/submit",
            on=page,
            type="login",
            delay="x",
            **{"payload.user": "ada", "payload.password": "hunter2hunter2"},
        )

        assert after.status == 422
        assert "hunter2hunter2" not in after.text

    async def test_json_where_there_is_no_schema(
        self, browser: Browser, engine: FakeEngine
    ) -> None:
        page = await browser.get("/dashboard/submit?type=anything")
        wrong = await browser.send("/dashboard/submit", on=page, type="anything", payload="{")
        assert wrong.status == 422
        assert ">{</textarea>" in wrong.text

        await browser.send("/dashboard/submit", on=page, type="anything", payload="[1]", delay="60")

        (task,) = engine.stored
        assert task.payload == [1]
        assert task.run_at is not None

    async def test_a_payload_that_is_text(self, browser: Browser, engine: FakeEngine) -> None:
        page = await browser.get("/dashboard/submit?type=text")

        await browser.send("/dashboard/submit", on=page, type="text", payload="hello")

        assert [task.payload for task in engine.stored] == ["hello"]

    async def test_pressed_twice_it_submits_once(
        self, browser: Browser, engine: FakeEngine
    ) -> None:
        page = await browser.get("/dashboard/submit?type=text")
        (key,) = (each["value"] for _, each in page.tags() if each.get("name") == "idempotency_key")
        for _ in range(2):
            await browser.send(
                "/dashboard/submit", on=page, type="text", payload="hello", idempotency_key=key
            )

        assert len(engine.stored) == 1

    async def test_a_type_that_is_not_known(self, browser: Browser) -> None:
        page = await browser.get("/dashboard/submit?type=nope")

        assert page.status == 422
        assert "unknown task type" in page.shown
