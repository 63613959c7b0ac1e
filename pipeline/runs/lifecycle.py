"""An MLflow run's lifecycle: it starts, runs its body and ends with its true status."""

import json
import os
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from types import TracebackType

import mlflow
from filelock import FileLock, Timeout
from mlflow.entities import Run
from platformdirs import user_state_path

from pipeline.config import APPLICATION, MAX_NAME
from pipeline.errors import DivergedError, InputError, MachineError
from pipeline.interruption import Interrupted, deferred
from pipeline.machine import describe_machine, processor
from pipeline.runs.record import OTHER_NAMES, StudyRecord
from pipeline.runs.software import code_commit, environment, git_dirty, versions
from pipeline.store import uploads
from pipeline.store.initialization import check_relative
from pipeline.store.liveness import PROCESS, is_alive, this_process
from pipeline.store.lookup import get_run
from pipeline.store.outages.failures import STORE_ERRORS, reason_of
from pipeline.store.outages.waiting import in_store
from pipeline.store.tags import (
    PARENT_TAG,
    RECORD_FILE,
    for_people,
    forget_failure,
    pack,
    say_failure,
    unpack,
)
from pipeline.upstream import is_generated_name, keep_status

THEN, MAX_PLACES = ", then ", 8


@contextmanager
def track(
    name: str,
    settings: Mapping[str, object],
    values: Mapping[str, object],
    experiment_id: str | None = None,
    parent: StudyRecord | None = None,
    run_id: str | None = None,
) -> Iterator[Run]:
    """Run the body as an MLflow run and end it with its true status.

    FINISHED, KILLED if the process is asked to stop, or FAILED, with the reason in its description.
    With `run_id`, an unfinished run is continued. Inside `mlflow run`, the run that it created is
    used, and named unless the user has done so. The run of a study is the `parent` of others, in
    this process and in others. `settings` become parameters, except those that `mlflow run` has
    already logged as typed: MLflow refuses to log `0.1` over `1e-1`. `values` become tags.
    """
    if parent:
        experiment_id = parent.experiment_id
        values = {**values, PARENT_TAG: parent.run_id}
    project_run = _run_of_project()
    with _claimed(run_id), _TrueStatus() as status:
        values = {**values, **versions(), "git_dirty": git_dirty()}
        if commit := code_commit():
            values[OTHER_NAMES["commit"]] = commit
        begun = run_id or project_run
        run = status.begin(name, begun, experiment_id, values)
        uploads.open_for(run, is_new=not begun)
        _describe(run, settings, values)
        yield run
        uploads.flush()
        _finish(run)


class _TrueStatus:
    """Begins a run, and ends it with the status that fits the outcome."""

    run: Run | None = None

    @in_store
    def begin(
        self,
        name: str,
        run_id: str | None,
        experiment_id: str | None,
        values: Mapping[str, object],
    ) -> Run:
        """Start or restart the run with name and tags, which say what it is if it is killed now."""
        process, client = this_process(), mlflow.MlflowClient()
        here = {"machine": describe_machine(), "node": platform.node(), "processor": processor()}
        with deferred():  # what has begun is known, and will be ended
            given_name = False
            if run_id:
                run = client.get_run(run_id)
                given_name = not is_generated_name(run.info.run_name)
                before = unpack(run)
                here = {place: _both(before.get(place, ""), now) for place, now in here.items()}
                # Before it is RUNNING again: `liveness` must not look for the previous process.
                for key, value in process.items():
                    client.set_tag(run_id, key, value)
            self.run = mlflow.start_run(
                run_id=run_id,
                experiment_id=experiment_id,
                # A server's database rejects longer names, such as some evaluated models' URIs.
                run_name=None if given_name else name[:MAX_NAME],
                nested=True,
                tags=pack({**values, **process, **here}),
                log_system_metrics=False,  # `uploads` does so
            )
            return self.run

    def __enter__(self) -> "_TrueStatus":
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        if self.run is None:
            return
        status = "FAILED" if error else "FINISHED"
        if isinstance(error, (Interrupted, KeyboardInterrupt)):
            status = "KILLED"
        # What has failed may be the store itself. A signal that comes meanwhile is raised after
        # each step, and must not prevent the next one.
        try:
            if error:
                with deferred(), suppress(*STORE_ERRORS):
                    # With other settings, not by going on.
                    wrong = isinstance(error, (InputError, DivergedError))
                    say_failure(self.run.info.run_id, status, reason_of(error), not wrong)
                    uploads.send_last(self.run)
        finally:
            with deferred(), suppress(*STORE_ERRORS, MachineError):
                uploads.close(self.run)
            if error:
                with deferred(), suppress(*STORE_ERRORS):
                    _end(self.run, status)


