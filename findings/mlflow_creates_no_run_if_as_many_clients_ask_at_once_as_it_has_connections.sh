#!/bin/sh
# GUESS: A tracking server has 15 connections to its database by default (5, and 10 more if needed).
#   So 15 clients can create a run at the same moment, and of more, some wait for a few milliseconds.
# REAL: To create a run takes two connections at once: one is held while another is asked for. If 15
#   clients have got one each, all wait for a second one that none gives back. After 30 s the first
#   give up, with 400, BAD_REQUEST, as for a malformed request, which nobody tries again. It takes a
#   moment in which many begin, such as the start of a study on a cluster. MLFLOW_SQLALCHEMYSTORE_POOL_SIZE, set for the server, helps: more than twice the
#   requests that it handles at once, which are 40 for each of its workers.
# VERSIONS: mlflow 3.17.2, SQLAlchemy 2.1.9, Python 3.11.7
# DATE: 2026-12-01
# OUTPUT SEEN:
#    7 clients at once:  7 runs,  0 errors, within a second
#   15 clients at once:  7 runs,  8 errors, after 30 s
#     BAD_REQUEST, as HTTP status 400
#     QueuePool limit of size 5 overflow 10 reached, connection timed out, timeout 30.00
#   15 clients at once, 80 connections: 15 runs,  0 errors, within a second
set -eu

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check mlflow==3.17.2

cd "$folder"
cat > create.py <<'PYTHON'
import logging
import os
import sys
import threading
import time

import mlflow
from sqlalchemy import Engine, event

logging.disable(logging.WARNING)
mlflow.set_tracking_uri("sqlite:///store.db")  # the threads share it, as those of a server do
client = mlflow.MlflowClient()
client.create_run("0")
first = threading.local()


@event.listens_for(Engine, "before_cursor_execute")
def at_the_same_moment(*_):
    """The first statement of each client is sent when all have a connection."""
    if getattr(first, "all_there", None):
        first.all_there.wait(20)
        first.all_there = None


def create(all_there):
    first.all_there = all_there
    try:
        client.create_run("0")
    except mlflow.MlflowException as error:
        errors.append(error)


for count in map(int, sys.argv[1:]):
    errors, started = [], time.monotonic()
    clients = threading.Barrier(count)
    threads = [threading.Thread(target=create, args=[clients]) for _ in range(count)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    seconds = time.monotonic() - started
    when = f"after {seconds:.0f} s" if seconds > 5 else "within a second"
    size = os.environ.get("MLFLOW_SQLALCHEMYSTORE_POOL_SIZE")
    connections = f", {size} connections" if size else ""
    runs = count - len(errors)
    print(f"{count:2} clients at once{connections}: {runs:2} runs, {len(errors):2} errors, {when}")
    for error in errors[:1]:
        print(f"  {error.error_code}, as HTTP status {error.get_http_status_code()}")
        print("  " + str(error).split(" (Background")[0])
PYTHON
"$folder/venv/bin/python" create.py 7 15 | tee seen
MLFLOW_SQLALCHEMYSTORE_POOL_SIZE=80 "$folder/venv/bin/python" create.py 15 | tee -a seen
grep -q '^ 7 clients at once:  7 runs,  0 errors' seen
grep -Eq '^15 clients at once: .* [0-9]+ errors, after 3' seen
grep -q 'BAD_REQUEST, as HTTP status 400' seen
grep -q '^15 clients at once, 80 connections: 15 runs,  0 errors' seen
