"""The outcome of a program, and where it is if it is not in the run that the program was given."""

import math
import sys
import time
from pathlib import Path

import mlflow
import pytest
from driven import LOGS, RMSE, carry_out, of_command, output_of, run_of
from mlflow.entities import Metric

from pipeline import Outcome
from pipeline.runs.histories import measured
from pipeline.runs.programs.outcomes import outcome_values
from pipeline.runs.programs.strays import find_strays
from pipeline.store.tags import PARENT_TAG

HUGE = sys.float_info.max
POINTS = [(2, 20, 0.25), (1, 30, 0.5), (2, 10, 9.0), (0, 40, 0.125)]


@pytest.mark.parametrize(
    ("value", "points", "expected"),
    [
        ("last", POINTS, 0.25),  # the highest step, and of its two points the later one
        ("max", POINTS, 9.0),  # of all that was logged
        ("min", POINTS, 0.125),
        (1, POINTS, 0.5),
        (3, POINTS, None),
        ("last", [], None),
        ("last", [(1, 1, 0.5), (2, 2, HUGE)], math.inf),  # as databases keep infinity
        ("last", [(1, 1, -HUGE)], -math.inf),
        ("last", [(1, 1, 0.5), (2, 2, math.nan)], math.nan),
        ("min", [(1, 1, 0.5), (2, 2, math.nan)], math.nan),  # it has diverged in the end
        ("min", [(1, 1, math.nan), (2, 2, 0.5)], 0.5),
        ("max", [(1, 1, 0.5), (2, 2, HUGE)], math.inf),
        ("last", [(1, 1, 0.5), (1, 1, 0.75)], None),  # nobody knows which was last
        ("mean2", POINTS, 0.375),  # steps 1 and 2
        ("mean3", POINTS, (0.125 + 0.5 + 0.25) / 3),
        ("mean4", POINTS, None),
        ("mean2", [(1, 1, 0.5), (2, 2, HUGE)], math.inf),
        ("mean2", [(1, 1, 0.5), (1, 1, 0.75), (2, 2, 1.0)], None),
    ],
)
def test_which_value_counts(
    value: str | int, points: list[tuple[int, int, float]], expected: float | None
) -> None:
    history = [Metric("x", number, time, step) for step, time, number in points]
    found = measured(history, Outcome("x", value=value)).value
    assert found == expected or (found is not None and math.isnan(found) and expected != expected)


def test_a_run_whose_outcome_is_not_finite_has_diverged(tmp_path: Path) -> None:
    code = f"log('test_rmse', 1, 1); log('test_rmse', {HUGE!r}, 2); log('other', 3)"
    result = carry_out(of_command(tmp_path, code, outcome=[RMSE, Outcome("other")]))
    assert result.values == {"test_rmse": math.inf, "other": 3}
    assert result.diverged == ["test_rmse"]
    assert (result.status, result.failure) == ("FINISHED", "")


def test_steps_of_numpy_get_one_clear_line(tmp_path: Path) -> None:
    # As SQLite keeps numpy.int32(3), which may also be a fraction of four bytes.
    code = "log('test_rmse', 1, (3).to_bytes(4, 'little'))"
    result = carry_out(of_command(tmp_path, code))
    assert result.failure == (
        "it logged test_rmse with a step of NumPy's, which SQLite keeps as bytes; log"
        " step=int(step)"
    )


WHOLE = "put `with mlflow.start_run():` around the whole program"


@pytest.mark.parametrize(
    ("code", "outcome", "reason"),
    [
        (
            "",
            RMSE,
            "logged no `test_rmse` or any other metric; log it by"
            f' `mlflow.log_metric("test_rmse", …)`, and {WHOLE}',
        ),
        ("import mlflow", RMSE, f"logged no `test_rmse` or any other metric; {WHOLE}"),
        ("log('rmse', 1)", RMSE, "no `test_rmse`, only rmse (did you mean rmse?)"),
        ("log('Test RMSE', 1)", RMSE, "only Test RMSE (did you mean Test RMSE?)"),
        (
            "log('train_rmse', 1); log('x', 2)",
            RMSE,
            "logged no `test_rmse`, only train_rmse, x (did you mean train_rmse?)",
        ),
        (
            "log('test_rmse', 1, 7)",
            Outcome("test_rmse", value=30),
            "logged no `test_rmse` at step 30",
        ),
        (
            "try: import transformers\nexcept ImportError: pass",
            RMSE,
            'or any other metric; give TrainingArguments report_to="mlflow"',
        ),
        (
            "try: import lightning.pytorch\nexcept ImportError: pass",
            RMSE,
            "whole program, and give MLFlowLogger run_id=mlflow.active_run().info.run_id",
        ),
    ],
)
def test_a_program_that_logs_no_outcome_is_told_what_to_change(
    tmp_path: Path, code: str, outcome: Outcome, reason: str
) -> None:
    result = carry_out(of_command(tmp_path, code, outcome=outcome))
    assert result.failure.endswith(reason)
    assert result.failure.startswith("the program ended well but logged no `test_rmse`")
    run = run_of(result)
    assert run.info.status == "FINISHED"
    assert run.data.tags["failure"] == result.failure


