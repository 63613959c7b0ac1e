"""`compare` writes a study's report on runs that were started one by one."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pytest
from conftest import Answer, Study, runs_in
from invented import record

from pipeline.config import Config
from pipeline.errors import InputError
from pipeline.runs.record import RunRecord
from pipeline.study.compare import comparable

TINY = ["--dataset", "synthetic", "--train-images", "100", "--epochs", "1"]


def artifact(folder: Path, path: str) -> Path:
    """Fetch an artifact of the newest comparison."""
    run = runs_in(folder, "comparison")[0]
    return Path(mlflow.MlflowClient().download_artifacts(run.info.run_id, path))


def test_runs_that_were_started_one_by_one(
    pipeline: Callable[..., Answer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variant in ("base", "bn"):
        for seed in ("0", "1"):
            pipeline("train", "--variant", variant, "--seed", seed, *TINY)
    pipeline("train", "--variant", "base", "--seed", "0", *TINY)  # once more
    pipeline("train", "--variant", "dropout", *TINY, "--epochs", "2")
    other_data = ["--dataset", "synthetic", "--train-images", "101", "--epochs", "1"]
    pipeline("train", "--variant", "dropout", *other_data, "--validation", "holdout")
    before = {run.info.run_id: run for run in runs_in(tmp_path, "train")}
    # Another project may have runs of this kind, too.
    client, foreign = mlflow.MlflowClient(), dict[str, str]()
    for given in ({}, {"epochs": "ten"}, {"epochs": "nan"}):
        theirs = client.create_run("0", tags={"kind": "train"}, run_name="theirs").info.run_id
        for name, value in given.items():
            client.log_param(theirs, name, value)
        client.set_terminated(theirs)
        foreign[theirs] = (
            f"run {theirs} is not of this project, or was edited: it does not say its ablation"
        )

    answer = pipeline("compare")
    assert answer.status == 0, answer.err
    assert answer.out.startswith(
        "Comparing 4 of the 7 finished training runs of experiment 'Default': base, bn with 2"
        " seeds: 0, 1\n"
    )
    assert re.search(r"\nFor others: --last N", answer.out)
    assert re.search(r"\nNot counted: \d runs?, .*\n  \d runs?: ", answer.out)
    assert "4 runs with 2 seeds" in answer.out
    assert "BatchNorm" in answer.out
    table = pd.read_csv(artifact(tmp_path, "results.csv"))
    assert list(table["run"]) == ["base-seed0", "bn-seed0", "base-seed1", "bn-seed1"]
    newest = max(
        (run for run in before.values() if run.info.run_name == "base-seed0"),
        key=lambda run: run.info.start_time,
    )
    assert newest.info.run_id in list(table["run_id"])
    made = runs_in(tmp_path, "comparison")[0]
    assert made.info.run_name == ("comparison of cnn on synthetic, 2 seeds, 100 training images")
    for run_id in table["run_id"]:
        assert f"/runs/{run_id}" in made.data.tags["mlflow.note.content"]
    for row in table.itertuples():
        assert row.val_accuracy == before[row.run_id].data.metrics["val_accuracy"]
    report = artifact(tmp_path, "report.md").read_text()
    assert f"repeated by run {newest.info.run_id[:8]}" in report
    assert "epochs 2 instead of 1" in report
    assert "train_images 101 instead of 100, validation holdout instead of test" in report
    assert json.loads(artifact(tmp_path, "effects.json").read_text())["headline"]
    assert len(runs_in(tmp_path, "train")) == len(before) + len(foreign)

    assert "(reused)" not in report
    # Those that are named, and no others, from whatever experiment.
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "another")
    chosen = [i for i, run in before.items() if run.data.params["seed"] == "1"]
    answer = pipeline("compare", *(run_id[:10] for run_id in chosen), "bn-seed1")
    assert answer.status == 0, answer.err
    assert set(pd.read_csv(artifact(tmp_path, "results.csv"))["run_id"]) == set(chosen)
    assert "Comparing" not in answer.out
    assert "BatchNorm" in answer.out
    assert "in one seed, which gives no uncertainty" in answer.out

    # The newest two differ in their data, too.
    for arguments, reason in {
        ("--last", "2"): "the runs are only: dropout-seed0",
        ("--last", "1"): "last is 1; it must be a whole number of at least 2",
        ("--last", "2", "bn-seed1"): "give either last or runs, not both",
        ("base-seed0", "bn-seed0"): "'base-seed0' stands for 2 runs: ",
        ("nope", "bn-seed0"): "'nope' is not the id of a finished training run, its beginning",
    }.items():
        answer = pipeline("compare", *arguments, *(["--experiment", "Default"]))
        assert (answer.status, len(answer.error_lines)) == (2, 1)
        assert reason in answer.err
        assert "theirs" not in answer.err
    for theirs, reason in foreign.items():
        for command in (("compare",), ("reproduce",), ("train", "--resume")):
            answer = pipeline(*command, theirs)
            assert (answer.status, len(answer.error_lines)) == (2, 1)
            assert reason in answer.err
    answer = pipeline("compare", "--last", "6", "--experiment", "Default")
    assert answer.status == 0, answer.err
    assert "Comparing 4 of the newest 6 finished training runs" in answer.out
    assert runs_in(tmp_path, "comparison")[0].data.params["runs"] == "last 6"

    answer = pipeline("compare", next(i for i in chosen if before[i].data.tags["variant"] == "bn"))
    assert (answer.status, len(answer.error_lines)) == (2, 1)
    assert "nothing to compare" in answer.err
    assert "bn-seed1" in answer.err
    assert len(runs_in(tmp_path, "comparison")) == 3


def finished(name: str, start: int, epochs: int = 3, **own: Any) -> RunRecord:
    variant, seed = name.split("-seed")
    config = Config(own.pop("source", "auto"), variant, seed=int(seed), epochs=epochs)
    facts: dict[str, Any] = {"settings": {}, "run_id": f"{start:032d}", "started": start}
    return record(config, **facts | own)


def test_the_group_that_allows_comparisons_is_taken() -> None:
    pair = [finished("base-seed0", 1), finished("bn-seed0", 2)]
    names = ("base-seed0", "bn-seed1", "dropout-seed2")
    apart = [finished(name, start, epochs=9) for start, name in enumerate(names, start=3)]
    ablation, chosen, unused = comparable([*pair, *apart])
    assert ablation.name == "cnn"
    assert chosen == pair
    assert list(unused.values()) == ["epochs 9 instead of 3"] * 3


OWN = """
from torch import nn
from pipeline import Ablation
from pipeline.data import synthetic

