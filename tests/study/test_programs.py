"""`ablate` runs anybody's program over variants and seeds, as it trains networks."""

import json
from collections.abc import Callable
from pathlib import Path

import mlflow
import numpy as np
import pytest
from conftest import Answer, runs_in
from scipy import stats

# What a program needs to log to the run that it was given, without MLflow's seconds.
LOGS = Path(__file__).parents[1].joinpath("runs", "programs", "driven.py").read_text()
LOGS = LOGS.partition('LOGS = """')[2].partition('"""')[0]
TRAIN = f"""{LOGS}
depth, seed = int(sys.argv[1]), int(sys.argv[2])
log("test_rmse", 60 - depth + seed * (10 + depth) / 10, step=1)
print("trained", depth, seed)
"""
STATED = """from pipeline import Ablation, Outcome

ablation = Ablation(
    program="python train.py {depth} {seed}",
    variants={"stumps": {"depth": 1}, "deep": {"depth": 6}},
    outcome=Outcome("test_rmse", better="lower"MORE),
)
"""
ABLATE = ("ablate", "--ablation", "boosting.py")


def place(folder: Path, train: str = TRAIN, more: str = "", stated: str = STATED) -> None:
    (folder / "train.py").write_text(train)
    (folder / "boosting.py").write_text(stated.replace("MORE", more))


def text_of(run_id: str, path: str) -> str:
    return Path(mlflow.MlflowClient().download_artifacts(run_id, path)).read_text()


def test_a_study_of_a_program(pipeline: Callable[..., Answer], tmp_path: Path) -> None:
    place(tmp_path)
    planned = pipeline(*ABLATE, "--seeds", "3", "--dry-run")
    assert "  stumps-seed0: to run: python train.py 1 0\n" in planned.out
    assert not runs_in(tmp_path)

    answer = pipeline(*ABLATE, "--seeds", "3")
    assert answer.status == 0, answer.err
    (study,) = runs_in(tmp_path, "study")
    made = {run.info.run_name: run for run in runs_in(tmp_path, "program")}
    assert set(made) == {f"{v}-seed{seed}" for v in ("stumps", "deep") for seed in range(3)}
    for run in made.values():
        assert run.info.status == "FINISHED"
        assert run.data.tags["mlflow.parentRunId"] == study.info.run_id
        assert not run.data.params  # the program's own
    deep = made["deep-seed2"]
    assert (deep.data.tags["variant"], deep.data.tags["seed"]) == ("deep", "2")
    assert json.loads(deep.data.tags["settings"]) == {"depth": 6}
    assert text_of(deep.info.run_id, "output.txt") == "trained 6 2\n"

    stumps, deep_ones = ([60 - d + s * (10 + d) / 10 for s in range(3)] for d in (1, 6))
    by_hand = stats.ttest_rel(deep_ones, stumps)
    (effect,) = json.loads(text_of(study.info.run_id, "effects.json"))["effects"]
    assert effect["difference"] == pytest.approx(np.mean(np.subtract(deep_ones, stumps)))
    assert effect["interval"] == pytest.approx(list(by_hand.confidence_interval(0.96)))
    assert "Depth 6 instead of 1 lowers test_rmse by 4.5" in answer.out
    assert (
        "test_rmse, lower is better: the value of the last step. 6 runs with 3 seeds." in answer.out
    )
    report = text_of(study.info.run_id, "report.md")
    assert "python train.py 6 0" in report
    assert "BatchNorm" not in report
    assert "images" not in report.partition("How it was")[0]

    again = pipeline(*ABLATE, "--seeds", "4")
    assert again.status == 0, again.err
    assert "6 of 8 runs are finished already and are reused" in again.out
    assert len(runs_in(tmp_path, "program")) == 8
    listed = pipeline("list").out
    assert "boosting, 4 seeds" in listed
    compared = pipeline(
        *("compare", "--outcome", "test_rmse", "--by", "tags.variant", "--pair", "tags.seed")
    )
    assert compared.status == 0, compared.err
    assert "8 runs with 4 seeds" in compared.out


