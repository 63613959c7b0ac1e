"""A server that lost its artifacts, or that lets one train but not register."""

import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlflow
import pytest
import requests
from conftest import TINY, WHOLE, Answer, forget_stores
from PIL import Image
from servers import Server

from pipeline.runs.lifecycle import track
from pipeline.serving.served import load_served
from pipeline.store import artifacts, uploads
from pipeline.store.liveness import PROCESS, this_process

STUDY = ["ablate", *WHOLE, "--variants", "bn,base", "--seeds", "1", "--jobs", "1"]
REGISTRY = ("/registered-models/", "/model-versions/")
Pipeline = Callable[..., Answer]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A running server that keeps its runs in SQLite."""
    folder = tmp_path_factory.mktemp("server")
    running = Server(folder, f"sqlite:///{folder}/mlflow.db")
    running.start()
    yield running
    running.stop()


@pytest.fixture
def client(server: Server, monkeypatch: pytest.MonkeyPatch) -> mlflow.MlflowClient:
    """The server is the store of this test, with an experiment of its own."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", f"e{id(monkeypatch)}")
    forget_stores()
    return mlflow.MlflowClient(server.uri)


@contextmanager
def forbidden(*parts: str, but: str = "nothing", status: int = 403) -> Iterator[None]:
    """Let requests whose address has one of these parts be answered by 403, or another status.

    As a proxy does, or MLflow's basic-auth app, which looks at rights before the request's content.
    """
    send = requests.Session.send

    def answer(session: requests.Session, request: Any, **settings: Any) -> requests.Response:
        if any(part in request.url for part in parts) and but not in str(request.body):
            response = requests.Response()
            response.status_code, response.url = status, request.url
            response._content = b"Permission denied"
            return response
        return send(session, request, **settings)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(requests.Session, "send", answer)
        yield


def all_runs(client: mlflow.MlflowClient) -> list[str]:
    """The statuses of the runs in all experiments but the first."""
    experiments = [e.experiment_id for e in client.search_experiments() if e.experiment_id != "0"]
    found = client.search_runs(experiments) if experiments else []
    return sorted(f"{run.data.tags['kind']} {run.info.status}" for run in found)


@pytest.mark.parametrize("parts", [REGISTRY, ("/registered-models/create",)])
def test_who_may_not_register_is_told_before_anything_is_trained(
    parts: tuple[str, ...], client: mlflow.MlflowClient, pipeline: Pipeline, server: Server
) -> None:
    before = all_runs(client)
    for command, way_out in (
        (STUDY, "give register=none"),
        ([*STUDY, "--dry-run"], "give register=none"),
        (["train", *TINY], "give register=none"),
    ):
        with forbidden(*parts):
            answer = pipeline(*command)
        assert answer.status == 2
        (line,) = answer.err.splitlines()
        assert f"{server.uri} does not let you register models (403)" in line
        assert "this would register synthetic-cnn" in line
        assert way_out in line
        assert "register=none" in line
    assert all_runs(client) == before
    assert client.search_registered_models() == []


def test_a_study_registers_nothing_if_asked_so_and_a_question_leaves_nothing(
    client: mlflow.MlflowClient, pipeline: Pipeline
) -> None:
    with forbidden(*REGISTRY):
        answer = pipeline(*STUDY, "--register", "none")
    assert answer.status == 0, answer.err
    assert "Report: " in answer.out

    # Allowed when it was asked, and forbidden at the end.
    with forbidden("/model-versions/create", but='"source": ""'):
        answer = pipeline(*STUDY)
    assert answer.status == 1
    (line,) = answer.error_lines
    assert "bn-seed0 is trained, but its model models:/m-" in line
    assert "can't be registered as synthetic-cnn" in line
    assert "403" in line
    assert "give register=none" in line
    assert "Report: " in answer.out
    assert "BatchNorm" in answer.out
    assert "Registered" not in answer.out
    assert "study FAILED" in all_runs(client)

    with forbidden("/model-versions/create", but='"source": ""'):
        answer = pipeline("train", *TINY)
    assert answer.status == 1
    assert "base-seed0 is trained, but its model models:/m-" in answer.error_lines[0]
    *_, shown, ended, _, page, _ = answer.out.splitlines()
    assert "base-seed0 on synthetic: validation accuracy " in shown
    assert ", not registered; its model is models:/m-" in ended
    run_id = ended.split()[1].removesuffix(",")
    assert f"/runs/{run_id}?" in page
    assert client.get_run(run_id).info.status == "FINISHED"

    # A model that exists may have rights of its own.
    assert [model.name for model in client.search_registered_models()] == ["synthetic-cnn"]
    with forbidden("/model-versions/create"):
        assert "does not let you register" in pipeline(*STUDY).err
    assert client.search_model_versions() == []
    answer = pipeline(*STUDY)
    assert answer.status == 0, answer.err
    assert "2 of 2 runs are finished already and are reused" in answer.out
    assert "models:/synthetic-cnn@bn" in answer.out

    # What one may not change is named, and all else is done.
    with forbidden("/registered-models/alias", "/model-versions/update", "/registered-models/up"):
        answer = pipeline("train", *WHOLE, "--epochs", "2")
    assert answer.status == 0, answer.err
    notes = [line for line in answer.err.splitlines() if "does not let you" in line]
    (described, moved) = (line.split("you ")[1] for line in notes[:2])
    assert described == "describe models:/synthetic-cnn/3 (403)"
    assert moved == "move models:/synthetic-cnn@base (403)"
    assert "registered as models:/synthetic-cnn/3" in answer.out
    assert "@base" not in answer.out


