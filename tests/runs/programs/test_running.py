"""A program's run: what the program gets, and how its end becomes the run's."""

import _thread
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import psutil
import pytest
from driven import LOGS, TAGS, carry_out, of_command, of_file, output_of, place, run_of
from mlflow.entities import Run
from test_statement import AWKWARD

from pipeline import interruption
from pipeline.errors import InputError, MachineError
from pipeline.interruption import Interrupted
from pipeline.runs.programs import run as program_run
from pipeline.runs.programs.environment import RAY_KILLS, environment_of
from pipeline.runs.programs.function import metrics_in
from pipeline.runs.programs.process import last_lines
from pipeline.runs.programs.strays import Strays
from pipeline.store.address import absolute_uri
from pipeline.store.initialization import check_store
from pipeline.store.liveness import (
    HOST,
    PROCESS,
    is_alive,
    mark_dead,
    mark_dead_runs,
    this_process,
)
from pipeline.store.tags import PARENT_TAG
from pipeline.store.variables import VARIABLES

WAIT = 30.0


def _until(condition: object, seconds: float = WAIT) -> None:
    """Wait until a condition holds."""
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it has taken too long"
        time.sleep(0.05)


def test_values_arrive_as_they_are_and_the_outcome_is_read(tmp_path: Path) -> None:
    code = "import json; print(json.dumps(sys.argv[1:]), os.getcwd()); log('test_rmse', 0.5)"
    settings = {f"s{n}": value for n, value in enumerate(AWKWARD)}
    program = " ".join(["python train.py {seed}", *(f"{{{name}}}" for name in settings)])
    ablation = of_command(tmp_path, code, program=program, variants={"a": settings})
    result = carry_out(ablation)
    assert result.failure == ""
    assert result.values == {"test_rmse": 0.5}
    printed, _, folder = output_of(result).decode().partition("] ")
    assert json.loads(f"{printed}]") == ["3", *AWKWARD]
    assert folder == f"{tmp_path / 'my programs'}\n"
    run = run_of(result)
    assert (run.info.status, run.info.run_name) == ("FINISHED", "a-seed3")
    assert run.data.tags.items() >= {**TAGS, "pipeline.exit_status": "0"}.items()
    assert run.data.tags["pipeline.command"].startswith("python train.py 3 'two words'")
    assert run.data.params == {}  # the study's settings are tags


JOINS = """
import mlflow, numpy
with mlflow.start_run() as run:
    assert run.info.run_name == "a-seed3", run.info.run_name
    for step in (1, 2, 10, 9):
        mlflow.log_metric("test_rmse", 1 / step, step=step)
    mlflow.log_metric("best_iteration", 7)
    mlflow.set_tags({"mlflow.runName": "0", "kind": "mine", "own": "x"})
    mlflow.set_tag("mlflow.note.content", "about this run")
    mlflow.log_param("depth", 5)
    mlflow.log_text("mine", "output.txt")
    mlflow.log_input(mlflow.data.from_numpy(numpy.zeros(3), name="zeros", digest="abc"))
    with mlflow.start_run(nested=True, run_name="fold"):
        mlflow.log_metric("test_rmse", 99)
mlflow.delete_run(run.info.run_id)
print("at the end", run.info.run_id)
"""


def test_the_run_is_the_studys_in_the_end_whatever_the_program_has_done(tmp_path: Path) -> None:
    result = carry_out(of_command(tmp_path, JOINS))
    assert result.values == {"test_rmse": 0.1}  # of the last step, not the one logged last
    assert result.stopped_early == ("best_iteration",)
    assert result.datasets == {"zeros": "abc"}
    assert result.notes == ("the program has deleted its run, which was restored",)
    run = run_of(result)
    assert (run.info.status, run.info.lifecycle_stage) == ("FINISHED", "active")
    assert run.info.run_name == "a-seed3"
    tags = run.data.tags
    assert tags.items() >= {**TAGS, "mlflow.runName": "a-seed3", "own": "x"}.items()
    assert tags["mlflow.note.content"] == "about this run"
    assert tags["pipeline.mlflow_status"] == "FINISHED"
    assert run.data.params == {"depth": "5"}
    assert output_of(result) == b"mine"
    printed = output_of(result, "program/output.txt").decode()
    assert printed.endswith(f"at the end {result.run_id}\n")


