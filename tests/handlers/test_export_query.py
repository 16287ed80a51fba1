"""Exports by query: reading only, stoppable, within bounds."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import apsw
import pytest

from task_queue_engine.errors import ConfigurationError
from task_queue_engine.handlers.export import query as export_query
from task_queue_engine.handlers.export.sql_functions import ALLOWED
from task_queue_engine.retry import Discard, Retry
from tests.handlers.contexts import AsyncContext
from tests.handlers.exporting import (
    all_files,
    content,
    export,
    exported,
    make_database,
)

ENDLESS = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT {} FROM n"


@pytest.fixture(autouse=True)
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "shop.db"
    make_database(path)
    monkeypatch.setenv("TQE_EXPORT_DATABASE", str(path))
    return path


# --- reading only -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO orders (customer) VALUES ('x')",
        "UPDATE orders SET total = 0",
        "DELETE FROM orders",
        "DROP TABLE orders",
        "CREATE TABLE t (a)",
        "CREATE TEMP TABLE t AS SELECT 1",
        "REPLACE INTO orders (id) VALUES (1)",
        "WITH x AS (SELECT 1) INSERT INTO orders (customer) SELECT 'x' FROM x",
        "WITH x AS (SELECT 1) DELETE FROM orders",
        "WITH x AS (SELECT 1) UPDATE orders SET total = 0 RETURNING *",
        "/* SELECT */ DELETE FROM orders",
        "SELECT 1; DELETE FROM orders",
        "SELECT 1; SELECT 2",
        "ATTACH 'other.db' AS other",
        "DETACH main",
        "VACUUM INTO 'copy.db'",
        "PRAGMA user_version",
        "PRAGMA user_version = 7",
        "PRAGMA query_only = 0",
        "SELECT * FROM pragma_user_version",
        "SELECT * FROM pragma_journal_mode('delete')",
        "SELECT load_extension('evil')",
        "SELECT hex(fts3_tokenizer('simple'))",
        "SELECT fts3_tokenizer('simple', x'0000000000000000')",
        "SELECT fts3_tokenizer('simple', ?)",
        "SELECT fts5(?)",
        "SELECT fts5_source_id()",
        "SELECT optimize(1)",
        "SELECT sqlite_log(1, 'x')",
        "SELECT rtreecheck('orders')",
        "SELECT sqlite_compileoption_get(1)",
        "SELECT writefile('evil', 'x')",
        "SELECT readfile('/etc/passwd')",
        "BEGIN",
        "COMMIT",
        "EXPLAIN SELECT 1",
        "REINDEX",
        "ANALYZE",
        "",
        "   ",
        "-- nothing",
        "/* no end SELECT 1",
        "SELECTED",
    ],
)
async def test_anything_but_one_select_is_refused_and_changes_nothing(
    sql: str, database: Path, tmp_path: Path
) -> None:
    before = content(database)
    with pytest.raises(Discard):
        await export({"query": sql or " "})
    assert content(database) == before
    assert set(all_files(tmp_path)) <= {"shop.db", "exports"}
    assert all_files(tmp_path / "exports") == []


@pytest.mark.parametrize(
    "sql",
    [
        "PRAGMA user_version = 7",
        "ATTACH ':memory:' AS other",
        "DELETE FROM orders",
        "CREATE TEMP TABLE t AS SELECT 1",
        "SELECT load_extension('evil')",
        "SELECT hex(Fts3_Tokenizer('simple'))",
    ],
)
async def test_the_connection_refuses_whatever_the_words_look_like(
    sql: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The look at the first word is for a good message; nothing depends on it.
    monkeypatch.setattr(export_query, "_SELECT", export_query.re.compile(""))
    monkeypatch.setattr(export_query, "_inspect", lambda connection, sql: ("a",))
    with pytest.raises(Discard, match=r"not authorized"):
        await export({"query": sql})


async def test_even_what_slipped_through_could_not_write(
    monkeypatch: pytest.MonkeyPatch, database: Path
) -> None:
    monkeypatch.setattr(export_query, "_allow_reading", lambda *action: apsw.SQLITE_OK)
    monkeypatch.setattr(export_query, "_inspect", lambda connection, sql: ("id",))
    before = content(database)
    with pytest.raises(Discard, match="readonly"):
        await export({"query": "WITH x AS (SELECT 1) DELETE FROM orders RETURNING id"})
    assert content(database) == before


@pytest.mark.parametrize(
    "sql",
    [
        "select 1 as a",
        " -- why\n/* and */ SELECT 1 AS a;",
        "SELECT 1 AS a; -- done",
        "WITH x AS (SELECT 1 AS a) SELECT a FROM x",
        "SELECT count(*) OVER () AS a FROM orders WHERE upper(customer) IN (SELECT 'ADA')",
        "SELECT value AS a FROM json_each('[1]')",
    ],
)
async def test_what_reads_is_allowed(sql: str) -> None:
    assert await exported({"query": sql}) == b"a\r\n1\r\n"


async def test_views_and_full_text_search_are_allowed(database: Path) -> None:
    with apsw.Connection(str(database)) as connection:
        connection.execute(
            "CREATE VIEW big AS SELECT customer FROM orders WHERE total > 10;"
            "CREATE VIRTUAL TABLE notes USING fts5(body);"
            "INSERT INTO notes VALUES ('hello world'), ('other')"
        )
    connection.close()
    assert await exported({"query": "SELECT * FROM big WHERE customer > 'A'"}) == (
        b"customer\r\nAda\r\n"
    )
    assert await exported({"query": "SELECT body FROM notes WHERE notes MATCH 'hello'"}) == (
        b"body\r\nhello world\r\n"
    )


# --- parameters and errors --------------------------------------------------------------------


async def test_parameters() -> None:
    by_name = {"query": "SELECT id FROM orders WHERE customer = :who", "parameters": {"who": "Ada"}}
    assert await exported(by_name) == b"id\r\n1\r\n"
    by_place = {"query": "SELECT ? AS a, ? AS b", "parameters": ["'; DROP TABLE x", None]}
    assert await exported(by_place) == b"a,b\r\n'; DROP TABLE x,\r\n"


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"query": "SELECT nope FROM orders"}, "no such column: nope"),
        ({"query": "SELECT * FROM nope"}, "no such table: nope"),
        ({"query": "SELECT FROM"}, "syntax error"),
        ({"query": "SELECT :a", "parameters": {"b": 1}}, ":a"),
        ({"query": "SELECT :a"}, "bindings"),
        ({"query": "SELECT ?, ?", "parameters": [1]}, "bindings"),
        ({"query": "SELECT abs(-9223372036854775808)"}, "integer overflow"),
        ({"query": "SELECT zeroblob(99999999)"}, "larger than"),
        ({"query": "SELECT " + ", ".join(["zeroblob(4000000)"] * 9)}, "row is larger than"),
        ({"query": "SELECT " + ", ".join(["1"] * 1001)}, "more than 1000 columns"),
        ({"query": "SELECT CAST(x'ff' AS TEXT)"}, "not UTF-8"),
    ],
)
async def test_an_error_in_the_query_is_final_and_says_what_is_wrong(
    data: Any, said: str, tmp_path: Path
) -> None:
    with pytest.raises(Discard, match=said):
        await export(data)
    assert all_files(tmp_path / "exports") == []


async def test_a_locked_database_is_retried(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_query, "_BUSY_TIMEOUT", 0)
    other = apsw.Connection(str(database))
    try:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(Retry, match="locked"):
            await export({"query": "SELECT * FROM orders"})
    finally:
        other.close()
    assert await exported({"query": "SELECT 1 AS a"}) == b"a\r\n1\r\n"


async def test_a_database_being_written_to_is_read_as_it_was(database: Path) -> None:
    writer = apsw.Connection(str(database))
    try:
        writer.pragma("journal_mode", "wal")
        writer.execute("BEGIN IMMEDIATE; DELETE FROM orders")
        assert await exported({"query": "SELECT count(*) AS n FROM orders"}) == b"n\r\n3\r\n"
    finally:
        writer.close()


async def test_a_file_that_is_no_database_is_final(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TQE_EXPORT_DATABASE", __file__)
    with pytest.raises(Discard, match="not a database"):
        await export({"query": "SELECT 1 FROM sqlite_schema"})


@pytest.mark.parametrize("value", [None, "missing.db", "."])
async def test_no_database_names_the_variable(
    value: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if value is None:
        monkeypatch.delenv("TQE_EXPORT_DATABASE")
    else:
        monkeypatch.setenv("TQE_EXPORT_DATABASE", value)
    with pytest.raises(ConfigurationError) as failed:
        await export({"query": "SELECT 1"})
    assert failed.value.variable == "TQE_EXPORT_DATABASE"
    assert not (tmp_path / "missing.db").exists()


# --- bounds -----------------------------------------------------------------------------------


async def test_a_big_result_streams(tmp_path: Path) -> None:
    query = ENDLESS.format("x, hex(zeroblob(100)) AS filler") + " LIMIT 30000"
    context = AsyncContext()
    tracemalloc.start()
    try:
        result = await export({"query": query, "format": "json"}, context)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert result.rows == 30_000
    assert result.bytes > 6_000_000
    assert peak < 2_000_000
    assert context.reported == [{"rows": 10_000}, {"rows": 20_000}, {"rows": 30_000}]


@pytest.mark.parametrize(
    ("variable", "limit"), [("TQE_EXPORT_MAX_ROWS", "100"), ("TQE_EXPORT_MAX_BYTES", "5000")]
)
async def test_an_export_over_the_limit_fails_and_leaves_nothing(
    variable: str, limit: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(variable, limit)
    with pytest.raises(Discard, match=variable):
        await export({"query": ENDLESS.format("x")})
    assert all_files(tmp_path / "exports") == []


SORT = (
    ENDLESS.replace("FROM n)", "FROM n LIMIT 60000)").format("randomblob(100) AS b") + " ORDER BY b"
)


async def test_sorting_has_the_files_limit_for_its_temporary_files_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TQE_EXPORT_MAX_BYTES", "3000000")
    with pytest.raises(Discard, match=r"temporary space.*TQE_EXPORT_MAX_BYTES"):
        await export({"query": SORT})
    assert all_files(tmp_path / "exports") == []
    monkeypatch.setenv("TQE_EXPORT_MAX_BYTES", "30000000")
    assert (await export({"query": SORT})).rows == 60_000


async def test_the_database_may_be_in_wal_mode(database: Path) -> None:
    writer = apsw.Connection(str(database))
    try:
        writer.pragma("journal_mode", "wal")
        writer.execute("UPDATE orders SET total = 7 WHERE id = 1")
        query = "SELECT total FROM orders WHERE id = 1"
        assert await exported({"query": query}) == b"total\r\n7.0\r\n"
    finally:
        writer.close()


def test_every_function_allowed_is_one_that_sqlite_has() -> None:
    with apsw.Connection(":memory:") as connection:
        known = {name for (name,) in connection.execute("SELECT name FROM pragma_function_list")}
    connection.close()
    # SQLite is built without these here.
    assert known >= ALLOWED - {"soundex"}


async def test_exactly_the_limit_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TQE_EXPORT_MAX_ROWS", "100")
    monkeypatch.setenv("TQE_EXPORT_MAX_BYTES", "395")
    result = await export({"query": ENDLESS.format("x") + " LIMIT 100", "filename": "x"})
    assert (result.rows, result.bytes) == (100, 395)