# As autologging does, which ends the given run after the fit.
ELSEWHERE = """
import mlflow
with mlflow.start_run() as given:
    mlflow.log_metric("loss", 1)
experiment = mlflow.set_experiment("another one")
other = mlflow.start_run(run_name="stray")
mlflow.log_metric("test_rmse", 0.5)
print(given.info.run_id, other.info.run_id)
os._exit(0)
"""


def test_runs_that_a_program_has_begun_are_found_in_any_experiment_or_adopted(
    tmp_path: Path,
) -> None:
    refused = carry_out(of_command(tmp_path, ELSEWHERE))
    client = mlflow.MlflowClient()
    given, other = output_of(refused).decode().splitlines()[-1].split()
    assert given == refused.run_id
    assert refused.failure == (
        "the program ended well but logged no `test_rmse`, only loss; run stray"
        f" ({other[:8]}, in experiment 'another one'), which the program began, has it; {WHOLE}"
    )
    assert client.get_run(other).info.status == "FINISHED"  # os._exit has left it RUNNING
    assert PARENT_TAG not in client.get_run(other).data.tags

    adopted = carry_out(of_command(tmp_path, ELSEWHERE, adopt=True))
    assert (adopted.failure, adopted.notes) == ("", ())
    assert adopted.values == {"test_rmse": 0.5}
    assert adopted.adopted != other
    assert client.get_run(adopted.adopted).data.tags[PARENT_TAG] == adopted.run_id
    assert outcome_values(run_of(adopted), [RMSE]) == {"test_rmse": 0.5}  # as reuse reads it
    # Each program's are its own.
    begun = [one.info.run_id for one in find_strays(run_of(adopted)).begun]
    assert begun == [adopted.adopted]


# As a program that starts others.
BEGUN_INSIDE = """
import mlflow
import subprocess
code = "import mlflow; mlflow.start_run(); mlflow.log_metric('test_rmse', 1)"
with mlflow.start_run():
    mlflow.log_metric("loss", 1)
    subprocess.run([sys.executable, "-c", code], check=True)
"""


def test_a_program_that_starts_what_logs_is_told_to_log_itself(tmp_path: Path) -> None:
    failure = carry_out(of_command(tmp_path, BEGUN_INSIDE)).failure
    assert failure.endswith(
        "which the program began, has it; log from the process that calls `mlflow.start_run`: one"
        " that it starts begins a run of its own"
    )


BARE = """
import mlflow
def create(run, tags={}, **more):
    columns = {"run_uuid": run, "name": run, "experiment_id": 0, "lifecycle_stage": "active"}
    columns |= {"status": "RUNNING", "start_time": int(time.time() * 1000), "user_id": "unknown"}
    columns |= {"artifact_uri": f"mlruns/0/{run}"}
    marks = ", ".join("?" * len(columns))
    store(f"INSERT INTO runs ({', '.join(columns)}) VALUES ({marks})", *columns.values())
    for key, value in tags.items():
        store("INSERT INTO tags (key, value, run_uuid) VALUES (?, ?, ?)", key, value, run)
    log("test_rmse", 0.5, run=run)
"""