@pytest.mark.parametrize(
    ("code", "status", "reason"),
    [
        ("raise ValueError('depth')", "FAILED", "exited with 1: ValueError: depth"),
        (
            "raise ValueError('the depth\\n\\n  is\\nwrong')",
            "FAILED",
            "exited with 1: ValueError: the depth … wrong",
        ),
        (
            "def f(): 1 / 0\ntry: f()\nexcept Exception: sys.excepthook(*sys.exc_info())\n"
            "sys.exit('given up')",
            "FAILED",
            "exited with 1: ZeroDivisionError: division by zero … given up",
        ),
        ("sys.exit(7)", "FAILED", "exited with 7, and printed nothing"),
        ("store('UPDATE runs SET status = ?', 'FAILED')", "FINISHED", ""),
        ("store('UPDATE runs SET status = ?', 'FINISHED'); os._exit(3)", "FAILED", "with 3"),
        ("print('a\\n\\n'); os.kill(os.getpid(), 9)", "KILLED", "was killed by SIGKILL: a"),
        ("os.kill(os.getpid(), 15)", "KILLED", "the program was killed by SIGTERM"),
        ("input()", "FAILED", "EOFError: EOF when reading a line"),
    ],
)
def test_the_exit_status_decides(tmp_path: Path, code: str, status: str, reason: str) -> None:
    result = carry_out(of_command(tmp_path, f"log('test_rmse', 1)\n{code}"))
    run = run_of(result)
    assert run.info.status == result.status == status
    assert reason in result.failure
    assert bool(result.failure) == bool(reason)
    assert run.data.tags.get("failure", "") == result.failure
    if "UPDATE" in code:
        known = "FAILED" if status == "FINISHED" else "FINISHED"
        assert run.data.tags["pipeline.mlflow_status"] == known
    if "the depth" in code:
        described = run.data.tags["mlflow.note.content"]
        assert described.startswith(f"**FAILED:** `{result.failure}`\n````\nTraceback (most rec")
        assert described.endswith("\nValueError: the depth\n  is\nwrong\n````")


def test_huge_output_in_any_encoding_is_kept_and_its_end_shown(tmp_path: Path) -> None:
    code = (
        "out = sys.stdout.buffer\n"
        "for n in range(40): out.write(b'\\xff\\x00' * 2**19 + b'\\n')\n"
        "out.write('\\rstep 1\\rstep 2 é\\n\\n'.encode() + b'\\x1b[31mred\\xe9\\n'); out.flush()\n"
        "os.write(2, b'x' * 5000)\n"
        "sys.exit(2)"
    )
    before = psutil.Process().memory_info().rss
    result = carry_out(of_command(tmp_path, code))
    assert psutil.Process().memory_info().rss - before < 20 * 2**20
    output = output_of(result)
    assert len(output) > 40 * 2**20
    (tmp_path / "output.txt").write_bytes(output)
    *_, bar, red, long = last_lines(tmp_path / "output.txt")
    assert (bar, red, long) == ("step 2 é", "\\x1b[31mred\ufffd", "x" * 199 + "…")
    assert len(run_of(result).data.tags["mlflow.note.content"]) < 5000


def test_a_shell_that_opens_its_output_again_loses_nothing_of_it(tmp_path: Path) -> None:
    lines = "echo one\necho two > /dev/stderr\necho three >> /dev/stdout\necho four\n"
    script = place(tmp_path) / "train.sh"
    script.write_text(lines)
    ablation = of_command(tmp_path, "", program="sh train.sh {seed}")
    assert output_of(carry_out(ablation)) == b"one\ntwo\nthree\nfour\n"


