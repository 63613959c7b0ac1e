#!/bin/sh
# GUESS: After `cp -r original copy`, the two folders have nothing to do with each other: a run that
#   is deleted in the copy and removed for good by `mlflow gc` loses the files in the copy.
# REAL: `mlflow gc`, run in the copy on the copy's database, deletes the files in the original, and
#   leaves those in the copy. The database holds absolute addresses, and nothing compares them with
#   the place where it lies. The original still lists the run, FINISHED, without its files.
# VERSIONS: mlflow-skinny 3.17.2, SQLAlchemy 2.1.9, alembic 1.20.1, Python 3.11.7
# DATE: 2026-11-29
# OUTPUT SEEN:
#   before, original: mlflow.db a.txt
#   before, copy:     mlflow.db a.txt
#   after,  original: mlflow.db
#   after,  copy:     mlflow.db a.txt
#   the run in the original: FINISHED
set -eu

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    mlflow-skinny==3.17.2 sqlalchemy==2.1.9 alembic==1.20.1
cd "$folder"
unset MLFLOW_TRACKING_URI MLFLOW_RUN_ID MLFLOW_EXPERIMENT_ID MLFLOW_EXPERIMENT_NAME
export MLFLOW_TRACKING_URI=sqlite:///mlflow.db

mkdir original
cd original
"$folder/venv/bin/python" - > ../run_id <<'PYTHON'
import mlflow

with mlflow.start_run() as run:
    mlflow.log_text("precious", "a.txt")
print(run.info.run_id)
PYTHON
cd ..
cp -r original copy

cat > files.py <<'PYTHON'
import sys
from pathlib import Path

for folder in ("original", "copy"):
    names = [path.name for path in sorted(Path(folder).rglob("*")) if path.is_file()]
    print(f"{sys.argv[1]} {folder + ':':9}", *sorted(names, key=len, reverse=True))
PYTHON
"$folder/venv/bin/python" files.py "before," | tee before

cd copy
"$folder/venv/bin/python" -c "import mlflow; mlflow.delete_run('$(cat ../run_id)')"
"$folder/venv/bin/mlflow" gc > ../gc.log 2>&1
cd ..
"$folder/venv/bin/python" files.py "after, " | tee after
cd original
"$folder/venv/bin/python" - "$(cat ../run_id)" <<'PYTHON'
import sys
from pathlib import Path

import mlflow

print("the run in the original:", mlflow.get_run(sys.argv[1]).info.status)
gone = not list(Path.cwd().rglob("a.txt"))
kept = list(Path("../copy").rglob("a.txt"))
sys.exit(0 if gone and kept else "this has changed: the files of the original are still there")
PYTHON
