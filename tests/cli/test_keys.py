"""`tqe keys new`, and a server whose keys are in a file."""

from __future__ import annotations

import json
import re
from collections import Counter

import httpx
import pytest

from task_queue_engine.http.key_file import read_key_file
from tests.cli.runner import Shop, eventually, tqe


def test_a_new_key_is_printed_once(shop: Shop) -> None:
    file = shop.path / "keys.toml"
    arguments = ("--role", "submit", "--role", "read", "--type", "echo", "--expires", "2030-01-31")
    ran = tqe("keys", "new", "billing", *arguments, TQE_KEYS_FILE=str(file))
    assert (ran.code, ran.error) == (0, f"added to {file}; the key is not shown again")
    key = ran.out.strip()
    assert re.fullmatch(r"tqe_[A-Za-z0-9_-]{43}", key)
    assert key not in file.read_text()
    (found,) = read_key_file(str(file)).keys.values()
    assert (found.principal.name, found.principal.types) == ("billing", {"echo"})
    assert sorted(found.principal.roles) == ["read", "submit"]

    other = tqe("keys", "new", "other", "--role", "admin", "--file", str(file), "--json").json
    assert other["entry"] in file.read_text()
    assert other["key"] != key


def test_without_a_file_the_entry_is_printed() -> None:
    ran = tqe("keys", "new", "billing", "--role", "submit")
    assert ran.out.startswith("tqe_")
    assert ran.out.count("\n") == 1, "nothing but the key, for a pipe"
    assert '[keys.billing]\nroles = ["submit"]\nsha256 = "' in ran.err
    assert ran.out.strip() not in ran.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("a b", "--role", "read"), "NAME: must be 1 to 64 of"),
        (("x", "--role", "admin", "--type", "echo"), "--type: admin is for all types"),
        (("x", "--role", "read", "--type", "\udcff"), "--type: is not Unicode text"),
        (("x", "--role", "root"), "Invalid value for '--role'"),
        (("x",), "Missing option '--role'"),
        (("x", "--role", "read", "--expires", "soon"), "Invalid value for '--expires'"),
        (("x", "--role", "read", "--file", "."), "TQE_KEYS_FILE: . cannot be written: Is a dir"),
        (("x", "--role", "read", "--file", "bad"), "TQE_KEYS_FILE: bad is not TOML"),
        (("here", "--role", "read", "--file", "good"), "good has a key with the name 'here'"),
    ],
)
def test_what_cannot_be_made(shop: Shop, arguments: tuple[str, ...], said: str) -> None:
    (shop.path / "bad").write_text("[")
    tqe("keys", "new", "here", "--role", "read", "--file", "good")
    before = (shop.path / "good").read_text()
    ran = tqe("keys", "new", *arguments)
    assert (ran.code, ran.out) == (2, "")
    assert said in ran.error
    assert (shop.path / "good").read_text() == before


@pytest.mark.parametrize("command", [("serve",), ("api", "--processes", "2")])
@pytest.mark.parametrize("content", [None, "", "[keys.x"])
def test_a_server_does_not_start_without_its_keys(
    shop: Shop, command: tuple[str, ...], content: str | None
) -> None:
    if content is not None:
        (shop.path / "keys.toml").write_text(content)
    ran = tqe(*command, TQE_KEYS_FILE="keys.toml", PORT="0")
    assert ran.code == 2
    assert ran.error.startswith("TQE_KEYS_FILE: keys.toml")
    assert not (shop.path / "tasks.db").exists()


def test_several_processes_and_the_commands_that_ask_them(shop: Shop) -> None:
    def new(name: str, *arguments: str) -> dict[str, str]:
        ran = tqe("keys", "new", name, "--file", "keys.toml", *arguments)
        assert ran.code == 0, ran.err
        return {"TQE_API_KEY": ran.out.strip()}

    writer = new("writer", "--role", "submit", "--type", "echo")
    reader = new("reader", "--role", "read")
    with shop.serve("api", "--processes", "2", TQE_KEYS_FILE="keys.toml") as server:
        server.wait_for("2 processes are up")
        url = server.url

        ran = tqe("submit", "echo", "1", "--url", url, **writer)
        assert ran.code == 0, ran.err
        task_id = ran.out.strip()
        ran = tqe("status", task_id, "--url", url, **writer)
        assert ran.code == 2
        assert ran.error == "this needs the role read, which the key 'writer' does not have"
        ran = tqe("submit", "short", "1", "--url", url, **writer)
        assert (ran.code, ran.error) == (2, "the key 'writer' is for tasks of 'echo' only")
        assert tqe("status", task_id, "--url", url, **reader).code == 0
        ran = tqe("cancel", task_id, "--url", url, **reader)
        assert (ran.code, "needs the role operate" in ran.error) == (2, True)
        assert "TQE_API_KEY" in tqe("list", "--url", url).error

        # Each process reads the file again by itself.
        operator = new("operator", "--role", "operate", "--role", "read")["TQE_API_KEY"]
        headers = {"Authorization": f"Bearer {operator}"}

        def statuses() -> Counter[int]:
            # Each on a connection of its own, so that any of them may answer.
            return Counter(
                httpx.get(f"{url}/tasks", headers=headers, trust_env=False).status_code
                for _ in range(10)
            )

        eventually(lambda: statuses() == {200: 10})
        assert tqe("cancel", task_id, "--url", url, TQE_API_KEY=operator).code == 0
        server.signal()
        assert server.wait() == 0
    audit = [line for line in server.lines if " audit: " in line]
    assert all(re.match(r"\S+ INFO +process-[12] audit: ", line) for line in audit)
    said = [re.sub(r"^.* audit: | address=.*$", "", line) for line in audit]
    assert said == [
        "submit done (201) key=writer",
        "submit refused (403) key=writer",
        "cancel refused (403) key=reader",
        "cancel done (200) key=operator",
    ]
    assert f" task={task_id} type=echo " in audit[0]
    text = json.dumps(server.lines)
    for key in (writer["TQE_API_KEY"], reader["TQE_API_KEY"], operator):
        assert key not in text
