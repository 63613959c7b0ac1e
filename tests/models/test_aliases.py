"""A variant's alias points at its newest model of a full recipe, and every move is said."""

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import mine
import mlflow
import numpy as np
import pytest
import torch
from conftest import Answer, broken_epoch, run_forked, runs_in
from invented import ablation

from pipeline.config import Config
from pipeline.data.arrays import from_arrays
from pipeline.data.dataset import ImageDataset
from pipeline.models import aliases
from pipeline.models.aliases import move_aliases
from pipeline.models.export import MODEL_FILE
from pipeline.models.registry import register
from pipeline.store.artifacts import has_file
from pipeline.store.initialization import check_store
from pipeline.store.uploads import STATE_FILE
from pipeline.training.spec import RunSpec

NAME = "noise-mine"
RECIPE = ["--ablation", "mine.py", "--batch-size", "32", "--epochs", "2"]
STUDY = ["ablate", *RECIPE, "--seeds", "1", "--jobs", "1"]
Pipeline = Callable[..., Answer]


@pytest.fixture
def client(tmp_path: Path) -> mlflow.MlflowClient:
    """The store of a folder with an ablation whose runs take no time."""
    mine.write(tmp_path)
    check_store()
    return mlflow.MlflowClient()


def holders(client: mlflow.MlflowClient) -> dict[str, str]:
    """The numbers of the versions that the aliases of variants point at."""
    found = client.get_registered_model(NAME).aliases
    return {alias: str(version) for alias, version in found.items() if alias != "champion"}


def shown(client: mlflow.MlflowClient, version: str) -> str:
    found = float(client.get_model_version(NAME, version).tags["val_accuracy"])
    return f"version {version} ({100 * found:.1f} %)"


def told(answer: Answer, alias: str) -> str:
    """The one line about an alias, without its URI."""
    assert answer.status == 0, answer.err
    uri = f"models:/{NAME}@{alias}"
    (line,) = (
        line for line in answer.out.splitlines() if re.match(rf" *{uri}(:| stays| is)", line)
    )
    return line.strip().removeprefix(uri)


def check_descriptions(client: mlflow.MlflowClient) -> None:
    """Hold that the model and its third version say what they are."""
    model, version = client.get_registered_model(NAME), client.get_model_version(NAME, "3")
    assert "`@plain`, `@wide`, `@tanh`" in model.description
    assert "`@champion`" in model.description
    run = client.get_run(str(version.run_id))
    for words in (
        f"{100 * run.data.metrics['val_accuracy']:.1f} % validation accuracy",
        "tanh of the ablation mine, 2 epochs, batch size 32, learning rate 0.001",
        "90 training and 30 validation images, 9x6 pixels, 1 channel, 3 classes; sha256 ",
        f" `{run.data.tags['data_digest']}`\n",
        "Seed: 0\n",
        "[tanh-seed0](#/experiments/0/",
        f"runs/{version.run_id}",
        f"`{version.run_id}`",
    ):
        assert words in str(version.description)


def test_trials_leave_the_aliases_of_a_study_alone_and_say_so(
    client: mlflow.MlflowClient, pipeline: Pipeline
) -> None:
    answer = pipeline(*STUDY)
    assert answer.status == 0, answer.err
    assert holders(client) == {"plain": "1", "wide": "2", "tanh": "3"}
    assert "@wide:" not in answer.out  # nothing was there before
    check_descriptions(client)
    client.update_model_version(NAME, "1", "mine")
    client.update_registered_model(NAME, "ours")
    # What an interrupted registration has left out, which the same command completes.
    client.update_model_version(NAME, "3", "")
    client.delete_registered_model_alias(NAME, "tanh")
    train = ["train", *RECIPE, "--variant", "wide"]
    line = told(pipeline(*train, "--epochs", "1"), "wide")
    assert line.startswith(f" stays at {shown(client, '2')}: models:/{NAME}/4 has 1 epoch, not 2; ")
    command = line.split("; to point it there: python -c ")[1]
    part = told(pipeline(*train, "--epochs", "9", "--train-images", "30"), "wide")
    assert f": models:/{NAME}/5 left out 60 training images; " in part
    assert holders(client)["wide"] == "2"
    # By hand it moves to any; a longer run takes it from there, and a study takes it back.
    assert run_forked(Path.cwd(), "python", "-c", command.strip('"')).status == 0
    assert holders(client)["wide"] == "4"
    answer = pipeline(*STUDY)
    assert told(answer, "wide") == f": {shown(client, '2')}, before {shown(client, '4')}"
    assert not re.search(r"@(plain|tanh)(:| stays)", answer.out)
    assert holders(client) == {"plain": "1", "wide": "2", "tanh": "3"}
    assert client.get_model_version(NAME, "1").description == "mine"
    assert client.get_registered_model(NAME).description == "ours"
    assert "Recipe: tanh of the ablation mine" in str(
        client.get_model_version(NAME, "3").description
    )
    assert "not from one study" not in answer.out
    answer = pipeline(*train, "--epochs", "3")
    assert told(answer, "wide") == f": {shown(client, '6')}, before {shown(client, '2')}"
    assert f"  also models:/{NAME}@wide" in answer.out
    answer = pipeline(*STUDY)
    assert f": models:/{NAME}/2 has 2 epochs, not 3; " in told(answer, "wide")
    longer = client.get_model_version(NAME, "6").run_id
    assert (
        f"  the aliases of models:/{NAME} are not from one study: @plain, @tanh of this study;"
        f" @wide of run {longer}\n"
    ) in answer.out


