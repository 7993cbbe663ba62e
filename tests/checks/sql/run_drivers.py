"""Talks to a server with psycopg, pg8000 and SQLAlchemy, unchanged; prints what each saw."""

import datetime
import json
import sys

import pg8000.dbapi
import psycopg
import sqlalchemy

task = json.load(sys.stdin)
host, port, user, password = "127.0.0.1", task["port"], task["user"], task["password"]


def plain(value):
    if isinstance(value, (datetime.datetime, datetime.date)):
        return value.isoformat()
    return value


def rows(found):
    return [[plain(value) for value in row] for row in found]


def with_psycopg(binary):
    told = {}
    with psycopg.connect(host=host, port=port, user=user, password=password, dbname="shop") as connection:
        with connection.cursor(binary=binary) as cursor:
            sql = "SELECT status, MEASURE(count), SUM(total), MAX(last) FROM orders WHERE status = %s GROUP BY 1"
            told["measures"] = rows(cursor.execute(sql, ("done",)).fetchall())
            told["numbers"] = rows(cursor.execute("SELECT id FROM orders WHERE id > %s ORDER BY 1", (3,)).fetchall())
            times = "SELECT id FROM orders WHERE createdAt >= %s ORDER BY id"
            told["times"] = rows(cursor.execute(times, (datetime.datetime(2024, 2, 14),)).fetchall())
            told["types"] = rows(cursor.execute("SELECT id, paid, createdAt FROM orders WHERE id = 1").fetchall())
            told["nulls"] = rows(cursor.execute("SELECT status, paid FROM orders WHERE id = 5").fetchall())
        try:
            connection.execute("SELECT SUM(count) FROM orders")
        except psycopg.Error as error:
            told["error"] = [error.sqlstate, error.diag.message_primary]
        connection.rollback()
        told["after"] = rows(connection.execute("SELECT COUNT(*) FROM orders").fetchall())
    return told


def with_pg8000():
    connection = pg8000.dbapi.connect(user=user, password=password, host=host, port=port, database="shop")
    cursor = connection.cursor()
    cursor.execute("SELECT status, COUNT(*) FROM orders WHERE amount > %s GROUP BY 1 ORDER BY 2 DESC, 1", (20,))
    told = {"rows": rows(cursor.fetchall())}
    connection.close()
    return told


def with_sqlalchemy():
    url = sqlalchemy.URL.create("postgresql+psycopg", user, password, host, port, "shop")
    engine = sqlalchemy.create_engine(url)
    told = {}
    with engine.connect() as connection:
        sql = sqlalchemy.text("SELECT city, MEASURE(total) AS total FROM sales GROUP BY 1 ORDER BY city")
        told["rows"] = rows(connection.execute(sql).fetchall())
        zone = connection.execute(sqlalchemy.text("SHOW timezone")).scalar()
        told["zone"] = zone
    told["tables"] = sorted(sqlalchemy.inspect(engine).get_table_names())
    return told


def refused():
    try:
        psycopg.connect(host=host, port=port, user=user, password="wrong", dbname="shop").close()
    except psycopg.OperationalError as error:
        return "authentication failed" in str(error)
    return False


print(json.dumps({
    "text": with_psycopg(False),
    "binary": with_psycopg(True),
    "pg8000": with_pg8000(),
    "sqlalchemy": with_sqlalchemy(),
    "refused": refused(),
}))