def test_runs_of_others_that_began_meanwhile_are_told_from_the_programs(tmp_path: Path) -> None:
    others = (
        "create('a' * 32, {'mlflow.user': 'somebody'})\n"  # by mlflow.start_run, elsewhere
        "create('b' * 32, {'pipeline.process': '1 2 3'})\n"  # another run of a study
        "create('c' * 32, {'pipeline.begun_by': 'd' * 32})\n"  # of another run's program
    )
    result = carry_out(of_command(tmp_path, BARE + others, adopt=True))
    assert result.failure == (
        f"the program ended well but logged no `test_rmse` or any other metric; {WHOLE}"
    )
    assert mlflow.get_run("a" * 32).info.status == "RUNNING"
    time.sleep(0.01)  # later than these
    unknown = carry_out(of_command(tmp_path, f"{BARE}create('e' * 32)", adopt=True))
    assert unknown.failure == (
        "the program ended well but logged no `test_rmse` or any other metric; run"
        f" {'e' * 32} (eeeeeeee, in experiment 'Default'), which began meanwhile and may be the"
        f" program's, has it; {WHOLE}"
    )
    assert unknown.adopted == ""


def test_a_program_that_chooses_an_experiment_is_told_so(tmp_path: Path) -> None:
    error = "active experiment ID does not match environment run ID. Make sure"
    code = f"raise RuntimeError('Cannot start run with ID x because {error}')"
    result = carry_out(of_command(tmp_path, code))
    assert result.failure == (
        "the program exited with 1: it chooses an experiment, and the study has; leave out"
        " `mlflow.set_experiment`"
    )


def test_a_program_that_chooses_a_store_is_told_so(tmp_path: Path) -> None:
    code = "sys.exit(f'MlflowException: Run with id={run} not found')"
    assert carry_out(of_command(tmp_path, code)).failure == (
        "the program exited with 1: it looks for its run in another store than the study's; leave"
        " out `mlflow.set_tracking_uri`"
    )


def test_folds_in_runs_of_their_own_are_noted_and_children_are_not(tmp_path: Path) -> None:
    code = (
        "log('test_rmse', 1)\n"
        "create('a' * 32, {'pipeline.begun_by': run})\n"
        "create('b' * 32, {'pipeline.begun_by': run, 'mlflow.parentRunId': run})\n"
    )
    result = carry_out(of_command(tmp_path, BARE + code))
    assert (result.failure, result.values) == ("", {"test_rmse": 1})
    assert result.notes == (
        f"the program also began run {'a' * 32} (aaaaaaaa, in experiment 'Default'), which belongs"
        f" to no study: {WHOLE}",
    )
    statuses = {run.info.status for run in mlflow.MlflowClient().search_runs(["0"])}
    assert statuses == {"FINISHED"}


def test_several_models_in_one_run_are_noted(tmp_path: Path) -> None:
    code = (
        "kinds = 'input_uuid, source_type, source_id, destination_type, destination_id, step'\n"
        "for n in '12':\n"
        "    row = (n * 32, 'RUN_OUTPUT', run, 'MODEL_OUTPUT', 'm-' + n * 32, int(n))\n"
        "    store(f'INSERT INTO inputs ({kinds}) VALUES (?, ?, ?, ?, ?, ?)', *row)\n"
        "log('test_rmse', 1)\n"
    )
    result = carry_out(of_command(tmp_path, code))
    assert result.models == (f"m-{'2' * 32}", f"m-{'1' * 32}")
    assert result.notes == ("2 models are in one run; of two fits, the metrics mix",)


def test_the_helper_of_these_tests_logs_as_mlflow_does(tmp_path: Path) -> None:
    """Otherwise they would hold nothing."""
    result = carry_out(of_command(tmp_path, "log('test_rmse', 2, 5)"))
    client = mlflow.MlflowClient()
    reference = client.create_run("0").info.run_id
    client.log_metric(reference, "test_rmse", 2, step=5)
    for read in (
        lambda run_id: client.get_run(run_id).data.metrics,
        lambda run_id: [(p.step, p.value) for p in client.get_metric_history(run_id, "test_rmse")],
    ):
        assert read(result.run_id) == read(reference)
    assert outcome_values(_numpy_step(client), [RMSE]) == {"test_rmse": 2}
    assert "import mlflow" not in LOGS


def _numpy_step(client: mlflow.MlflowClient) -> mlflow.entities.Run:
    import numpy

    run_id = client.create_run("0").info.run_id
    client.log_metric(run_id, "test_rmse", 2, step=numpy.int64(5))  # type: ignore[arg-type]
    return client.get_run(run_id)
