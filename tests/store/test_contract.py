"""What the pipeline asks of a tracking store, on each kind that people use.

It holds for MLflow, not for the code of this project: a store on which this fails is one that
studies and reports can't rely on, whatever else they do right.
"""

import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import mlflow
import numpy as np
import pytest
from conftest import forget_stores
from mlflow.data.numpy_dataset import from_numpy
from mlflow.entities import (
    LoggedModelInput,
    LoggedModelOutput,
    LoggedModelStatus,
    Metric,
    Run,
)
from mlflow.exceptions import MlflowException
from mlflow.models.model import MLMODEL_FILE_NAME
from servers import Server, needs_postgres, postgres

from pipeline.store.artifacts import delete_artifact, has_file, read_artifact, replace_artifact
from pipeline.store.lookup import get_run, match_run, search
from pipeline.store.tags import PARENT_TAG
from pipeline.upstream import create_tables

NAMES = ("plain", "it's", 'the "best" one', "Übung 3, 日本 👩‍🔬", "-R&D; $HOME 100% `x` \\ %s{}")


@pytest.fixture(
    scope="module",
    params=[
        "sqlite",
        "server",
        pytest.param("postgresql", marks=[pytest.mark.thorough, needs_postgres]),
    ],
)
def address(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The address of a store of one kind."""
    folder = tmp_path_factory.mktemp("contract")
    database = f"sqlite:///{folder}/mlflow.db"
    if request.param == "sqlite":
        create_tables(database)
        yield database
    elif request.param == "server":
        server = Server(folder, database)
        server.start()
        yield server.uri
        server.stop()
    else:
        with postgres() as uri:
            yield uri
            forget_stores()


@pytest.fixture
def experiment(address: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """An experiment of this test, in the store that MLflow now uses."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    forget_stores()
    return str(mlflow.create_experiment(uuid4().hex))


@pytest.fixture
def client(experiment: str) -> mlflow.MlflowClient:
    return mlflow.MlflowClient()


def started(experiment: str, name: str = "run", **tags: str) -> Run:
    return mlflow.MlflowClient().create_run(experiment, run_name=name, tags=tags)


def test_a_run_begins_with_its_tags_and_ends_with_its_status(
    experiment: str, client: mlflow.MlflowClient
) -> None:
    with mlflow.start_run(experiment_id=experiment, run_name="bn", tags={"kind": "train"}) as run:
        begun = client.get_run(run.info.run_id)
        assert (begun.info.status, begun.info.run_name) == ("RUNNING", "bn")
        assert begun.data.tags["kind"] == "train"
        mlflow.log_params({"lr": 0.001, "variant": "bn", "data_dir": "x" * 6000})
        mlflow.end_run("KILLED")
    ended = client.get_run(run.info.run_id)
    assert (ended.info.status, ended.info.experiment_id) == ("KILLED", experiment)
    assert ended.info.end_time >= ended.info.start_time
    assert ended.data.params == {"lr": "0.001", "variant": "bn", "data_dir": "x" * 6000}
    # It goes on, and ends again; a parameter that is logged again must be the same.
    with mlflow.start_run(run_id=run.info.run_id):
        mlflow.log_param("lr", 0.001)
        with pytest.raises(MlflowException, match="lr"):
            mlflow.log_param("lr", "1e-3")
    assert client.get_run(run.info.run_id).info.status == "FINISHED"
    client.set_terminated(run.info.run_id, "FAILED", 7)
    assert client.get_run(run.info.run_id).info.end_time == 7
    client.update_run(run.info.run_id, "RUNNING", "renamed")
    assert client.get_run(run.info.run_id).info.run_name == "renamed"


def test_tags_are_replaced_deleted_and_as_long_as_a_description(
    experiment: str, client: mlflow.MlflowClient
) -> None:
    run_id = started(experiment).info.run_id
    for text in ("one", "x" * 8000, "Übung\n日本 👩‍🔬 'it\"s'"):
        client.set_tag(run_id, "mlflow.note.content", text)
        assert client.get_run(run_id).data.tags["mlflow.note.content"] == text
    client.delete_tag(run_id, "mlflow.note.content")
    assert "mlflow.note.content" not in client.get_run(run_id).data.tags


def test_each_metric_has_one_value_a_step_however_often_it_is_sent(
    experiment: str, client: mlflow.MlflowClient
) -> None:
    run_id = started(experiment).info.run_id
    now = int(time.time() * 1000)
    values = [0.1, 1 / 3, 5e-324, 1.7e308, -2.5]
    sent = [Metric("val_loss", value, now, step) for step, value in enumerate(values, 1)]
    for _ in range(2):  # as after an outage, when no answer came
        client.log_batch(run_id, metrics=sent)
    history = client.get_metric_history(run_id, "val_loss")
    assert sorted((metric.step, metric.value) for metric in history) == list(enumerate(values, 1))
    assert {metric.timestamp for metric in history} == {now}
    # The newest is that of the last step, whenever it came; infinity is a number of some kind.
    client.log_batch(run_id, metrics=[Metric("val_loss", 9.0, now + 1, 2)])
    assert client.get_run(run_id).data.metrics == {"val_loss": -2.5}
    odd = [Metric("inf", np.inf, now, 1), Metric("nan", np.nan, now, 1)]
    client.log_batch(run_id, metrics=odd)
    logged = client.get_run(run_id).data.metrics
    assert logged["inf"] >= 1.7e308
    assert np.isnan(logged["nan"])
    many = [Metric("system/cpu", float(step), now, step) for step in range(1000)]
    client.log_batch(run_id, metrics=many)
    assert len(client.get_metric_history(run_id, "system/cpu")) == 1000


def test_runs_are_found_by_tags_status_name_and_beginning_the_newest_first(
    experiment: str, client: mlflow.MlflowClient
) -> None:
    runs = {name: started(experiment, name, kind="train", number=f"{name}") for name in NAMES}
    study = started(experiment, "study", kind="study")
    client.set_terminated(study.info.run_id)

    def names(condition: str) -> list[str]:
        return [str(run.info.run_name) for run in search(condition, experiment)]

    assert sorted(names("tags.kind = 'train'")) == sorted(NAMES)
    assert names("attributes.status = 'RUNNING' and tags.kind = 'study'") == []
    assert names("attributes.status = 'FINISHED'") == ["study"]
    assert names("tags.`kind` != '' and tags.kind = 'study'") == ["study"]
    for name, run in runs.items():
        quote = '"' if "'" in name else "'"
        assert names(f"attributes.run_name = {quote}{name}{quote}") == [name]
        assert names(f"tags.number = {quote}{name}{quote}") == [name]
        assert names(f"attributes.run_id LIKE '{run.info.run_id[:12]}%'") == [name]
        assert get_run(run.info.run_id[:12]).info.run_id == run.info.run_id
    times = [run.info.start_time for run in search("", experiment)]
    assert times == sorted(times, reverse=True)
    assert len(search("", experiment, most=2)) == 2
    # In all experiments; and not if it is deleted.
    elsewhere = started(mlflow.create_experiment(uuid4().hex), "elsewhere", kind="train")
    assert elsewhere.info.run_id in {run.info.run_id for run in search("tags.kind = 'train'")}
    client.delete_run(study.info.run_id)
    assert names("tags.kind = 'study'") == []
    assert client.get_run(study.info.run_id).info.lifecycle_stage == "deleted"
    assert match_run(study.info.run_id) is None


def test_what_is_not_there_is_said_by_code(experiment: str, client: mlflow.MlflowClient) -> None:
    asked = (
        lambda: client.get_run("0" * 32),
        lambda: client.get_experiment("987654"),
        lambda: client.get_registered_model(uuid4().hex),
        lambda: client.get_model_version(uuid4().hex, "1"),
        lambda: client.get_logged_model(f"m-{uuid4().hex}"),
    )
    for ask in asked:
        with pytest.raises(MlflowException) as error:
            ask()
        assert error.value.error_code == "RESOURCE_DOES_NOT_EXIST"
    assert client.get_experiment_by_name(uuid4().hex) is None


def test_children_are_found_by_their_parent_and_may_change_it(
    experiment: str, client: mlflow.MlflowClient
) -> None:
    parent, other = started(experiment, kind="study"), started(experiment, kind="study")
    child = started(experiment, kind="train", **{PARENT_TAG: parent.info.run_id})
    condition = f"tags.`{PARENT_TAG}` = '{parent.info.run_id}'"
    assert [run.info.run_id for run in search(condition, experiment)] == [child.info.run_id]
    client.set_tag(child.info.run_id, PARENT_TAG, other.info.run_id)
    assert search(condition, experiment) == []


def test_files_are_replaced_listed_read_and_deleted(
    experiment: str, client: mlflow.MlflowClient, tmp_path: Path
) -> None:
    with mlflow.start_run(experiment_id=experiment) as run:
        assert read_artifact(run.info.artifact_uri, "state.pt") is None
        mlflow.log_text("a,b\n", "results.csv")
        mlflow.log_dict({"lr": 0.1}, "deep/record.json")
        for content in (b"first", b"second"):
            replace_artifact(run.info.artifact_uri, "state.pt", content)
            assert read_artifact(run.info.artifact_uri, "state.pt") == content
            assert read_artifact(run.info.artifact_uri, "state.pt", expected=True) == content
        files = {file.path: file for file in client.list_artifacts(run.info.run_id)}
        assert files.keys() == {"results.csv", "deep", "state.pt"}
        assert (files["deep"].is_dir, files["state.pt"].file_size) == (True, 6)
        assert [f.path for f in client.list_artifacts(run.info.run_id, "deep")] == [
            "deep/record.json"
        ]
        got = client.download_artifacts(run.info.run_id, "deep", str(tmp_path))
        assert [path.name for path in Path(got).iterdir()] == ["record.json"]
        assert has_file(run.info.artifact_uri, "state.pt")
        delete_artifact(run.info.artifact_uri, "state.pt")
        assert not has_file(run.info.artifact_uri, "state.pt")


def test_data_sets_and_models_are_linked_to_the_run(
    experiment: str, client: mlflow.MlflowClient
) -> None:
    with mlflow.start_run(experiment_id=experiment) as run:
        data = from_numpy(np.zeros(3), name="drawn", digest="0" * 32)
        mlflow.log_input(data, context="training")
        model = mlflow.create_external_model(name="model", source_run_id=run.info.run_id)
        client.log_outputs(run.info.run_id, [LoggedModelOutput(model.model_id, step=3)])
    inputs, outputs = (
        client.get_run(run.info.run_id).inputs,
        client.get_run(run.info.run_id).outputs,
    )
    assert inputs
    assert outputs
    ((dataset,), (tag,)) = (inputs.dataset_inputs, inputs.dataset_inputs[0].tags)
    assert (dataset.dataset.digest, tag.value) == ("0" * 32, "training")
    assert [(one.model_id, one.step) for one in outputs.model_outputs] == [(model.model_id, 3)]
    with mlflow.start_run(experiment_id=experiment) as evaluation:
        client.log_inputs(evaluation.info.run_id, models=[LoggedModelInput(model.model_id)])
    found = client.get_run(evaluation.info.run_id).inputs
    assert found
    assert [one.model_id for one in found.model_inputs] == [model.model_id]


def logged(run: Run, name: str = "model") -> mlflow.entities.LoggedModel:
    """A model of a run that says it is ready, with a file."""
    client = mlflow.MlflowClient()
    model = mlflow.initialize_logged_model(name=name, source_run_id=run.info.run_id)
    Path(MLMODEL_FILE_NAME).write_text("flavors: {}\n")
    client.log_model_artifact(model.model_id, MLMODEL_FILE_NAME)
    return client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)


