"""The statements of docs/engines.md that register the lake as a table: parsed, not run. No engine is started."""

import re
from itertools import chain

import pytest
import sqlglot
from sqlglot import exp

from pipelines.settings.settings import PROJECT_ROOT
from sources.cloudflare_audit_logs.schema import EVENT_SCHEMA

DOCUMENT = (PROJECT_ROOT / "docs" / "engines.md").read_text()
STATEMENTS = dict(re.findall(r"^```sql (\w+)\n(.+?)```", DOCUMENT, re.DOTALL | re.MULTILINE))
TABLES = ("athena", "spark", "trino")


@pytest.mark.parametrize("dialect", TABLES)
def test_a_table_has_the_columns_of_the_lake_and_those_of_its_paths(dialect: str) -> None:
    """In their order; Parquet's are read by name, but people copy them."""
    create = sqlglot.parse(STATEMENTS[dialect], dialect=dialect)[0]

    assert isinstance(create, exp.Create)
    columns = [column.name for column in create.find_all(exp.ColumnDef)]
    named = chain.from_iterable(found.find_all(exp.Identifier, exp.Literal) for found in _partitions(create))
    assert columns[: len(EVENT_SCHEMA.names)] == EVENT_SCHEMA.names
    assert columns[len(EVENT_SCHEMA.names) :] == ["account", "date", "hour"]
    assert {"account", "date", "hour"} <= {item.name for item in named}


@pytest.mark.parametrize("dialect", TABLES)
def test_times_are_times_and_all_else_is_text(dialect: str) -> None:
    """As in the objects."""
    create = sqlglot.parse(STATEMENTS[dialect], dialect=dialect)[0]
    assert create is not None
    kinds = {column.name: column.args["kind"] for column in create.find_all(exp.ColumnDef)}

    for field in EVENT_SCHEMA:
        is_time = kinds[field.name].is_type("timestamp", "timestamptz")
        assert is_time == str(field.type).startswith("timestamp"), field.name
        assert is_time or kinds[field.name].is_type("text", "varchar"), field.name


def test_athena_computes_the_paths_that_we_write() -> None:
    """Each partition column has a projection, and the template is the layout."""
    text = STATEMENTS["athena"]

    properties = dict(re.findall(r"'([\w.]+)' = '([^']+)'", text))

    assert {name for name in properties if name.endswith(".type")} == {
        f"projection.{name}.type" for name in ("account", "date", "hour")
    }
    path = properties["storage.location.template"].partition("/cloudflare/")[2]
    assert path == "audit_logs/account=${account}/date=${date}/hour=${hour}"
    assert properties["projection.hour.digits"] == "2"


def _partitions(create: exp.Create) -> list[exp.Expression]:
    return list(create.find_all(exp.PartitionedByProperty))