def _both(before: str, now: str) -> str:
    """Where a run was trained before, and where it is now: the last ones, if there are many."""
    places = before.split(THEN) if before else []
    return THEN.join(places if now in places else [*places, now][-MAX_PLACES:])


@contextmanager
def _claimed(run_id: str | None) -> Iterator[None]:
    """Keep other processes of this user from continuing the run at the same time.

    Raises InputError if one is doing so.
    """
    if run_id is None:
        yield
        return
    path = user_state_path(APPLICATION) / f"{run_id}.lock"
    lock = FileLock(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        raise InputError(f"run {run_id} is being continued by another process") from None
    except OSError as error:
        raise MachineError(f"{path} can't be created ({error})") from None
    try:
        yield
    finally:
        with suppress(PermissionError):  # Windows can't delete an open file
            path.unlink(missing_ok=True)
        lock.release()


def _run_of_project() -> str | None:
    """Take the id of the run that `mlflow run` created; MLflow loses it if its first try fails."""
    return None if mlflow.active_run() else os.environ.pop("MLFLOW_RUN_ID", None)


@in_store
def _describe(run: Run, settings: Mapping[str, object], values: Mapping[str, object]) -> None:
    forget_failure(run)
    mlflow.log_params({k: v for k, v in settings.items() if k not in run.data.params})
    content = json.dumps(for_people(values, settings), indent=2, ensure_ascii=False)
    uploads.log_files({RECORD_FILE: content.encode(), "environment.txt": environment().encode()})


@in_store
def _finish(run: Run) -> None:
    """End a run as FINISHED, even if another process marked it as dead during an outage."""
    forget_failure(mlflow.get_run(run.info.run_id))
    _end(run, "FINISHED")


def _end(run: Run, status: str) -> None:
    active = mlflow.active_run()
    if active and active.info.run_id == run.info.run_id:
        mlflow.end_run(status)
    else:  # which failed before, but has made the run an inactive one
        mlflow.MlflowClient().set_terminated(run.info.run_id, status)


@in_store
def name_project_run(run_id: str, name: str) -> None:
    """Name a run of `mlflow run`, unless the user has done so."""
    if is_generated_name(get_run(run_id).info.run_name):
        mlflow.MlflowClient().update_run(run_id, name=name[:MAX_NAME])


def end_project_run(run_id: str, name: str, error: BaseException, new: str | None = None) -> None:
    """Let the run of `mlflow run` keep its status; one that has just begun gets `new`.

    That one also gets its name and the reason.

    With --run-id, it may have ended long ago, or another process may still be working on it.
    """
    with suppress(InputError, MachineError):
        check_relative()
        run = get_run(run_id)
        status: str | None = run.info.status
        if PROCESS not in run.data.tags:  # the command has not got as far as `track`
            name_project_run(run_id, name)
            in_store(say_failure)(run_id, new or "FAILED", reason_of(error))
        if status == "RUNNING":
            alive = PROCESS in run.data.tags and is_alive(run)
            status = "RUNNING" if alive else new
        if status:
            keep_status(run_id, status)