def test_a_logged_model_is_found_by_its_run_and_name_and_has_tags_and_files(
    experiment: str, client: mlflow.MlflowClient
) -> None:
    with mlflow.start_run(experiment_id=experiment) as run:
        model = logged(run)
        logged(run, "another")
    with mlflow.start_run(experiment_id=experiment) as other:
        logged(other)
    made = f"source_run_id = '{run.info.run_id}'"
    assert len(client.search_logged_models([experiment], filter_string=made)) == 2
    query = f"{made} AND name = 'model'"
    (found,) = client.search_logged_models([experiment], query, max_results=1)
    assert (found.model_id, found.status) == (model.model_id, LoggedModelStatus.READY)
    client.set_logged_model_tags(model.model_id, {"digests": "x" * 4000})
    assert client.get_logged_model(model.model_id).tags["digests"] == "x" * 4000
    uri = client.get_logged_model(model.model_id).model_uri
    assert uri == f"models:/{model.model_id}"
    files = mlflow.artifacts.list_artifacts(uri)
    assert [file.path for file in files] == [MLMODEL_FILE_NAME]
    client.delete_logged_model(model.model_id)
    assert client.search_logged_models([experiment], query) == []


def test_versions_count_up_and_have_tags_a_description_a_source_and_aliases(
    experiment: str, client: mlflow.MlflowClient
) -> None:
    name, other = uuid4().hex, uuid4().hex
    with mlflow.start_run(experiment_id=experiment) as run:
        model = logged(run)
    for number in ("1", "2", "3"):
        version = mlflow.register_model(model.model_uri, name, tags={"variant": f"v{number}"})
        assert str(version.version) == number
    mlflow.register_model(model.model_uri, other)
    found = {str(v.version): v for v in client.search_model_versions(f"name = '{name}'")}
    assert {number: one.tags["variant"] for number, one in found.items()} == {
        number: f"v{number}" for number in "123"
    }
    assert {one.source for one in found.values()} == {model.model_uri}
    assert {one.run_id for one in found.values()} == {run.info.run_id}
    of_run = client.search_model_versions(f"run_id = '{run.info.run_id}'")
    assert sorted(v.name for v in of_run) == sorted([name] * 3 + [other])
    assert {name, other} <= {model.name for model in client.search_registered_models()}
    assert [m.name for m in client.search_registered_models(f"name = '{name}'")] == [name]

    client.set_model_version_tag(name, "2", "val_accuracy", "0.5")
    client.update_model_version(name, "2", "d" * 4000)
    client.update_registered_model(name, "all of them")
    described = client.get_model_version(name, "2")
    assert (described.tags["val_accuracy"], described.description) == ("0.5", "d" * 4000)
    assert client.get_registered_model(name).description == "all of them"
    for number in ("1", "2"):  # it moves, and a version may have several
        client.set_registered_model_alias(name, "champion", number)
    client.set_registered_model_alias(name, "bn", "2")
    assert str(client.get_model_version_by_alias(name, "champion").version) == "2"
    assert sorted(client.get_model_version(name, "2").aliases) == ["bn", "champion"]
    assert client.get_model_version(name, "1").aliases == []
    aliases = client.get_registered_model(name).aliases
    assert {alias: str(number) for alias, number in aliases.items()} == {
        "bn": "2",
        "champion": "2",
    }
    client.delete_registered_model_alias(name, "bn")
    with pytest.raises(MlflowException, match="bn"):
        client.get_model_version_by_alias(name, "bn")
    # A number is not given twice.
    client.delete_model_version(name, "3")
    assert str(mlflow.register_model(model.model_uri, name).version) == "4"