def test_a_function_gets_its_settings_and_returns_its_metrics(tmp_path: Path) -> None:
    ablation = of_file(
        tmp_path,
        "import argparse, multiprocessing, numpy, os, sys\n"
        "def double(x): return 2 * x\n"
        "def train(settings, seed):\n"
        "    import mlflow\n"
        "    mlflow.log_metric('test_rmse', 99, step=4)\n"
        "    mlflow.end_run()\n"  # as autologging does
        "    argparse.ArgumentParser().parse_args()\n"  # as the script that it was taken from
        "    print(settings, seed, os.getcwd(), 'torch' in sys.modules)\n"
        "    with multiprocessing.get_context('spawn').Pool(1) as pool:\n"
        "        doubled = pool.map(double, [settings['depth']])[0]\n"
        "    return {'test_rmse': numpy.float32(doubled + 0.5), 'n': 1}\n"
        "ablation = Ablation(program=train, variants={'a': {'depth': 4, 'x': ' y;'}},\n"
        "    outcome=Outcome('test_rmse'))\n",
    )
    result = carry_out(ablation)
    assert (result.failure, result.notes) == ("", ())
    assert result.values == {"test_rmse": 8.5}
    folder = tmp_path / "my programs"
    assert output_of(result).decode() == f"{{'depth': 4, 'x': ' y;'}} 3 {folder} False\n"


def test_a_function_that_fails_says_why(tmp_path: Path) -> None:
    ablation = of_file(
        tmp_path,
        "def train(settings, seed):\n    {}['x']\n"
        "ablation = Ablation(program=train, variants={'a': {}}, outcome=Outcome('x'))\n",
    )
    result = carry_out(ablation)
    assert (result.status, result.failure) == (
        "FAILED",
        "the program exited with 1: KeyError: 'x'",
    )
    assert run_of(result).data.tags["pipeline.mlflow_status"] == "FAILED"


def test_a_function_that_returns_no_outcome_is_told_what_to_change(tmp_path: Path) -> None:
    ablation = of_file(
        tmp_path,
        "def train(settings, seed):\n    return {'y': 1}\n"
        "ablation = Ablation(program=train, variants={'a': {}}, outcome=Outcome('x'))\n",
    )
    assert carry_out(ablation).failure == (
        "the program ended well but logged no `x`, only y; let the function return"
        ' {"x": …}, or log to the run that is active when the function is called'
    )