def test_a_run_is_reused_only_if_its_program_is_the_same(
    pipeline: Callable[..., Answer], tmp_path: Path
) -> None:
    place(tmp_path, "import helper\n" + TRAIN)
    (tmp_path / "helper.py").write_text("WIDTH = 1\n")
    two = (*ABLATE, "--seeds", "2")
    assert pipeline(*two).status == 0
    (tmp_path / "helper.py").write_text("WIDTH = 1  # in pixels\n")
    assert "4 of 4 runs are finished already" in pipeline(*two).out
    exited = "pipeline.exit_status"  # it is ended in steps, between which the study may be killed
    run = runs_in(tmp_path, "program")[0].info.run_id
    mlflow.MlflowClient().set_tag(run, exited, "3")
    assert "3 of 4 runs are finished already" in pipeline(*two, "--dry-run").out
    mlflow.MlflowClient().set_tag(run, exited, "0")
    (tmp_path / "helper.py").write_text("WIDTH = 2\n")
    answer = pipeline(*two, "--dry-run")
    assert "stumps-seed0: to run again: helper.py has changed since: python train.py" in answer.out
    assert "4 of 4 runs are finished already" in pipeline(*two, "--reuse", "any", "--dry-run").out
    place(tmp_path, "import helper\n" + TRAIN, stated=STATED.replace('"depth": 6', '"depth": 7'))
    (tmp_path / "helper.py").write_text("WIDTH = 1\n")
    assert "2 of 4 runs are finished already" in pipeline(*two, "--dry-run").out
    for other in ("True", "1.0", '"1"'):  # with 1, the program is called in another way
        stated = STATED.replace('"depth": 1}', f'"depth": {other}}}')
        place(tmp_path, "import helper\n" + TRAIN, stated=stated)
        assert "2 of 4 runs are finished already" in pipeline(*two, "--dry-run").out


FAILS = f"""{LOGS}
depth, seed = int(sys.argv[1]), int(sys.argv[2])
if (depth, seed) == (6, 1):
    print("reading data")
    raise SystemExit("out of cookies")
log("test_rmse", 60 - depth + seed * (10 + depth) / 10)
"""


def test_a_run_that_fails_is_listed_with_its_last_words(
    pipeline: Callable[..., Answer], tmp_path: Path
) -> None:
    place(tmp_path, FAILS)
    answer = pipeline(*ABLATE, "--seeds", "3")
    assert answer.status == 1
    reason = "the program exited with 1: out of cookies"
    assert f"error: 1 of 6 runs failed; deep-seed1: {reason}; run the same" in answer.err
    assert "Not counted: 1 of 3 runs of deep" in answer.out
    failed = next(r for r in runs_in(tmp_path, "program") if r.info.status == "FAILED")
    assert failed.info.run_name == "deep-seed1"
    note = failed.data.tags["mlflow.note.content"]
    assert reason in note
    assert "reading data" in note
    place(tmp_path)
    assert pipeline(*ABLATE, "--seeds", "3", "--reuse", "any").status == 0
    assert {run.info.status for run in runs_in(tmp_path, "program")} == {"FINISHED", "FAILED"}
    assert len(runs_in(tmp_path, "program")) == 7


def test_if_the_first_runs_of_all_variants_fail_no_more_are_begun(
    pipeline: Callable[..., Answer], tmp_path: Path
) -> None:
    place(tmp_path, "print('no data')\nraise SystemExit(3)")
    answer = pipeline(*ABLATE, "--seeds", "50")
    assert answer.status == 1
    assert answer.err.endswith(
        "error: all 2 runs failed, and 98 others not made; stumps-seed0: the program exited with"
        " 3: no data\n"
    )
    assert len(runs_in(tmp_path, "program")) == 2
    assert {run.info.status for run in runs_in(tmp_path)} == {"FAILED"}