@pytest.mark.usefixtures("news")
def test_a_model_is_used_where_one_may_not_see_or_change_registered_ones(
    client: mlflow.MlflowClient,
    pipeline: Pipeline,
    server: Server,
    capfd: pytest.CaptureFixture[str],
) -> None:
    Image.new("RGB", (32, 32), "red").save("picture.png")
    answer = pipeline("train", *TINY)
    assert answer.status == 0, answer.err
    (run_id,) = re.findall("run ([0-9a-f]{32}), registered", answer.out)
    (version,) = client.search_model_versions(f"run_id = '{run_id}'")
    unseen = f"note: {server.uri} does not let you see registered models, so that none is named"
    untagged = f"tag models:/{version.name}/{version.version} with evaluation_run (403)"

    with forbidden(*REGISTRY):
        answer = pipeline("predict", "--model", run_id, "picture.png")
        assert (answer.status, answer.err) == (0, "")
        answer = pipeline("evaluate", "--model", run_id)
        assert answer.status == 0, answer.err
        assert answer.err.splitlines() == [f"{unseen} (403)"]
        facts = load_served(run_id).facts
        assert (facts["run_id"], facts["name"], facts["version"]) == (run_id, None, None)
        assert capfd.readouterr().err.splitlines() == [f"{unseen} (403)"]
    with forbidden("/model-versions/set-tag"):
        answer = pipeline("evaluate", "--model", run_id)
    assert answer.status == 0, answer.err
    assert answer.err.splitlines() == [f"note: {server.uri} does not let you {untagged}"]
    evaluations = [run for run in all_runs(client) if run.startswith("evaluate")]
    assert set(evaluations) == {"evaluate FINISHED"}

    with forbidden("/model-versions/", status=503):  # no right is missing
        answer = pipeline("evaluate", "--model", run_id)
    assert answer.status == 1
    assert "does not answer" in answer.err
    assert [run for run in all_runs(client) if run.startswith("evaluate")] == evaluations


def test_aliases_that_one_may_not_see_are_left_out(
    client: mlflow.MlflowClient, pipeline: Pipeline
) -> None:
    with forbidden("/model-versions/get?"):
        answer = pipeline("train", *TINY)
    assert answer.status == 0, answer.err
    assert "registered as models:/synthetic-cnn/" in answer.out
    assert "does not let you see the aliases of models:/synthetic-cnn/" in answer.err


def test_a_dead_run_that_one_may_not_change_hinders_nobody(
    client: mlflow.MlflowClient, pipeline: Pipeline
) -> None:
    dead = this_process() | {PROCESS: "999999999 1 1", "kind": "train"}
    run = client.create_run(client.create_experiment("of somebody else"), tags=dead)
    with forbidden("/runs/set-tag", "/runs/update"):
        answer = pipeline("compare", "--experiment", "Default")
    assert "has no finished training run to compare" in answer.err
    assert answer.status == 2
    assert client.get_run(run.info.run_id).info.status == "RUNNING"
    pipeline("compare", "--experiment", "Default")
    assert client.get_run(run.info.run_id).info.status == "KILLED"


def test_runs_of_a_server_whose_artifacts_are_gone_are_trained_again(
    client: mlflow.MlflowClient, pipeline: Pipeline, server: Server, tmp_path: Path
) -> None:
    Image.new("RGB", (32, 32), "red").save("picture.png")
    assert pipeline(*STUDY).status == 0
    shutil.rmtree(server.folder / "served")
    for model in ("models:/synthetic-cnn@bn", "models:/synthetic-cnn@champion"):
        answer = pipeline("predict", "--model", model, "picture.png")
        assert answer.status == 2
        (line,) = answer.err.splitlines()
        assert f"the files of {model} are missing in mlflow-artifacts:/" in line
    answer = pipeline(*STUDY)
    assert answer.status == 0, answer.err
    assert "finished, but trained again: " in answer.err
    assert "reused" not in answer.out
    for alias in ("base", "bn", "champion"):
        model = f"models:/synthetic-cnn@{alias}"
        assert pipeline("predict", "--model", model, "picture.png").status == 0
    assert "2 of 2 runs are finished already" in pipeline(*STUDY).out

    shutil.rmtree(next((server.folder / "served").rglob("models")))
    answer = pipeline(*STUDY)
    assert answer.status == 0, answer.err
    assert "files of its model are missing" in answer.err
    assert not (tmp_path / "mlruns").exists()


@pytest.mark.parametrize("may_delete", [True, False])
def test_a_state_is_emptied_where_the_store_deletes_no_file(
    may_delete: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbid(*_: object) -> None:
        raise PermissionError("403")

    if not may_delete:
        monkeypatch.setattr(artifacts, "delete_file", forbid)
    with track("run", {}, {}) as run:
        uploads.save_state(b"state", is_kept=True)
        uploads.flush()
        uploads.drop_state()
    left = artifacts.read_artifact(run.info.artifact_uri, uploads.STATE_FILE)
    assert left == (None if may_delete else b"")