@pytest.mark.parametrize(
    ("returned", "reason"),
    [
        ({"a": "1"}, r"the function returned '1' as 'a'; a metric has a name and a number"),
        ({1: 2}, r"the function returned 2 as 1; a metric has a name"),
        (0.5, r"the function returned 0\.5; it must be a dictionary of metrics"),
    ],
)
def test_a_function_returns_numbers_by_name_or_nothing(returned: object, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        metrics_in(returned)
    assert metrics_in(None) == {}
    assert metrics_in({"a": np.float32(0.5), "b": True}) == {"a": 0.5, "b": 1.0}


MLPROJECT = """
name: theirs
entry_points:
  fit:
    parameters: {text: string, seed: int, fail: {type: int, default: 0}}
    command: "python fit.py {text} {seed} {fail}"
"""


def test_an_entry_point_of_a_project_joins_the_run(tmp_path: Path) -> None:
    theirs = tmp_path / "their #1 project"
    theirs.mkdir()
    (theirs / "MLproject").write_text(MLPROJECT)
    (theirs / "fit.py").write_text(
        f"{LOGS}\nif sys.argv[3] == '2': sys.exit(5)\n"
        "print(sys.argv[1:3], os.getcwd(), sys.executable)\nlog('test_rmse', 2)\n"
        "if sys.argv[3] == '1': raise ValueError('no')"
    )
    ablation = of_command(
        tmp_path,
        "",
        program="",
        variants={"a": {"text": 'it\'s $HOME; "x" %'}, "b": {"text": "", "fail": 1}}
        | {"c": {"text": "", "fail": 2}},
        **{"project": f"../{theirs.name}", "entry_point": "fit"},
    )
    result = carry_out(ablation)
    assert (result.failure, result.values) == ("", {"test_rmse": 2})
    printed = f"{['it' + chr(39) + 's $HOME; ' + chr(34) + 'x' + chr(34) + ' %', '3']} {theirs}"
    assert f"{printed} {sys.executable}\n" in output_of(result).decode()
    assert run_of(result).info.run_name == "a-seed3"
    failed = carry_out(ablation, "b")
    assert (failed.status, failed.failure) == (
        "FAILED",
        "the program exited with 1: ValueError: no",
    )
    assert carry_out(ablation, "c").failure == "the program exited with 1, and printed nothing"


CHILDREN = """
import subprocess
ignore = "signal.signal(15, signal.SIG_IGN)" if "stubborn" in __doc__ else "pass"
code = f"import signal, time; {ignore}; print(flush=True); time.sleep(99)"
command, pipe = [sys.executable, "-c", code], subprocess.PIPE
child = subprocess.Popen(command, start_new_session=True, stdout=pipe)
child.stdout.readline()
open("pids", "w").write(f"{os.getpid()} {child.pid} ")
time.sleep(20)
"""


def _pids(folder: Path) -> list[int]:
    file = folder / "my programs" / "pids"
    _until(lambda: file.exists() and file.read_text().endswith(" "))
    return [int(pid) for pid in file.read_text().split()]


def _is_gone(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


@pytest.mark.parametrize("is_of_ray", [False, True])  # whose cancelling wakes no system call up
def test_an_interruption_ends_the_program_with_its_children_and_the_run_is_killed(
    tmp_path: Path, is_of_ray: bool
) -> None:
    found, interrupted = list[int](), list[float]()

    def interrupt() -> None:
        found.extend(_pids(tmp_path))
        interrupted.append(time.monotonic())
        (run,) = mlflow.MlflowClient().search_runs(["0"])
        assert is_alive(run)
        assert run.data.tags[PROCESS].startswith(f"{os.getpid()} ")
        if is_of_ray:
            _thread.interrupt_main()
        else:
            os.kill(os.getpid(), signal.SIGINT)

    def stop(number: int, _frame: object) -> None:
        raise Interrupted(number)

    ablation = of_command(tmp_path, f"__doc__ = 'stubborn'\n{CHILDREN}")
    before = signal.signal(signal.SIGINT, stop)
    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        with pytest.raises(Interrupted):
            carry_out(ablation)
    finally:
        signal.signal(signal.SIGINT, before)
        thread.join()
    assert time.monotonic() - interrupted[0] < 15  # the program would take 20 s
    assert [_is_gone(pid) for pid in found] == [True, True]
    (run,) = mlflow.MlflowClient().search_runs(["0"])
    assert run.info.status == "KILLED"
    assert run.data.tags["failure"] == "stopped by SIGINT"
    assert "pipeline.exit_status" not in run.data.tags


def test_an_interruption_while_a_run_is_created_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = program_run._create

    def interrupted(*given: Any) -> Run:
        made = create(*given)
        os.kill(os.getpid(), signal.SIGINT)
        return made

    monkeypatch.setattr(program_run, "_create", interrupted)
    before = {number: signal.getsignal(number) for number in interruption.SIGNALS}
    interruption.install()
    try:
        with pytest.raises(Interrupted):
            carry_out(of_command(tmp_path, ""))
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    (run,) = mlflow.MlflowClient().search_runs(["0"])
    assert (run.info.status, run.data.tags["failure"]) == ("KILLED", "stopped by SIGINT")


@pytest.mark.parametrize("is_killed", [True, False])
def test_a_worker_that_dies_takes_its_program_along(tmp_path: Path, is_killed: bool) -> None:
    programs = place(tmp_path, train=f"'a doc'\nimport os, sys, time\n{CHILDREN}")
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from pipeline.runs.programs.process import run_to_end\n"
        # What a shell starts in the background ignores it.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "command = [sys.executable, 'train.py']\n"
        f"run_to_end(command, Path({str(programs)!r}), os.environ, open('output.txt', 'wb'))"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    command, quiet = [sys.executable, "-c", code], subprocess.DEVNULL
    worker = subprocess.Popen(command, env=environment, stderr=quiet, start_new_session=True)
    pids = _pids(tmp_path)
    if is_killed:
        worker.kill()
    else:  # Ctrl-C, which a terminal sends to all of a group; it is the worker's to pass on
        os.killpg(worker.pid, signal.SIGINT)
    worker.wait()
    _until(lambda: all(map(_is_gone, pids)))
    assert (tmp_path / "output.txt").read_bytes() == b""


def test_what_a_program_leaves_behind_ends_with_it(tmp_path: Path) -> None:
    code = (
        "import subprocess; log('test_rmse', 1)\n"
        "sleep = [sys.executable, '-c', 'import time; time.sleep(99)']\n"
        "quiet = {'stdout': subprocess.DEVNULL, 'stderr': subprocess.DEVNULL}\n"
        "for own in (False, True):\n"  # as a daemon has a session of its own
        "    print(subprocess.Popen(sleep, start_new_session=own, **quiet).pid)\n"
    )
    if sys.platform == "linux":  # and another environment, too
        code += "print(subprocess.Popen(sleep, start_new_session=True, env={}, **quiet).pid)"
    result = carry_out(of_command(tmp_path, code))
    assert result.failure == ""
    left = [int(pid) for pid in output_of(result).split()]
    assert len(left) == (3 if sys.platform == "linux" else 2)
    _until(lambda: all(map(_is_gone, left)))


def test_without_its_supervisor_a_program_ends_too(tmp_path: Path) -> None:
    def kill() -> None:
        psutil.Process(_pids(tmp_path)[0]).parent().kill()

    thread = threading.Thread(target=kill)
    thread.start()
    with pytest.raises(MachineError, match="what watches over the program was killed"):
        carry_out(of_command(tmp_path, f"'a doc'\n{CHILDREN}".replace("__doc__", "''")))
    thread.join()
    _until(lambda: all(map(_is_gone, _pids(tmp_path))), 5)
    (run,) = mlflow.MlflowClient().search_runs(["0"])
    assert run.info.status == "FAILED"


def test_a_program_that_vanishes_after_the_check_leaves_no_run_running(tmp_path: Path) -> None:
    ablation = of_command(
        tmp_path, "", program="python {script} {seed}", variants={"a": {"script": "train.py"}}
    )
    (tmp_path / "my programs" / "train.py").unlink()
    with pytest.raises(InputError, match=r"there is no train\.py in"):
        carry_out(ablation)
    script = tmp_path / "my programs" / "train"
    script.write_bytes(b"\x7fELF, but not really")
    script.chmod(0o700)
    broken = of_command(tmp_path, "", program="./train {seed}")
    with pytest.raises(MachineError, match="the program can't start: Exec format error"):
        carry_out(broken)
    (run,) = mlflow.MlflowClient().search_runs(["0"])
    assert run.info.status == "FAILED"
    assert run.data.tags["failure"] == "the program can't start: Exec format error"


def test_the_environment_is_the_users_with_what_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        **VARIABLES,
        "MLFLOW_EXPERIMENT_NAME": "x",
        "MLFLOW_RUN_CONTEXT": '{"team": "a"}',
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "77",  # the user's
        "MLFLOW_REGISTRY_URI": "sqlite:///models.db",
        "TQDM_DISABLE": "1",
        RAY_KILLS: "0",
        "GOMP_SPINCOUNT": "1000",
        "PIPELINE_SPINNING": "short",
        "PIPELINE_DATA_DIR": "/data",
    }.items():
        monkeypatch.setenv(name, value)
    folder = tmp_path / "50%20off"
    folder.mkdir()
    monkeypatch.chdir(folder)
    mlflow.set_tracking_uri("sqlite:///mlflow.db?timeout=5")
    run = mlflow.MlflowClient().create_run("0")
    given = environment_of(run, 3)
    place = f"sqlite:///{tmp_path}/50%2520off"
    expected = {
        "MLFLOW_RUN_ID": run.info.run_id,
        "MLFLOW_EXPERIMENT_ID": "0",
        "MLFLOW_TRACKING_URI": f"{place}/mlflow.db?timeout=5",
        "MLFLOW_REGISTRY_URI": f"{place}/models.db",
        "MLFLOW_ENABLE_ASYNC_LOGGING": "false",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "77",
        "OMP_NUM_THREADS": "3",
        "PYTHONUNBUFFERED": "1",
        "PIPELINE_DATA_DIR": "/data",
    }
    assert given.items() >= expected.items()
    context = json.loads(given["MLFLOW_RUN_CONTEXT"])
    assert context == {"team": "a", "pipeline.begun_by": run.info.run_id}
    gone = {*VARIABLES, "MLFLOW_EXPERIMENT_NAME", "TQDM_DISABLE", "GOMP_SPINCOUNT", RAY_KILLS}
    assert not gone - {"MLFLOW_HTTP_REQUEST_TIMEOUT"} & given.keys()
    assert given["PATH"].split(os.pathsep)[0] == str(Path(sys.executable).parent)
    client = mlflow.MlflowClient(given["MLFLOW_TRACKING_URI"])
    assert client.get_run(run.info.run_id).info.run_id == run.info.run_id


@pytest.mark.parametrize(
    ("uri", "elsewhere"),
    [
        ("file:mlruns", "{}/mlruns"),
        ("./mlruns", "{}/mlruns"),
        ("file:///data/mlruns", "file:///data/mlruns"),
        ("sqlite:///a.db", "sqlite:///{}/a.db"),
        ("https://example.org", "https://example.org"),
        ("databricks", "databricks"),
        ("databricks-uc", "databricks-uc"),
        ("databricks://profile", "databricks://profile"),
    ],
)
def test_the_address_of_a_store_holds_in_the_folder_of_a_program(
    tmp_path: Path, uri: str, elsewhere: str
) -> None:
    assert absolute_uri(uri) == elsewhere.format(tmp_path)


def test_runs_that_a_program_has_begun_end_with_it_if_its_study_is_killed(tmp_path: Path) -> None:
    check_store()
    client = mlflow.MlflowClient()
    dead = client.create_run("0", tags={**this_process(), PROCESS: "4194304 1.00 1.00"})
    fold = client.create_run("0", tags={"pipeline.begun_by": dead.info.run_id})
    mark_dead_runs()
    assert [mlflow.get_run(run.info.run_id).info.status for run in (dead, fold)] == 2 * ["KILLED"]


def test_a_silent_program_on_another_machine_is_alive_as_long_as_its_study(tmp_path: Path) -> None:
    check_store()
    client, long_ago = mlflow.MlflowClient(), int(time.time() * 1000) - 3 * 3_600_000
    there = {HOST: "another machine", PROCESS: "1 1.00 1.00"}

    def begin(**tags: str) -> str:
        made = client.create_run("0", start_time=long_ago, tags={**there, **tags})
        return str(made.info.run_id)

    lost, study = begin(kind="study"), begin(kind="study")
    client.log_metric(study, "system/cpu", 1)
    programs = [begin(kind="program", **{PARENT_TAG: one}) for one in (lost, study)]
    alive = [is_alive(mlflow.get_run(run_id)) for run_id in (lost, study, *programs)]
    assert alive == [False, True, False, True]


def test_a_run_that_was_given_up_elsewhere_and_ends_well_says_only_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def marked_meanwhile(run: Run) -> Strays:
        mark_dead(mlflow.get_run(run.info.run_id))
        return Strays([], [])

    monkeypatch.setattr(program_run, "find_strays", marked_meanwhile)
    run = run_of(carry_out(of_command(tmp_path, "log('test_rmse', 1)")))
    assert run.info.status == "FINISHED"
    assert not {"failure", "mlflow.note.content"} & run.data.tags.keys()