def test_train_registers_what_it_is_asked_to(
    client: mlflow.MlflowClient, pipeline: Pipeline, tmp_path: Path
) -> None:
    train = ["train", *RECIPE, "--variant", "wide"]
    answer = pipeline(*train, "--register", "none")
    assert answer.status == 0, answer.err
    (address,) = re.findall(r"not registered; its model is (models:/m-\w+)", answer.out)
    assert client.search_registered_models() == []
    assert pipeline("evaluate", "--model", address).status == 0

    # A run that goes on keeps to it, unless it is asked for something else.
    (run,) = runs_in(tmp_path, "train")
    more = ["train", "--resume", run.info.run_id, "--epochs"]
    assert "not registered" in pipeline(*more, "3").out
    assert client.search_registered_models() == []
    assert f"registered as models:/{NAME}/1" in pipeline(*more, "4", "--register", "model").out
    assert client.get_registered_model(NAME).aliases == {}
    trial = told(pipeline(*train, "--train-images", "30"), "wide")
    assert trial.startswith(f" is not set: models:/{NAME}/2 left out 60 training images; to point")
    assert holders(client) == {}


def test_a_run_of_a_study_goes_on_alone_without_registering_or_keeping_its_state(
    client: mlflow.MlflowClient, pipeline: Pipeline, tmp_path: Path
) -> None:
    with broken_epoch(2):
        assert pipeline(*STUDY, "--variants", "plain,wide", "--register", "none").status == 1
    one, other = runs_in(tmp_path, "train")
    answer = pipeline("train", "--resume", one.info.run_id)
    assert "not registered" in answer.out, answer.err
    assert client.search_registered_models() == []
    assert not has_file(one.info.artifact_uri, STATE_FILE)
    asked = ["--register", "model", "--keep-state", "yes"]
    assert "registered as" in pipeline("train", "--resume", other.info.run_id, *asked).out
    assert has_file(other.info.artifact_uri, STATE_FILE)


# The rule itself, on versions of models that are nothing but a file.

IMAGES, LABELS = np.arange(30 * 4, dtype=np.uint8).reshape(30, 2, 2), np.arange(30) % 3
DATA = replace(
    from_arrays(IMAGES[:24], LABELS[:24], IMAGES[24:], LABELS[24:], ["a", "b", "c"]), name="noise"
)
FEWER = replace(DATA, training=DATA.training.first(18))  # other data
PART = replace(DATA, training=DATA.training.first(18), left_out=6)
OTHERS = replace(DATA, validation=DATA.validation.first(3))
OWN = replace(ablation({"plain": {}, "wide": {"width": 2}}), name="mine")
CONFIG = Config(ablation="mine.py", variant="wide", dataset="noise", epochs=2)
Adding = Callable[..., tuple[str, ...]]


@pytest.fixture
def add(client: mlflow.MlflowClient, tmp_path: Path) -> Adding:
    """Register a version, and return what there is to say of the aliases."""

    def add(data: ImageDataset, accuracy: float = 0.5, again: str = "", **recipe: int) -> object:
        number = again or str(len(client.search_model_versions()) + 1)
        folder = tmp_path / "models" / number
        (folder / MODEL_FILE).parent.mkdir(parents=True, exist_ok=True)
        (folder / MODEL_FILE).write_text("weights")
        config = replace(CONFIG, **recipe)  # type: ignore[arg-type]
        spec = RunSpec(config, OWN, data, torch.device("cpu"), "fp32")
        one = register(str(folder), spec, accuracy, "page")
        assert one.version == number
        (moved,), _ = move_aliases([one], data)
        return moved.notes

    return add  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("new", "epochs", "said"),
    [
        (DATA, 2, ""),
        (DATA, 3, ""),
        (DATA, 1, "has 1 epoch, not 2"),
        (PART, 9, "left out 6 training images"),
        (FEWER, 9, "was trained on other data"),
        (OTHERS, 9, "was trained on other data"),
        (replace(DATA, class_names=("x", "b", "c")), 2, ""),  # the same images, better named
        (DATA.hold_out(), 9, "held out a part of the training images"),
        (FEWER.hold_out(), 9, "was trained on other data"),
    ],
)
def test_the_alias_moves_to_a_full_recipe_alone(
    new: ImageDataset, epochs: int, said: str, client: mlflow.MlflowClient, add: Adding
) -> None:
    assert add(DATA) == ()
    note, *_ = add(new, 0.4, epochs=epochs)
    if said:
        assert f"@wide stays at version 1 (50.0 %): models:/{NAME}/2 {said}; to point" in note
        assert holders(client) == {"wide": "1"}
        return
    assert note == f"models:/{NAME}@wide: version 2 (40.0 %), before version 1 (50.0 %)"
    assert holders(client) == {"wide": "2"}
    # What is registered again is the newest, unless it is shorter.
    again = add(DATA, again="1")
    assert holders(client) == {"wide": "1" if epochs == 2 else "2"}
    assert (f"models:/{NAME}/1 has 2 epochs, not 3; " in again[0]) == (epochs == 3)


