"""What makes runs the same is said once; what is recorded is read back, or left out and named."""

import json
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import mlflow
import pytest
from conftest import WHOLE, Answer, runs_in
from invented import record

from pipeline.config import Config
from pipeline.errors import InputError
from pipeline.runs.identity import BITS, CELL, CODE, RECIPE, REUSE, Identity
from pipeline.runs.plan import Plan
from pipeline.runs.record import RunRecord, UnreadableRunError, from_tags, to_tags
from pipeline.store.tags import DETAILS, pack, unpack

# Settings that decide nothing by themselves: where data are, and what is recorded as chosen.
PLACES = {"data_dir"}
SENSES = {BITS, CELL, CODE, RECIPE, REUSE}


def test_every_setting_is_judged_in_the_identity() -> None:
    judged = {one.name: set(one.metadata.get("senses", ())) for one in fields(Identity)}
    assert all(senses and senses <= SENSES for senses in judged.values()), judged
    assert {one.name for one in fields(Config)} - judged.keys() == PLACES


@pytest.mark.parametrize(
    ("name", "senses"),
    [
        ("variant", {BITS, CELL, REUSE}),
        ("epochs", {CELL, REUSE, RECIPE}),  # a state may go on to more
        ("seed", {BITS, CELL, REUSE}),
        ("holdout_seed", {CELL, REUSE, RECIPE}),  # the data's digest decides the bits
        ("device", {BITS, REUSE}),
        ("precision", {BITS, REUSE, RECIPE}),
        ("threads", {BITS}),
        ("code_digest", {BITS, CODE}),
        ("ablation", {CELL, REUSE, RECIPE}),
    ],
)
def test_runs_are_the_same_in_some_senses(name: str, senses: set[str]) -> None:
    one = record(Config(variant="bn")).identity
    value = getattr(one, name)
    changed: dict[str, Any] = {name: f"{value}x" if isinstance(value, str) else value + 1}
    other = replace(one, **changed)
    assert {sense for sense in SENSES if one.key(sense) != other.key(sense)} == senses
    assert (one.fingerprint == other.fingerprint) == (BITS not in senses)


def tags_of(run: RunRecord) -> dict[str, str]:
    packed = pack(to_tags(run))
    details: dict[str, str] = json.loads(packed.pop(DETAILS))
    return packed | details


def test_a_record_is_read_as_it_was_written() -> None:
    plan = Plan.of(["bn", "base"], [0.001], [1, 0], margin=0.5)
    run = record(
        Config(variant="bn", lr=3e-4, validation="holdout", holdout_seed=2),
        other_weights={"base": ("fc.weight, with a comma", 2)},
        reported_with=plan,
        parent="0" * 32,
        commit="f" * 40,
    )
    known = {"run_id": run.run_id, "experiment_id": "0"}
    assert from_tags(RunRecord, tags_of(run), **known) == run
    assert Plan.from_json(plan.as_json()) == plan == Plan.of(["base", "bn"], [0.001], [0, 1], 0.5)
    assert plan.words == "base,bn at lr 0.001, seeds auto, margin 0.5 points, at most 2 of each"


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("precision", None, "it does not say its precision"),
        ("num_parameters", None, "it does not say its num_parameters"),
        ("epochs", "one", "its epochs is 'one'"),
        ("num_parameters", "many", "its num_parameters is 'many'"),
        ("settings", "[1]", "its settings is '[1]'"),
        ("config", "{", "its config is '{'"),
        ("config", '{"epochs": 0}', "epochs is 0; it must be a whole number of at least 1"),
        ("config", '{"colour": 1}', "its config is '{\"colour\": 1}'"),
        ("reported_with", "seeds auto", "its reported_with is 'seeds auto'"),
        ("reported_with", '{"variants": 5}', "its reported_with is '{\"variants\": 5}'"),
        ("other_weights", '{"base": 3}', "its other_weights is '{\"base\": 3}'"),
        ("variant", "base", "its variant is 'base', but it began with 'bn'"),
        ("epochs", "0", "its epochs is 0, but it began with 30"),
    ],
)
def test_a_record_that_was_edited_is_not_understood(
    name: str, text: str | None, reason: str
) -> None:
    tags = tags_of(record(Config(variant="bn")))
    tags = {**tags, name: text} if text else {k: v for k, v in tags.items() if k != name}
    with pytest.raises(UnreadableRunError) as refused:
        from_tags(RunRecord, tags, run_id="")
    assert str(refused.value) == reason


