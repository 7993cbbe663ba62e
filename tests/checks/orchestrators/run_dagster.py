"""Runs a job of dagster with the resource of dagster_cube, unchanged, against a server.

The task on standard input: {"host", "token", "steps": [...]}; the results go to standard output as one JSON list, an
entry a step: {"result"} or {"error"}. A step either is one request (`method`, `endpoint`, `data`), or builds what a
`selector` names: the package has no build of its own, so the op posts and polls as its users do, for `limit` seconds.
"""

import json
import os
import sys
import time

TASK = json.load(sys.stdin)
RESULTS = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)

from dagster import Failure, job, op  # noqa: E402
from dagster_cube.cube_resource import cube_resource  # noqa: E402

JOBS = "pre-aggregations/jobs"


def build(cube, step):
    tokens = cube.make_request("POST", JOBS, {"action": "post", "selector": step["selector"]})
    if tokens is None:
        raise Failure("the request was refused")
    deadline = time.monotonic() + step.get("limit", 120)
    while time.monotonic() < deadline:
        statuses = cube.make_request("POST", JOBS, {"action": "get", "resType": "object", "tokens": tokens})
        words = [statuses[token]["status"] for token in tokens]
        failed = [word for word in words if "failure" in word]
        if failed:
            raise Failure(failed[0])
        if all(word == "done" for word in words):
            return words
        time.sleep(0.2)
    raise Failure(f"still {sorted(set(words))} at the deadline")


def run(step):
    outcome = {}

    @op(required_resource_keys={"cube"})
    def ask(context):
        try:
            cube = context.resources.cube
            request = (step.get("method"), step.get("endpoint"), step.get("data"))
            outcome["result"] = build(cube, step) if "selector" in step else cube.make_request(*request)
        except Failure as failure:
            outcome["error"] = failure.description
            raise

    @job(resource_defs={"cube": cube_resource})
    def asking():
        ask()

    config = {"resources": {"cube": {"config": {"instance_url": TASK["host"], "api_key": TASK["token"]}}}}
    ended = asking.execute_in_process(run_config=config, raise_on_error=False)
    assert ended.success == ("error" not in outcome), outcome
    return outcome


with RESULTS:
    json.dump([run(step) for step in TASK["steps"]], RESULTS)
