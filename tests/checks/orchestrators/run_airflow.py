"""Runs the operators of airflow-provider-cube, unchanged, against a server.

The task on standard input: {"host", "secret", "context", "steps": [...]}; the results go to standard output as one
JSON list, an entry a step: {"result"} or {"error"}. A step names an operator and its arguments; `limit` is the
execution timeout in seconds, as Airflow's own task runner enforces it.
"""

import contextlib
import json
import os
import sys
import tempfile
from datetime import timedelta

TASK = json.load(sys.stdin)
HOME = tempfile.mkdtemp(prefix="quarry-airflow-")
os.environ |= {
    "AIRFLOW_HOME": HOME,
    "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{HOME}/airflow.db",
    "AIRFLOW_CONN_CUBE_DEFAULT": json.dumps(
        {
            "conn_type": "generic",
            "host": TASK["host"],
            "password": TASK["secret"],
            "extra": {"security_context": TASK["context"]},
        }
    ),
}
# What the libraries print must not come between the results.
RESULTS = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)

from airflow.utils.timeout import timeout  # noqa: E402
from cube_provider.operators import cube  # noqa: E402


def run(number, step):
    operator = getattr(cube, step["operator"])(
        task_id=f"step_{number}", execution_timeout=step.get("limit") and timedelta(seconds=step["limit"]), **step["arguments"]
    )
    limit = operator.execution_timeout
    try:
        # As the task runner does it.
        with timeout(limit.total_seconds()) if limit else contextlib.nullcontext():
            return {"result": operator.execute({})}
    except BaseException as error:  # noqa: BLE001 -- Airflow's timeout is no Exception
        return {"error": f"{type(error).__name__}: {error}"}


with RESULTS:
    json.dump([run(number, step) for number, step in enumerate(TASK["steps"])], RESULTS)