def test_a_program_that_logs_nothing_or_to_another_run_is_found_out(
    pipeline: Callable[..., Answer], tmp_path: Path
) -> None:
    begins = "import mlflow\nother = mlflow.MlflowClient().create_run('0').info.run_id\n"
    place(tmp_path, f"{LOGS}{begins}log('val_rmse', 1)\nlog('test_rmse', 5, run=other)")
    answer = pipeline(*ABLATE, "--seeds", "2")
    assert answer.status == 1
    assert "the program ended well but logged no `test_rmse`" in answer.err
    assert "with mlflow.start_run():" in answer.err


def test_seeds_are_added_until_the_margin_is_known_in_the_unit_of_the_outcome(
    pipeline: Callable[..., Answer], tmp_path: Path
) -> None:
    place(tmp_path)
    answer = pipeline(*ABLATE, "--seeds", "auto")
    assert answer.status == 2
    assert "seeds=auto takes a margin, in the unit of test_rmse" in answer.err
    place(tmp_path, more=", margin=1.5, unit='mm'")
    answer = pipeline(*ABLATE, "--seeds", "auto", "--max-seeds", "9")
    assert answer.status == 0, answer.err
    (study,) = runs_in(tmp_path, "study")
    design = json.loads(text_of(study.info.run_id, "effects.json"))["design"]
    assert (design["name"], design["margin"]) == ("fixed-width", 1.5)

    def half(count: int) -> float:  # the differences are seed / 2 - 5, and 4 % may be wrong
        sd = np.std([seed / 2 for seed in range(count)], ddof=1)
        level = 0.04 * count / (count + 5 * np.log(1 / 0.04))
        return float(stats.t.isf(level / 2, count - 1) * sd / np.sqrt(count))

    needed = next(count for count in range(5, 9) if half(count) <= 1.5)
    assert needed == 7
    assert len(runs_in(tmp_path, "program")) == 2 * needed
    assert "± 1.5 mm" in text_of(study.info.run_id, "report.md")


FUNCTION = """import mlflow
from pipeline import Ablation, Outcome

def train(settings, seed):
    mlflow.pyfunc.log_model(name="model", python_model=predict, pip_requirements=[])
    return {"score": settings["width"] + seed}

def predict(model_input: list[str]) -> list[str]:
    return model_input

ablation = Ablation(
    program=train,
    variants={"narrow": {"width": 1}, "wide": {"width": 2}},
    outcome=Outcome("score", better="higher"),
)
"""


def test_the_model_of_the_median_run_is_registered(
    pipeline: Callable[..., Answer], tmp_path: Path
) -> None:
    place(tmp_path, stated=FUNCTION)
    answer = pipeline(*ABLATE, "--seeds", "1")
    assert answer.status == 0, answer.err
    client = mlflow.MlflowClient()
    for variant in ("narrow", "wide"):
        version = client.get_model_version_by_alias("boosting", variant)
        run = client.get_run(str(version.run_id))
        assert run.info.run_name == f"{variant}-seed0"
        assert f"models:/boosting@{variant}" in answer.out
    assert mlflow.pyfunc.load_model("models:/boosting@wide").predict(["a"]) == ["a"]


REFUSED = {
    "epochs is for networks": ("--epochs", "3"),
    "lr is for networks": ("--lr", "0.1"),
    "device is for networks": ("--device", "cpu"),
    "unknown variant 'x'": ("--variants", "x"),
}


@pytest.mark.parametrize("message", REFUSED)
def test_options_that_a_program_does_not_have(
    pipeline: Callable[..., Answer], tmp_path: Path, message: str
) -> None:
    place(tmp_path)
    answer = pipeline(*ABLATE, *REFUSED[message])
    assert answer.status == 2
    assert answer.err.startswith(f"error: {message}"), answer.err
    assert answer.err.count("\n") == 1
    assert not runs_in(tmp_path)