@pytest.mark.parametrize("axis", [{"variants": 5}, {"rates": ["x"]}, {"seeds": [None]}])
def test_a_plan_that_was_edited_is_none(axis: dict[str, Any]) -> None:
    plan = {"variants": ["bn"], "rates": [0.001], "seeds": [0], **axis}
    with pytest.raises(ValueError, match="is no plan"):
        Plan.from_json(json.dumps(plan))


@pytest.mark.parametrize("details", ["", "[1]", "null", '{"seed": 1}', "{"])
def test_details_that_were_edited_say_nothing(details: str) -> None:
    run = mlflow.start_run()
    mlflow.end_run()
    mlflow.MlflowClient().set_tag(run.info.run_id, DETAILS, details)
    assert "seed" not in unpack(mlflow.get_run(run.info.run_id))


def test_what_is_too_long_for_a_tag_is_refused() -> None:
    for name in ("settings", "inputs_digest"):
        with pytest.raises(InputError, match=f"shorten its {name}, which takes most"):
            pack({name: "x" * 8001, "seed": 1})


def test_a_run_or_study_whose_tags_were_edited_is_left_out_and_named(
    pipeline: Callable[..., Answer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = ("ablate", *WHOLE, "--variants", "base,bn", "--seeds", "2", "--name", "mine")
    assert pipeline(*study).status == 0
    runs = {run.info.run_name: run.info.run_id for run in runs_in(tmp_path, "train")}
    (parent,) = runs_in(tmp_path, "study")
    client = mlflow.MlflowClient()
    client.delete_tag(runs["bn-seed1"], "precision")
    client.set_tag(runs["base-seed1"], "epochs", "one")
    stranger = client.create_run("0", tags={"kind": "train"}, run_name="stranger").info.run_id
    client.set_terminated(stranger)

    answer = pipeline("compare")
    assert answer.status == 0, answer.err
    assert "Comparing the 2 finished training runs" in answer.out
    for reason in ("its epochs is 'one'", "it does not say its precision", "say its ablation"):
        assert reason in answer.out
    answer = pipeline("list")
    assert answer.status == 0, answer.err
    assert answer.out.count("can't be understood: ") == 3
    for run_id in (runs["base-seed1"], stranger):
        for command in (("reproduce",), ("train", "--resume"), ("compare",)):
            answer = pipeline(*command, run_id)
            assert answer.status == 2
            (line,) = answer.error_lines
            assert f"run {run_id} is not of this project, or was edited: " in line
    # What is left out is trained again, and said.
    answer = pipeline(*study)
    assert answer.status == 0, answer.err
    assert f"base-seed1 ({runs['base-seed1'][:8]}): its epochs is 'one'" in answer.err
    assert len(runs_in(tmp_path, "train")) == 7

    client.delete_tag(parent.info.run_id, "plan")
    client.set_tag(parent.info.run_id, "study", "mine")
    with monkeypatch.context() as patch:
        patch.setenv("MLFLOW_RUN_ID", parent.info.run_id)
        answer = pipeline(*study)
    assert answer.status == 2
    assert "can't be continued as a study: it does not say its plan; leave" in answer.err
    answer = pipeline(*study)
    assert answer.status == 0, answer.err
    assert f"1 run left out: mine ({parent.info.run_id[:8]}): it does not say its plan" in (
        answer.err
    )


def test_no_module_but_these_reads_a_tag_by_its_name() -> None:
    """What a run says is read as a record; only the store's own tags are read by name."""
    package = Path(__file__).parents[2] / "pipeline"
    readers: dict[str, Any] = {}
    for file in package.rglob("*.py"):
        text = file.read_text()
        if ".data.tags" in text or "unpack(" in text.replace("def unpack(", ""):
            readers[file.relative_to(package).as_posix()] = text
    assert set(readers) <= {
        "store/tags.py",  # failure and description
        "store/liveness.py",  # the process
        "runs/queries.py",  # which makes records
        "runs/lifecycle.py",  # where a run was trained before
        "study/listing.py",  # of kinds that have no record
        "study/registration.py",
        "training/state.py",  # another `unpack`
        "models/trial/repeating.py",
        "runs/checkpoint.py",
        "runs/programs/outcomes.py",  # of a program's run, and of those that it has begun
        "runs/programs/run.py",
        "runs/programs/strays.py",
        "runs/others.py",  # of runs that are not this project's
        "study/looks.py",  # whether a comparison was planned
    }
