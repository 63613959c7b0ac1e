"""`list` shows what there is; runs and models are named by ids, their beginnings, and names."""

import re
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import mlflow
import pytest
from conftest import Answer, Study, runs_in
from invented import record

from pipeline.config import Config
from pipeline.errors import InputError, percent
from pipeline.models.naming import model_uri
from pipeline.runs.plan import Plan
from pipeline.runs.record import StudyRecord, to_tags
from pipeline.store.liveness import HOST, PROCESS, this_process
from pipeline.store.lookup import get_run
from pipeline.store.tags import PARENT_TAG, pack


def cells(line: str) -> list[str]:
    """The columns of a line, which are two blanks apart."""
    return [cell.strip() for cell in line.split("  ") if cell.strip()]


def test_runs_and_their_study_with_accuracy_and_short_ids(
    study: Study, pipeline: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(study.folder)
    monkeypatch.setenv("COLUMNS", "200")
    answer = pipeline("list", "--experiment", "synthetic", "--last", "100")
    assert answer.status == 0, answer.err
    heading, *lines = answer.out.splitlines()
    assert cells(heading) == ["id", "name", "accuracy", "data", "began", "experiment", "state"]
    shown = {cells(line)[0]: cells(line) for line in lines}
    accuracies: dict[str, list[float]] = {}
    for name, run in study.runs.items():
        value = run.data.metrics["val_accuracy"]
        accuracies.setdefault(run.data.tags["variant"], []).append(value)
        _, *row, began, experiment, state = shown[run.info.run_id[:8]]
        assert row == [name, percent(value), "synthetic"]
        assert began == "just now" or began.endswith(" ago")
        assert (experiment, state) == ("synthetic", "finished")
    *_, name, accuracy, _, _, _, state = shown[study.parent.info.run_id[:8]]
    assert name.endswith("(base,bn,dropout)")
    assert accuracy == percent(max(map(fmean, accuracies.values())))
    assert state == "finished, 6 runs"
    begun = [next(r for r in runs_in(study.folder) if r.info.run_id.startswith(i)) for i in shown]
    starts = [run.info.start_time for run in begun]
    assert starts == sorted(starts, reverse=True)

    answer = pipeline("list", "--experiment", "synthetic", "--best", "--last", "3")
    *best, more = answer.out.splitlines()[1:]
    found = [float(cells(line)[2].rstrip("%")) for line in best]
    assert found == sorted(found, reverse=True)
    assert found[0] == round(100 * max(map(max, accuracies.values())), 1)
    # Another test may have compared them meanwhile.
    assert re.fullmatch(r"and \d+ more; all: --last (\d+)", more)


def of_run(variant: str, seed: int, **facts: Any) -> dict[str, str]:
    """The tags of a run of this project."""
    return pack(to_tags(record(Config(variant=variant, seed=seed), settings={}, **facts)))


def of_study(variants: Sequence[str], reuse: str = "same") -> dict[str, str]:
    """The tags of a study of two seeds."""
    run = record(Config(variant=variants[0]), settings={}, code_digest="c")
    study = StudyRecord(
        run_id="",
        study="auto",
        ablation="cnn",
        dataset="auto",
        plan=Plan.of(variants, [0.001], [0, 1]),
        recipe=run.identity.recipe,
        code_digest="c",
        data_digest="0",
        images="8x8 pixels",
        reuse=reuse,
    )
    return pack(to_tags(study))


def without(tags: dict[str, str], name: str) -> dict[str, str]:
    return {key: text for key, text in tags.items() if key != name}


def test_states_other_projects_and_widths(
    pipeline: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = pipeline("list")
    assert (answer.status, answer.err) == (0, "")
    assert "python -m pipeline ablate" in answer.out
    client, hours_ago = mlflow.MlflowClient(), int(time.time() - 3 * 3600) * 1000
    live = this_process()
    _, started, booted = live[PROCESS].split()
    dead = {HOST: live[HOST], PROCESS: f"{2**22 + 1} {started} {booted}"}
    for name, kind, status, tags in (
        ("bn-seed0", "train", "FINISHED", of_run("bn", 0)),
        ("bn-seed1", "train", "FAILED", of_run("bn", 1) | {"failure": "no\nroom"}),
        ("gone", "train", "RUNNING", of_run("x" * 300, 2) | dead),
        ("live", "train", "RUNNING", of_run("bn", 3) | live),
        ("half", "study", "KILLED", of_study(["a"])),
        ("without", "study", "FINISHED", without(of_study(["a"]), "plan")),
        ("text", "study", "FINISHED", of_study(["a"]) | {"plan": "x"}),
        ("number", "study", "FINISHED", of_study(["a"]) | {"plan": '{"variants": 3}'}),
        ("edited", "train", "FINISHED", of_run("bn", 4) | {"epochs": "one"}),
        ("theirs", "their kind", "FINISHED", {}),
    ):
        run = client.create_run("0", hours_ago, {"kind": kind, **tags}, run_name=name)
        if status != "RUNNING":
            client.set_terminated(run.info.run_id, status)
    client.create_run("0", run_name="a stranger's")
    for columns in ("20", "80", "100"):
        monkeypatch.setenv("COLUMNS", columns)
        with monkeypatch.context() as terminal:
            terminal.setattr(sys.stdout, "isatty", lambda: True)
            answer = pipeline("list")
        assert answer.status == 0, answer.err
        assert max(map(len, answer.out.splitlines())) <= max(80, int(columns))
        assert "…" in answer.out
    answer = pipeline("list")
    assert f"gone ({'x' * 300}, seed 2)" in answer.out
    states = {cells(line)[1].split(" (")[0]: cells(line) for line in answer.out.splitlines()[1:]}
    assert {name: row[-1] for name, row in states.items()} == {
        "bn-seed0": "finished",
        "bn-seed1": r"failed: no\nroom",
        "gone": "stopped",
        "live": "running",
        "half": "stopped, 0 of 2 runs",
        "without": "finished: can't be understood: it does not say its plan",
        "text": "finished: can't be understood: its plan is 'x'",
        "number": "finished: can't be understood: its plan is '{\"variants\": 3}'",
        "edited": "finished: can't be understood: its epochs is 'one'",
    }
    assert states["bn-seed0"][-3] == "3 h ago"
    assert [run.info.status for run in runs_in_store("gone")] == ["RUNNING"]  # it changes nothing

    answer = pipeline("list", "--experiment", "nope")
    assert (answer.status, len(answer.error_lines)) == (2, 1)
    assert "there are: Default" in answer.err


def test_a_study_has_its_own_runs_and_those_that_it_could_reuse(
    pipeline: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    client = mlflow.MlflowClient()

    def create(name: str, start: int, end: int, tags: dict[str, str]) -> str:
        run_id = str(client.create_run("0", start, tags, run_name=name).info.run_id)
        client.set_terminated(run_id, "KILLED" if name == "killed" else "FINISHED", end)
        return run_id

    def train(start: int, accuracy: float, study: str = "", code: str = "c", seed: int = 0) -> None:
        parent = {PARENT_TAG: study} if study else {}
        tags = {"kind": "train", **of_run("base", seed, code_digest=code), **parent}
        run_id = create("base", start, start + 50, tags)
        client.log_metric(run_id, "val_accuracy", accuracy)

    def study(name: str, start: int, reuse: str) -> str:
        tags = {"kind": "study", **of_study(["base"], reuse)}
        return create(name, start, start + 100, tags)

    train(10, 0.3)
    study("killed", 100, "same")
    train(210, 0.4, study("older", 200, "same"), seed=1)
    train(310, 0.6, study("its own", 300, "same"))
    train(330, 0.7)
    train(410, 0.5, study("none", 400, "none"))
    train(510, 0.9, code="other")
    study("any", 600, "any")

    rows = [cells(line) for line in pipeline("list").out.splitlines()[1:]]
    assert {row[1]: (row[2], row[-1]) for row in rows if " (base)" in row[1]} == {
        "killed (base)": ("30.0 %", "stopped, 1 of 2 runs"),
        "older (base)": ("35.0 %", "finished, 2 runs"),
        "its own (base)": ("50.0 %", "finished, 2 runs"),
        "none (base)": ("50.0 %", "finished, 1 of 2 runs"),
        "any (base)": ("65.0 %", "finished, 2 runs"),
    }


def runs_in_store(name: str) -> list[mlflow.entities.Run]:
    return mlflow.search_runs(["0"], f"attributes.run_name = '{name}'", output_format="list")


def test_a_run_is_named_by_its_id_the_beginning_of_it_or_its_name() -> None:
    client = mlflow.MlflowClient()

    def create(name: str, kind: str = "train") -> str:
        return str(client.create_run("0", tags={"kind": kind}, run_name=name).info.run_id)

    one, other, odd, both = map(create, ("bn-seed0", "it's", 'odd "name"', "'\""))
    for reference in (one, one[:8], "bn-seed0"):
        assert get_run(reference).info.run_id == one
    assert get_run("it's").info.run_id == other
    assert get_run('odd "name"').info.run_id == odd
    assert get_run(both[:12]).info.run_id == both
    for reference in ("", "%", "_", one[:8].upper() + "x", "bn-seed", "'\"", "a\nb", "x" * 5000):
        with pytest.raises(
            InputError, match=r"its beginning or its name; the newest are: ........ \("
        ):
            get_run(reference)

    again = create("bn-seed0", kind="reproduce")
    assert get_run("bn-seed0", lambda run: run.data.tags["kind"] == "train").info.run_id == one
    for _ in range(3):
        create("bn-seed0")
    with pytest.raises(InputError) as error:
        get_run("bn-seed0")
    assert "stands for 5 runs" in str(error.value)
    assert str(error.value).count("(bn-seed0, just now, in Default)") == 3
    assert "and 2 more; give the id" in str(error.value)
    client.delete_run(again)
    for reference in (again, again[:10]):
        with pytest.raises(InputError, match="is not the id of a run"):
            get_run(reference)


def test_a_model_is_named_without_models_or_by_its_run(
    study: Study, monkeypatch: pytest.MonkeyPatch, pipeline: Callable[..., Answer], tmp_path: Path
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{study.folder}/mlflow.db")
    monkeypatch.chdir(tmp_path)
    run = study.runs["bn-seed1"]
    for folder in ("synthetic-cnn@bn", "synthetic-cnn/1", "of mine/sub"):
        Path(folder).mkdir(parents=True)
    kept = tmp_path / "kept"
    shutil.copytree(study.artifact(run, "model"), kept)
    client = mlflow.MlflowClient()
    named = client.create_run("0", run_name="bn@home").info.run_id
    client.set_terminated(named)
    of_run = f"runs:/{run.info.run_id}/model"
    for reference, uri in {
        "synthetic-cnn@bn": "models:/synthetic-cnn@bn",
        "synthetic-cnn/1": "models:/synthetic-cnn/1",
        run.info.run_id: of_run,
        run.info.run_id[:9]: of_run,
        "models:/synthetic-cnn@bn": "models:/synthetic-cnn@bn",
        str(kept): str(kept),
        "kept": "kept",
        "bn@home": f"runs:/{named}/model",
    }.items():
        assert model_uri(reference) == uri
    client.delete_run(named)
    for folder in ("of mine", "of mine/sub", "."):
        answer = pipeline("evaluate", "--model", folder)
        assert (answer.status, len(answer.error_lines)) == (2, 1)
        said = f"error: no model in the folder '{folder}': it has no MLmodel; name one by"
        assert said in answer.err

    versions = client.search_model_versions("name = 'synthetic-cnn'")
    newest = max(int(version.version) for version in versions)
    aliases = client.get_registered_model("synthetic-cnn").aliases
    for reference, reason in {
        "synthetic-cnn@best": "synthetic-cnn has no alias best",
        "models:/synthetic-cnn@best": "synthetic-cnn has no alias best",
        "synthetic-cnn/99": "synthetic-cnn has no version 99",
        "synthetic-cnn": "synthetic-cnn alone does not say which version",
    }.items():
        answer = pipeline("evaluate", "--model", reference)
        assert (answer.status, len(answer.error_lines)) == (2, 1)
        assert f"error: no model at '{reference}': {reason}; its aliases are base" in answer.err
        assert f"bn (version {aliases['bn']})" in answer.err
        assert f"its versions {newest}" in answer.err
    for number in range(7):
        client.create_registered_model(f"other-{number}")
    answer = pipeline("evaluate", "--model", "models:/synthetic@bn")
    for number in range(7):
        client.delete_registered_model(f"other-{number}")
    assert "no registered model is named 'synthetic'; registered are: other-0" in answer.err
    assert "other-4 and 3 more; name one by NAME@ALIAS" in answer.err
