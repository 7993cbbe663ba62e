"""Runs the tasks of prefect-cubejs, unchanged, in flows of Prefect against a server.

The task on standard input: {"url", "secret", "context", "steps": [...]}; the results go to standard output as one JSON
list, an entry a step: {"result"} or {"error"}. A step names a task and its arguments; `limit` is the task's own timeout
in seconds. Prefect's API is its own, in a process that ends with this one.
"""

import copy
import json
import os
import sys
import tempfile

TASK = json.load(sys.stdin)
os.environ |= {
    "PREFECT_HOME": tempfile.mkdtemp(prefix="quarry-prefect-"),
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_EPHEMERAL_ENABLED": "true",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "300",
}
RESULTS = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)

from prefect import flow  # noqa: E402
from prefect_cubejs import tasks  # noqa: E402


@flow
def run(step):
    task = getattr(tasks, step["task"]).with_options(timeout_seconds=step.get("limit"))
    context = copy.deepcopy(TASK["context"])
    arguments = {"url": TASK["url"], "api_secret": TASK["secret"], "security_context": context} | step["arguments"]
    try:
        return {"result": task(**arguments)}
    except Exception as error:  # noqa: BLE001
        return {"error": f"{type(error).__name__}: {error}"}


with RESULTS:
    json.dump([run(step) for step in TASK["steps"]], RESULTS)
