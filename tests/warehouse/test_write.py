"""A batch is in the warehouse once and whole; what PostgreSQL refuses of it is quarantined."""

import json
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import adbc_driver_manager
import adbc_driver_postgresql.dbapi as adbc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.settings.settings import PostgresSettings
from pipelines.warehouse.statements import statements_of
from pipelines.warehouse.write import load_events, storable_json
from sources.cloudflare_audit_logs.events import decode_page
from sources.cloudflare_audit_logs.streams import Stream
from tests.factory import ACCOUNT, encoded, time_of, v1_tree

pytestmark = pytest.mark.integration


@pytest.fixture
def warehouse(postgres: PostgresSettings, tmp_path: Path) -> Iterator[tuple[Any, str]]:
    """A connection, and a schema with the tables."""
    schema = f"load_{os.getpid()}_{abs(hash(tmp_path.name))}"
    uri = f"postgresql://{postgres.user}:{postgres.password}@{postgres.host}:{postgres.port}/{postgres.database}"
    with adbc.connect(uri, autocommit=True) as connection:
        with connection.cursor() as cursor:
            cursor.execute(f"CREATE SCHEMA {schema}")
            for statement in statements_of("tables.sql", schema=schema):
                cursor.execute(statement)
        yield connection, schema


def test_a_batch_is_inserted_once_and_only_what_is_refused_is_not(warehouse: tuple[Any, str]) -> None:
    """Three of a thousand, found by halving and quarantined with reason and text; a second load adds nothing."""
    connection, schema = warehouse
    dice = random.Random(0)  # not for secrets
    long_id = "".join(dice.choices("abcdefghijklmnopqrstuvwxyz0123456789", k=20_000))
    odd = [
        encoded(v1_tree(id="number", metadata={"x": "HERE"})).replace(b'"HERE"', b"1e1000000"),
        encoded(v1_tree(id="nan", newValue="HERE")).replace(b'"HERE"', b"NaN"),
        encoded(v1_tree(id=long_id)),
    ]
    slices = [encoded(v1_tree()) for _ in range(997)]
    for position, raw in zip((3, 500, 999), odd, strict=True):
        slices.insert(position, raw)
    batch = decode_page(slices, Stream(ACCOUNT, "v1"), time_of("2026-11-24T00:00:00Z")).events

    refused = load_events(connection, schema, batch)
    load_events(connection, schema, batch)

    quarantined = _rows(connection, f"SELECT raw_event, reason FROM {schema}.audit_logs_quarantine")
    assert refused.num_rows == 3
    assert _rows(connection, f"SELECT count(*) AS n FROM {schema}.audit_logs") == [{"n": 997}]
    assert sorted(row["raw_event"].encode() for row in quarantined) == sorted(odd)
    assert all("refused by PostgreSQL" in row["reason"] for row in quarantined)


def test_an_error_that_is_no_rows_fault_writes_nothing(warehouse: tuple[Any, str]) -> None:
    """A missing table is not a reason to quarantine a thousand events."""
    connection, schema = warehouse
    batch = decode_page([encoded(v1_tree())], Stream(ACCOUNT, "v1"), time_of("2026-11-24T00:00:00Z")).events
    with connection.cursor() as cursor:
        cursor.execute(f"ALTER TABLE {schema}.audit_logs RENAME TO gone")

    with pytest.raises(adbc_driver_manager.Error, match="does not exist"):
        load_events(connection, schema, batch)

    assert _rows(connection, f"SELECT count(*) AS n FROM {schema}.audit_logs_quarantine") == [{"n": 0}]


_ODD = ["\x00", "\ud800", "\udfff", "😀", "\n"]
text_with_escapes = st.text(alphabet=st.sampled_from([*'\\u0dD8fFcC"a{}', *_ODD]))


@given(value=st.recursive(text_with_escapes, lambda inner: st.lists(inner) | st.dictionaries(text_with_escapes, inner)))
def test_json_for_postgresql_differs_only_where_it_has_to(value: Any) -> None:
    """Backslashes before an escape are counted, pairs of surrogates are characters."""

    def substituted(node: Any) -> Any:
        if isinstance(node, str):
            return "".join("\ufffd" if char == "\x00" or "\ud800" <= char <= "\udfff" else char for char in node)
        if isinstance(node, list):
            return [substituted(item) for item in node]
        return {substituted(name): substituted(item) for name, item in node.items()}

    # Through JSON once: two lone surrogates that meet are one character there.
    meant = json.loads(json.dumps(value))

    assert json.loads(storable_json(json.dumps(value))) == substituted(meant)


def _rows(connection: Any, sql: str) -> list[dict[str, Any]]:
    with connection.cursor() as cursor:
        cursor.execute(sql)
        rows: list[dict[str, Any]] = cursor.fetch_arrow_table().to_pylist() if cursor.description else []
        return rows
