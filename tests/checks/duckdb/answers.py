"""Answers SQL with DuckDB: a second opinion for tests/it/duckdb.rs.

Reads {"projects": {name: folder}, "cases": [{"name", "project", "sql"}]} from standard input; every file
`data/T.parquet` of a project is table T. Writes {case name: {"columns": [...], "rows": [[...]]}} to standard output,
{"error": "..."} for SQL that does not run.
Numbers and times are written as texts, as the server writes them; null and booleans as JSON has them.
"""

import datetime
import decimal
import json
import pathlib
import sys

import duckdb


def cell(value):
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, decimal.Decimal):
        return format(value, "f")
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return format(decimal.Decimal(repr(value)), "f")
    if isinstance(value, datetime.datetime):
        return value.strftime("%Y-%m-%dT%H:%M:%S.") + f"{value.microsecond // 1000:03d}"
    if isinstance(value, datetime.date):
        return value.strftime("%Y-%m-%dT00:00:00.000")
    raise TypeError(f"a cell of type {type(value)}: {value!r}")


def connect(folder):
    connection = duckdb.connect()
    for path in sorted(pathlib.Path(folder, "data").glob("*.parquet")):
        name = str(path).replace("'", "''")
        connection.execute(f"CREATE VIEW \"{path.stem}\" AS SELECT * FROM read_parquet('{name}')")
    return connection


def main():
    task = json.load(sys.stdin)
    connections = {name: connect(folder) for name, folder in task["projects"].items()}
    answers = {}
    for case in task["cases"]:
        try:
            result = connections[case["project"]].execute(case["sql"])
            columns = [column[0] for column in result.description]
            rows = [[cell(value) for value in row] for row in result.fetchall()]
        except duckdb.Error as error:
            answers[case["name"]] = {"error": str(error)}
            continue
        answers[case["name"]] = {"columns": columns, "rows": rows}
    json.dump(answers, sys.stdout)


main()
