from __future__ import annotations

import base64
import hashlib
import importlib
import multiprocessing
import os
import pickle
import random
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from task_queue_engine.errors import ConfigurationError, CpuTimeExceeded, InvalidTask
from task_queue_engine.handlers.fetch.safe_fetch import FetchFailed
from task_queue_engine.handlers.image import payload as image_payload
from task_queue_engine.handlers.image.handler import ResizedImage, resize_image, tasks
from task_queue_engine.handlers.image.payload import ImageResize, Source
from task_queue_engine.registry import RunsIn
from task_queue_engine.retry import Discard, GiveUp, Retry, decide
from tests.execution.support import Progress, make_runner, make_task
from tests.handlers.local_web import Internet, LocalWeb
from tests.handlers.pictures import RED, decode, encode, flat, halves, near, noise, png_claiming

TASK_ID = "0190f3a4-8a70-7c3e-9f53-3c1b8f8f0001"


@dataclass
class Context:
    """As a worker process would give it."""

    task_id: str = TASK_ID
    attempt: int = 1
    retry_count: int = 0
    max_attempts: int = 3
    deadline: datetime | None = None

    def progress(self, value: Any) -> None:
        pass

    def check_cancelled(self) -> None:
        pass


@pytest.fixture(autouse=True)
def workdir(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A working directory with photos/ for sources; results go to images/."""
    for name in os.environ:
        if name.startswith("TQE_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(encode(halves(), "JPEG"))
    monkeypatch.setenv("TQE_IMAGE_ROOT", "photos")
    return tmp_path


def payload(**members: Any) -> ImageResize:
    """As a submission would convert it."""
    converted = tasks.get("image-resize").convert_payload({"width": 20, **members})
    assert isinstance(converted, ImageResize)
    return converted


def resize(context: Context | None = None, **members: Any) -> ResizedImage:
    result = resize_image(payload(**members), context or Context())
    data = Path(result.path).read_bytes()
    assert result.bytes == len(data)
    assert result.sha256 == hashlib.sha256(data).hexdigest()
    image = decode(data)
    assert image.size == (result.width, result.height)
    assert image.format == result.format.upper()
    return result


def in_base64(data: bytes) -> dict[str, str]:
    return {"base64": base64.b64encode(data).decode()}


# --- the three sources ----------------------------------------------------------------------


def test_a_file_below_the_root_is_resized(workdir: Path) -> None:
    result = resize(source={"path": "a.jpg"})
    assert msgspec.to_builtins(result) == {
        "path": str(workdir / "images" / f"{TASK_ID}.jpg"),
        "format": "jpeg",
        "width": 20,
        "height": 10,
        "bytes": result.bytes,
        "sha256": result.sha256,
        "source": {
            "kind": "path",
            "format": "jpeg",
            "width": 40,
            "height": 20,
            "bytes": (workdir / "photos" / "a.jpg").stat().st_size,
            "animated": False,
        },
    }


def test_inline_base64_is_resized() -> None:
    data = encode(flat(), "PNG")
    result = resize(source=in_base64(data))
    assert (result.format, result.source.kind, result.source.bytes) == ("png", "base64", len(data))


def test_a_url_is_fetched_and_resized(
    web: LocalWeb, internet: Internet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TQE_IMAGE_ALLOW_NETWORKS", "127.0.0.0/8")
    # What the server says it is does not matter.
    url = web.page("/a", encode(flat(), "PNG"), Content_Type="text/html")
    result = resize(source={"url": url}, format="webp")
    assert (result.format, result.source.kind, result.source.format) == ("webp", "url", "png")


def test_a_plain_string_is_a_path_or_a_url(
    web: LocalWeb, internet: Internet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TQE_IMAGE_ALLOW_NETWORKS", "127.0.0.0/8")
    assert resize(source="a.jpg").source.kind == "path"
    assert resize(source=web.page("/a", encode(flat(), "PNG"))).source.kind == "url"


# --- submissions refused --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("members", "complaint"),
    [
        ({}, "payload: .*missing required field `source`"),
        ({"source": {}}, r"payload\.source: needs exactly one of path, url and base64"),
        (
            {"source": {"path": "a.jpg", "url": "http://example.com/"}},
            r"payload\.source: needs exactly one of path, url and base64",
        ),
        ({"source": {"file": "a.jpg"}}, r"payload\.source: .*unknown field `file`"),
        ({"source": {"path": "../a.jpg"}}, r"payload\.source: path must not contain '\.\.'"),
        ({"source": {"path": "/a.jpg"}}, r"payload\.source: path must be relative"),
        ({"source": {"path": 5}}, r"payload\.source\.path: expected `str"),
        ({"source": {"url": "ftp://a/"}}, r"payload\.source: url must start with http"),
        ({"source": {"url": "http://u:p@a/"}}, r"payload\.source: url must not have credentials"),
        ({"source": {"base64": "%%%"}}, r"payload\.source\.base64: invalid base64"),
        ({"source": ""}, "payload: source path must not be empty"),
        ({"source": "/etc/passwd"}, "payload: source path must be relative"),
        ({"source": "file:///etc/passwd"}, "payload: source must start with http"),
        ({"source": "data:image/png;base64,AAAA"}, "payload: source must start with http"),
        ({"source": "a.jpg", "width": None}, "payload: width or height must be given"),
        ({"source": "a.jpg", "width": 0}, r"payload\.width: expected `int` >= 1"),
        ({"source": "a.jpg", "height": 16_384}, r"payload\.height: expected `int` <= 16383"),
        ({"source": "a.jpg", "width": "20"}, r"payload\.width: expected `int"),
        ({"source": "a.jpg", "width": True}, r"payload\.width: expected `int"),
        ({"source": "a.jpg", "fit": "crop"}, r"payload\.fit: invalid enum value 'crop'"),
        ({"source": "a.jpg", "format": "svg"}, r"payload\.format: invalid enum value 'svg'"),
        ({"source": "a.jpg", "quality": 0}, r"payload\.quality: expected `int` >= 1"),
        ({"source": "a.jpg", "quality": 101}, r"payload\.quality: expected `int` <= 100"),
        ({"source": "a.jpg", "background": "red"}, r"payload\.background: expected `str`"),
        ({"source": "a.jpg", "background": "#ff0000\n"}, r"payload\.background: expected `str`"),
        ({"source": "a.jpg", "colour": "red"}, "payload: .*unknown field `colour`"),
        (
            {"source": "a.jpg", "filename": "a.png", "format": "jpeg"},
            r"payload: filename 'a\.png' does not go with format 'jpeg'",
        ),
    ],
)
def test_a_wrong_payload_is_refused_at_submission_naming_the_member(
    members: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(InvalidTask, match=f"(?i)^{complaint}"):
        payload(**members)


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", ".hidden", "-rf", "a/b", "../a", "a\\b", "a\n", "a b", "ä", "a" * 101, "a\0"],
)
def test_a_file_name_that_is_no_plain_base_name_is_refused(name: str) -> None:
    with pytest.raises(InvalidTask, match=r"^payload\.filename: "):
        payload(source="a.jpg", filename=name)


def test_avif_is_refused_at_submission_where_it_cannot_be_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(image_payload, "SUPPORTED_FORMATS", ("jpeg", "png"))
    for members in ({"format": "avif"}, {"filename": "a.avif"}):
        with pytest.raises(InvalidTask, match="cannot write avif"):
            payload(source="a.jpg", **members)


# --- attempts that fail ---------------------------------------------------------------------


def test_paths_are_refused_while_no_root_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TQE_IMAGE_ROOT")
    with pytest.raises(Discard, match="TQE_IMAGE_ROOT is not set"):
        resize(source="a.jpg")


def test_a_link_out_of_the_root_is_refused(workdir: Path) -> None:
    (workdir / "secret.jpg").write_bytes(encode(flat(), "JPEG"))
    (workdir / "photos" / "link.jpg").symlink_to(workdir / "secret.jpg")
    with pytest.raises(Discard, match="leads out of TQE_IMAGE_ROOT"):
        resize(source="link.jpg")


@pytest.mark.parametrize("kind", ["path", "base64", "url"])
def test_an_oversize_source_is_refused_wherever_it_comes_from(
    kind: str,
    workdir: Path,
    web: LocalWeb,
    internet: Internet,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = encode(flat(), "PNG") + b"\0" * 2000
    (workdir / "photos" / "large.png").write_bytes(data)
    monkeypatch.setenv("TQE_IMAGE_MAX_BYTES", "2000")
    monkeypatch.setenv("TQE_IMAGE_ALLOW_NETWORKS", "127.0.0.0/8")
    source = {
        "path": {"path": "large.png"},
        "base64": in_base64(data),
        "url": {"url": web.page("/large", data)},
    }[kind]
    with pytest.raises(Discard, match="limit of 2000 bytes"):
        resize(source=source)


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (png_claiming(50_000, 50_000), "TQE_IMAGE_MAX_PIXELS"),
        (encode(flat(), "PNG")[:60], "broken or truncated"),
        (encode(flat(), "TIFF"), "not an image of a known type"),
        (b"", "not an image of a known type"),
    ],
)
def test_an_image_that_cannot_be_worked_on_is_discarded_and_leaves_no_file(
    data: bytes, complaint: str, workdir: Path
) -> None:
    with pytest.raises(Discard, match=complaint):
        resize(source=in_base64(data))
    assert not (workdir / "images").exists()


@pytest.mark.parametrize("url", ["http://127.0.0.1/", "http://169.254.169.254/", "http://[::1]/"])
def test_private_addresses_are_discarded(url: str, internet: Internet) -> None:
    with pytest.raises(Discard, match="no connection is made to"):
        resize(source={"url": url})
    assert internet.attempts == []


def test_a_redirect_to_a_private_address_is_discarded(
    web: LocalWeb, internet: Internet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TQE_IMAGE_ALLOW_NETWORKS", "127.0.0.1/32")
    with pytest.raises(Discard, match="link-local"):
        resize(source=web.redirect("/", "http://169.254.169.254/latest/meta-data/"))


def test_answers_decide_what_follows(
    web: LocalWeb, internet: Internet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TQE_IMAGE_ALLOW_NETWORKS", "127.0.0.0/8")
    with pytest.raises(Discard, match="answered 404"):
        resize(source=web.url("/missing"))
    with pytest.raises(FetchFailed, match="answered 503"):
        resize(source=web.status("/down", 503))
    with pytest.raises(Retry, match="answered 429") as caught:
        resize(source=web.status("/busy", 429, Retry_After="120"))
    assert caught.value.delay == 120.0


def test_a_wrong_setting_of_the_worker_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TQE_IMAGE_MAX_BYTES", "20MB")
    with pytest.raises(ConfigurationError, match="TQE_IMAGE_MAX_BYTES"):
        resize(source="a.jpg")


# --- the file -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("members", "name", "image_format"),
    [
        ({}, f"{TASK_ID}.jpg", "jpeg"),
        ({"format": "png"}, f"{TASK_ID}.png", "png"),
        ({"filename": "thumb"}, "thumb.jpg", "jpeg"),
        ({"filename": "thumb.v2"}, "thumb.v2.jpg", "jpeg"),
        ({"filename": "thumb.JPEG"}, "thumb.JPEG", "jpeg"),
        ({"filename": "thumb.webp"}, "thumb.webp", "webp"),
        ({"filename": "thumb", "format": "gif"}, "thumb.gif", "gif"),
    ],
)
def test_the_name_of_the_file(
    members: dict[str, Any], name: str, image_format: str, workdir: Path
) -> None:
    result = resize(source="a.jpg", **members)
    assert result.path == str(workdir / "images" / name)
    assert result.format == image_format


def test_the_output_directory_is_a_setting(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TQE_IMAGE_OUTPUT", str(workdir / "else" / "where"))
    assert Path(resize(source="a.jpg").path).parent == workdir / "else" / "where"


def test_a_repeated_attempt_writes_the_same_file_again(workdir: Path) -> None:
    for members in ({}, {"filename": "thumb.jpg"}):
        first = resize(source="a.jpg", **members)
        assert resize(Context(attempt=2), source="a.jpg", **members) == first
    assert len(list((workdir / "images").iterdir())) == 2


def test_another_tasks_file_is_replaced_only_on_request() -> None:
    resize(Context(task_id="another"), source="a.jpg", filename="thumb.jpg")
    with pytest.raises(Discard, match=r"thumb\.jpg exists and another task wrote it"):
        resize(source="a.jpg", filename="thumb.jpg", width=10)
    assert resize(source="a.jpg", filename="thumb.jpg", width=10, overwrite=True).width == 10


def test_all_options_reach_the_picture() -> None:
    result = resize(
        source="a.jpg",
        width=10,
        height=30,
        fit="contain",
        format="png",
        background="#ff0000",
        without_enlargement=True,
    )
    image = decode(Path(result.path).read_bytes()).convert("RGB")
    assert image.size == (10, 30)
    corner = image.getpixel((5, 2))
    assert near(corner, RED)
    small, large = (
        resize(source="a.jpg", quality=quality, format="webp").bytes for quality in (1, 100)
    )
    assert small < large


# --- around it ------------------------------------------------------------------------------


def test_it_is_registered_to_run_in_a_worker_process() -> None:
    definition = tasks.get("image-resize")
    assert definition.handler is resize_image
    assert definition.runs_in is RunsIn.PROCESS
    assert definition.takes_context


def test_it_runs_in_a_worker_process_and_its_refusals_come_back(workdir: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as workers:
        done = workers.submit(resize_image, payload(source="a.jpg"), Context())
        assert done.result(30).path == str(workdir / "images" / f"{TASK_ID}.jpg")
        refused = workers.submit(resize_image, payload(source="b.jpg"), Context())
        with pytest.raises(Discard, match="no such file"):
            refused.result(30)


async def test_too_much_cpu_time_ends_the_process_and_the_task(
    monkeypatch: pytest.MonkeyPatch, workdir: Path
) -> None:
    monkeypatch.setenv("TQE_IMAGE_MAX_CPU_SECONDS", "0.1")
    slow = {"source": in_base64(encode(noise((1000, 1000)), "PNG")), "width": 4900, "format": "png"}
    definition = tasks.get("image-resize")
    runner = make_runner()
    task = make_task(slow, timeout=60.0)
    async with runner.open():
        with pytest.raises(CpuTimeExceeded, match=r"SIGXCPU.*CPU time") as ended:
            await runner.run(definition, task, report_progress=Progress())
    decision = decide(
        task,
        ended.value,
        task.created_at,
        backoff=definition.backoff,
        rules=definition.error_rules,
        rng=random.Random(0),
    )
    assert isinstance(decision, GiveUp)
    assert not (workdir / "images").exists()


def test_payload_and_result_survive_pickling_and_json() -> None:
    given = payload(source=in_base64(encode(flat(), "PNG")), filename="thumb")
    assert pickle.loads(pickle.dumps(given)) == given
    assert tasks.get("image-resize").convert_payload(msgspec.to_builtins(given)) == given
    result = resize(source=in_base64(encode(flat(), "PNG")))
    assert tasks.get("image-resize").convert_result(msgspec.to_builtins(result)) == result


def test_the_payload_can_be_made_in_python() -> None:
    made = ImageResize(source=Source(data=encode(flat(), "PNG")), width=5)
    assert resize_image(made, Context()).width == 5


def test_without_pillow_the_import_fails_saying_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in list(sys.modules):
        if name == "PIL" or name.startswith(("PIL.", "task_queue_engine.handlers.image.")):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ImportError, match="with its extra 'images'"):
        importlib.import_module("task_queue_engine.handlers.image.handler")
