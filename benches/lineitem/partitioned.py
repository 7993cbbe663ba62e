"""Aggregates `data/lineitem.parquet` of a project with DuckDB as the bench's rollup does, into a Parquet file a month.

Arguments: the project's folder, the number of runs. Prints the median of the seconds, and the rows that were counted.
"""

import shutil
import statistics
import sys
import time

import duckdb

SQL = """
COPY (
    SELECT date_trunc('month', l_shipdate) AS month, l_shipdate AS day, l_returnflag, l_linestatus, l_shipmode,
           count(*) AS count, sum(l_quantity) AS quantity, sum(l_extendedprice) AS price, max(l_discount) AS most
    FROM read_parquet('{folder}/data/lineitem.parquet')
    GROUP BY ALL ORDER BY l_returnflag, l_linestatus, l_shipmode, day
) TO '{folder}/duckdb' (FORMAT parquet, PARTITION_BY (month), COMPRESSION zstd)
"""


def main():
    folder, runs = sys.argv[1], int(sys.argv[2])
    connection = duckdb.connect()
    times = []
    for _ in range(runs):
        shutil.rmtree(f"{folder}/duckdb", ignore_errors=True)
        begun = time.perf_counter()
        connection.execute(SQL.format(folder=folder))
        times.append(time.perf_counter() - begun)
    counted = connection.execute(f"SELECT sum(count) FROM read_parquet('{folder}/duckdb/**/*.parquet')").fetchone()[0]
    print(statistics.median(times), counted)


main()