def test_settings_that_can_not_be_recorded_are_refused_before_anything_is_run(
    pipeline: Callable[..., Answer], tmp_path: Path
) -> None:
    place(tmp_path, stated=STATED.replace('"depth": 6', '"depth": "6" * 9000'))
    answer = pipeline(*ABLATE)
    assert answer.status == 2
    assert answer.err.startswith("error: what a run records takes 9,013 characters"), answer.err
    assert not runs_in(tmp_path)


def test_what_takes_a_network_says_that_it_is_none(
    pipeline: Callable[..., Answer], tmp_path: Path
) -> None:
    place(tmp_path)
    answer = pipeline("train", "--ablation", "boosting.py")
    assert answer.status == 2
    assert "is about a program, which ablate runs" in answer.err
    assert pipeline(*ABLATE, "--seeds", "2").status == 0
    run = runs_in(tmp_path, "program")[0]
    answer = pipeline("reproduce", run.info.run_id)
    assert answer.status == 2
    assert answer.err.count("\n") == 1


RACES = """
from pathlib import Path
if not Path("known.txt").exists():
    Path("known.txt").touch()
    print("mlflow.exceptions.MlflowException: (sqlite3.IntegrityError) UNIQUE constraint failed:"
          " datasets.experiment_id, datasets.name, datasets.digest")
    print("[SQL: INSERT INTO datasets]")
    print("(Background on this error at: https://sqlalche.me/e/20/gkpj)")
    sys.exit(1)
"""


def test_a_data_set_that_two_runs_log_at_the_same_moment_harms_neither(
    pipeline: Callable[..., Answer], tmp_path: Path
) -> None:
    """MLflow refuses it in one of them (findings/mlflow_refuses_a_data_set…)."""
    place(
        tmp_path,
        LOGS + RACES + TRAIN,
    )
    answer = pipeline(*ABLATE, "--seeds", "1")
    assert answer.status == 0, answer.err
    assert "stumps-seed0: run twice: MLflow refused a data set" in answer.out
    statuses = sorted(run.info.status for run in runs_in(tmp_path, "program"))
    assert statuses == ["FAILED", "FINISHED", "FINISHED"]


LOGS_DATA = """
import hashlib
from pathlib import Path
digest = hashlib.sha256(Path(DATA).read_bytes()).hexdigest()[:8]
import mlflow
from mlflow.entities import Dataset, DatasetInput
data = Dataset("diabetes", digest, "local", "{}")
mlflow.MlflowClient().log_inputs(run, datasets=[DatasetInput(data)])
"""


def test_a_run_is_not_reused_once_its_data_set_has_another_digest(
    pipeline: Callable[..., Answer], tmp_path: Path
) -> None:
    data = tmp_path / "d"
    data.write_text("1, 2")
    code = LOGS_DATA.replace("DATA", "chr(100)")  # a name that is in no code
    place(tmp_path, LOGS + code + TRAIN)
    assert pipeline(*ABLATE, "--seeds", "1").status == 0
    assert "2 of 2 runs are finished already" in pipeline(*ABLATE, "--seeds", "1", "--dry-run").out
    data.write_text("1, 3")
    three = STATED.replace('"deep":', '"mid": {"depth": 3}, "deep":')
    place(tmp_path, LOGS + code + TRAIN, stated=three)
    answer = pipeline(*ABLATE, "--seeds", "1")
    assert "2 of 3 runs are finished already" in answer.out
    (study,) = runs_in(tmp_path, "study")[:1]
    assert "The data set diabetes of the reused runs has another digest" in text_of(
        study.info.run_id, "report.md"
    )
    answer = pipeline(*ABLATE, "--seeds", "1", "--dry-run")
    assert "stumps-seed0: to run again: data set diabetes has changed since" in answer.out
    assert "mid-seed0: finished" in answer.out