def network(num_classes, width=32):
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(width), nn.LazyLinear(num_classes))

ablation = Ablation(
    network,
    variants={"narrow": {}, "wide": {"width": 64}},
    datasets={"synthetic": synthetic.generate},
    name="own",
)
"""


def test_runs_are_compared_as_their_own_ablation_says(tmp_path: Path) -> None:
    file, moved = tmp_path / "own.py", tmp_path / "moved.py"
    file.write_text(OWN)
    own: dict[str, Any] = {"ablation": "own", "source": str(file)}
    pair = [finished("narrow-seed0", 1, **own), finished("wide-seed0", 2, **own)]
    gone = finished("wider-seed0", 3, **own)
    other = finished("base-seed0", 4)
    ablation, chosen, unused = comparable([*pair, gone, other])
    assert (ablation.name, chosen) == ("own", pair)
    assert list(unused.values()) == [
        "ablation cnn instead of own",
        "own has no variant wider with its settings now",
    ]
    with pytest.raises(InputError, match="has none of the runs' variants: it has narrow, wide"):
        comparable([gone])

    file.rename(moved)
    with pytest.raises(InputError, match=r"own\.py': there is no such file; name .* --ablation"):
        comparable(pair)
    assert comparable([*pair, other, gone])[1] == [other]
    assert comparable([*pair, other, gone], str(moved))[1] == pair
    with pytest.raises(InputError, match="none of the runs is of ablation 'own'"):
        comparable([other], str(moved))


def test_it_says_the_same_as_the_study_itself(
    study: Study, pipeline: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(study.folder)
    answer = pipeline("compare", "--experiment", "synthetic")
    assert answer.status == 0, answer.err
    for effect in json.loads(study.artifact(study.parent, "effects.json").read_text())["headline"]:
        assert effect in answer.out


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ([], ["'Default' has no finished training run"]),
        (["0" * 32], ["'000", "is not the id of a finished training run"]),
        (["--experiment", "mine"], ["no experiment is named 'mine'", "Default"]),
    ],
)
def test_nothing_to_compare(
    pipeline: Callable[..., Answer], tmp_path: Path, arguments: list[str], parts: list[str]
) -> None:
    answer = pipeline("compare", *arguments)
    assert answer.status == 2
    (line,) = answer.error_lines
    for part in parts:
        assert part in line
    assert runs_in(tmp_path) == []