def test_a_holdout_gives_way_to_all_images_and_a_part_to_anything_full(
    client: mlflow.MlflowClient, add: Adding
) -> None:
    assert " is not set: " in add(PART)[0]
    client.set_registered_model_alias(NAME, "wide", "1")
    assert add(PART, again="1") == ()  # as somebody wants it
    for version, data in enumerate((DATA.hold_out(), DATA.hold_out(), DATA), 2):
        assert f"@wide: version {version} (50.0 %), before version {version - 1} " in add(data)[0]
    assert "held out" in add(DATA.hold_out())[0]
    # Other data: by hand once, from then on by itself.
    assert "other data" in add(FEWER)[0]
    client.set_registered_model_alias(NAME, "wide", "6")
    assert "@wide: version 7 (50.0 %), before version 6 (50.0 %)" in add(FEWER)[0]
    client.delete_model_version(NAME, "7")
    assert not any("@wide" in note for note in add(DATA, again="8", epochs=1))
    assert holders(client) == {"wide": "8"}


def test_a_version_whose_files_are_gone_may_be_replaced(
    client: mlflow.MlflowClient, add: Adding, tmp_path: Path
) -> None:
    add(DATA)
    shutil.rmtree(tmp_path / "models" / "1")
    said = "before version 1 (50.0 %), whose files are gone"
    assert add(FEWER, epochs=1)[0] == f"models:/{NAME}@wide: version 2 (50.0 %), {said}"


@pytest.mark.parametrize(
    ("accuracy", "epochs"), [("49 %", "one"), ("49", "1e9"), ("nan", "nan"), ("", "")]
)
def test_tags_that_somebody_has_edited_end_no_command(
    accuracy: str, epochs: str, client: mlflow.MlflowClient, add: Adding
) -> None:
    add(DATA)
    for key, value in {"val_accuracy": accuracy, "epochs": epochs}.items():
        client.set_model_version_tag(NAME, "1", key, value)
    stays = "stays at version 1: models:/{}/{} can't be compared with it"
    left_out = "models:/{}/1 is left out: its tag val_accuracy is {!r}, no fraction"
    note, *moved, left = add(DATA, 0.25)
    assert stays.format(NAME, 2) in note
    assert "what version 1 was trained on is not known" in note
    assert moved == [f"models:/{NAME}@champion: version 2 (25.0 %), before version 1"]
    assert left == left_out.format(NAME, accuracy)
    for key in ("val_accuracy", "epochs"):
        client.delete_model_version_tag(NAME, "1", key)
    note, *_, left = add(DATA)
    assert stays.format(NAME, 3) in note
    assert left == left_out.format(NAME, None)


def test_a_version_that_was_registered_by_hand_is_replaced_by_hand(
    client: mlflow.MlflowClient, add: Adding
) -> None:
    add(DATA)
    source = str(client.get_model_version(NAME, "1").source)
    client.create_model_version(NAME, source)
    client.set_registered_model_alias(NAME, "wide", "2")
    (note, *_) = add(DATA)
    unknown = "can't be compared with it, since what version 2 was trained on is not known"
    assert f"stays at version 2: models:/{NAME}/3 {unknown}; to point it there: " in note
    command = shlex.split(note.split("; to point it there: python -c ")[1])
    subprocess.run([sys.executable, "-c", *command], check=True, capture_output=True)
    assert holders(client) == {"wide": "3"}
    assert ": version 4 (50.0 %), before version 3" in add(DATA)[0]


def test_the_champion_says_from_where_it_comes_also_after_an_outage(
    client: mlflow.MlflowClient, add: Adding, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(DATA, 0.25)
    set_alias, failures = aliases._set, [mlflow.MlflowException("database is locked")] * 2

    def interrupted(*arguments: object) -> object:
        said = set_alias(*arguments)  # type: ignore[arg-type]
        if failures:
            raise failures.pop()
        return said

    monkeypatch.setattr(aliases, "_set", interrupted)
    monkeypatch.setattr("pipeline.store.outages.waiting.RETRY_SECONDS", 0)
    moved = "version 2 (50.0 %), before version 1 (25.0 %)"
    assert add(DATA, 0.5) == (
        f"models:/{NAME}@wide: {moved}",
        f"models:/{NAME}@champion: {moved}",
    )
    assert failures == []
    _, note = add(OTHERS, 0.1)
    before = "before version 2 (50.0 %), measured on other images"
    assert note == f"models:/{NAME}@champion: version 3 (10.0 %), {before}"
