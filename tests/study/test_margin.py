"""Studies that decide by themselves how many seeds they need, and what a look costs."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import mlflow
import numpy as np
import pytest
from conftest import TINY, Answer, broken_cell, runs_in
from invented import TUTORIAL, ablation
from invented import study as runs_of
from scipy import stats

from pipeline.config import Config
from pipeline.errors import InputError
from pipeline.report.analysis import analyse
from pipeline.runs.plan import Plan
from pipeline.statistics.intervals import LATER
from pipeline.study.forecast import Forecast
from pipeline.study.grid import Grid
from pipeline.study.margin import Expectation, check_effects, choose_design
from pipeline.study.subject import Subject

AUTO = ["ablate", *TINY, "--variants", "base,bn", "--seeds", "auto", "--jobs", "1"]


def report(folder: Path) -> dict[str, Any]:
    newest = runs_in(folder, "study")[0]
    path = mlflow.MlflowClient().download_artifacts(newest.info.run_id, "effects.json")
    content: dict[str, Any] = json.loads(Path(path).read_text())
    return content


def test_seeds_are_added_until_the_margin_is_known_and_a_look_lengthens_the_interval(
    pipeline: Callable[..., Answer], tmp_path: Path
) -> None:
    # After one epoch of 300 images both variants guess: the spread is far below 20 points.
    answer = pipeline(*AUTO, "--margin", "20")
    assert answer.status == 0, answer.err
    told = [line for line in answer.out.splitlines() if line.startswith("seeds ")]
    assert "ablation cnn on synthetic, 300 of 10,000 images: 300 training and" in answer.out
    assert "at least 10 runs to train, about 0:0" in answer.out
    assert told[0].startswith(
        "seeds needed: at least 5 of base, 5 of bn (at most 30 of each); 10 more runs, about 0:0"
    )
    assert told[-2].startswith(
        "seeds needed: about 5 of base, 5 of bn (estimated from 4 of each); 1 more run, about"
    )
    assert told[-1] == "seeds needed: 5 of base, 5 of bn; all are trained"
    assert len(told) == 1 + 10
    parent = runs_in(tmp_path, "study")[0]
    assert parent.data.tags["seeds_needed"] == told[-1]
    assert parent.info.run_name == "cnn on synthetic, seeds auto, 300 training images"
    assert parent.data.params["seeds"] == "auto"
    assert parent.data.params["margin"] == "20.0"
    assert parent.data.params["max_seeds"] == "30"
    first = report(tmp_path)
    assert first["design"]["name"] == "fixed-width"
    assert len(runs_in(tmp_path, "train")) == 10
    # The same runs compared are the same look.
    assert pipeline("compare", "--experiment", "Default").status == 0
    answers = [runs_in(tmp_path, kind)[0].data.metrics for kind in ("study", "comparison")]
    assert answers[0]["bn_vs_base_low"] == pytest.approx(answers[1]["bn_vs_base_low"])
    # A part of them is not.
    some = [
        run.info.run_id for run in runs_in(tmp_path, "train") if "seed4" not in run.info.run_name
    ]
    few = pipeline("compare", *some).out
    assert "4 seeds, which give no interval yet" in few
    assert "Intervals that hold however often one looks begin at" in few
    # The same command again has the same plan.
    assert pipeline(*AUTO, "--margin", "20").status == 0
    assert report(tmp_path)["design"] == first["design"]
    # A smaller margin was chosen after a look: no more than six seeds, and a longer interval.
    answer = pipeline(*AUTO, "--margin", "0.001", "--max-seeds", "6")
    assert answer.status == 0, answer.err
    assert (
        "needed: about 6 of base, 6 of bn (by the spread so far); 2 more runs, about" in answer.out
    )
    assert len(runs_in(tmp_path, "train")) == 12
    second = report(tmp_path)
    assert second["design"]["name"] == "anytime"
    plan = "base,bn at lr 0.001, seeds auto, margin 20 points, at most 30"
    assert plan in second["design"]["reason"]
    assert runs_in(tmp_path, "study")[0].data.tags["seeds_needed"].startswith("seeds needed: 6")
    # The look counts also if the same seeds are trained again.
    answer = pipeline(*AUTO[:-4], "--seeds", "1", "--reuse", "none", "--jobs", "1")
    assert answer.status == 0, answer.err
    assert report(tmp_path)["design"]["name"] == "anytime"


def test_a_look_counts_in_another_experiment_and_with_another_variant(
    pipeline: Callable[..., Answer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = ["ablate", *TINY, "--seeds", "2", "--jobs", "1", "--register", "none", "--variants"]
    assert pipeline(*study, "base,bn").status == 0
    assert report(tmp_path)["design"]["name"] == "planned"
    assert pipeline(*study, "bn,base").status == 0  # the same plan
    assert report(tmp_path)["design"]["name"] == "planned"
    mlflow.create_experiment("elsewhere")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "elsewhere")
    assert pipeline(*study, "base,bn,dropout").status == 0
    design = report(tmp_path)["design"]
    assert (design["name"], design["alpha"]) == ("anytime", pytest.approx(0.01))
    assert "base,bn at lr 0.001, seeds 0,1" in design["reason"]


def test_a_first_seed_that_fails_is_retried_before_more_are_trained(
    pipeline: Callable[..., Answer], tmp_path: Path
) -> None:
    auto = [*AUTO, "--margin", "0.001", "--max-seeds", "6"]
    with broken_cell("bn", 2, RuntimeError("no luck")):
        answer = pipeline(*auto)
    assert answer.status == 1
    assert len(runs_in(tmp_path, "train")) == 10
    assert "(estimated from 4 of each)" in answer.out
    assert pipeline(*auto).status == 0
    names = {run.info.run_name for run in runs_in(tmp_path, "train")}
    assert names == {f"{variant}-seed{seed}" for variant in ("base", "bn") for seed in range(6)}
    headline = report(tmp_path)["headline"]
    assert any(
        "The effect of BatchNorm is not known to within ± 0.001 points after 6 seeds" in h
        for h in headline
    )


def test_a_plan_may_count_a_mean_and_stop_at_an_answer(
    pipeline: Callable[..., Answer], tmp_path: Path
) -> None:
    small = ["ablate", *TINY[:-2], "--epochs", "2", "--variants", "base,bn", "--jobs", "1"]
    asked = ["--seeds", "auto", "--margin", "20", "--value", "mean2", "--stop-early", "yes"]
    answer = pipeline(*small, *asked, "--train-images", "100")
    assert answer.status == 0, answer.err
    found = report(tmp_path)
    assert found["primary_metric"] == "val_accuracy_mean2"
    design = found["design"]
    assert (design["name"], design["alpha"], design["stop_early"]) == ("anytime", 0.05, True)
    assert "or shown to exceed that, or to be too small to matter" in design["reason"]
    (study,) = runs_in(tmp_path, "study")
    assert study.data.params["stop_early"] == "yes"
    assert 10 <= len(runs_in(tmp_path, "train")) < 20


def test_only_the_variants_of_uncertain_effects_get_more_seeds() -> None:
    spread = np.array([-0.02, -0.01, 0.0, 0.01, 0.02])
    finished = {
        one.config: one
        for one in runs_of(
            {"base": [0.4] * 5, "bn": list(0.5 + spread / 10), "base_dropout": list(0.38 + spread)}
        )
    }
    grid = Grid(["base", "bn", "base_dropout"], range(40), [0.001], margin=1.2)
    design = choose_design(grid.plan, [])
    study = SimpleNamespace(
        analyse=partial(analyse, TUTORIAL), grid=grid, cells=grid.cells(Config())
    )
    expected = Expectation(cast(Subject, study), "", design, Forecast(1, {}), finished, {})
    # The fewest whose interval would be as short, with 0.04 shared by 2 comparisons, and less at
    # first (`fixed_width`).
    alpha, sd = 0.04 / 2, 100 * spread.std(ddof=1)
    seeds = next(
        n
        for n in range(5, 40)
        if stats.t.isf(alpha * n / (n - 5 * np.log(alpha)) / 2, n - 1) * sd / np.sqrt(n) <= 1.2
    )
    assert 5 < seeds < 40
    assert expected.needed() == {"base": seeds, "bn": 5, "base_dropout": seeds}
    assert {cell.variant for cell in expected.missing(expected.needed())} == {
        "base",
        "base_dropout",
    }


def expectation(
    accuracies: dict[str, list[float]], jobs: int = 1, **asked: Any
) -> tuple[Expectation, Grid]:
    """What is expected after runs of these accuracies, with a margin of 0.5 points."""
    finished = {one.config: one for one in runs_of(accuracies)}
    grid = Grid([*accuracies], range(30), [0.001], margin=0.5, **asked)
    study = SimpleNamespace(
        analyse=partial(analyse, TUTORIAL),
        grid=grid,
        cells=grid.cells(Config()),
        engine=SimpleNamespace(jobs=SimpleNamespace(number=jobs)),
    )
    design = choose_design(grid.plan, [])
    return Expectation(cast(Subject, study), "", design, Forecast(1, {}), finished, {}), grid


WIDE = [0.50, 0.512, 0.489, 0.505, 0.494]  # a standard deviation of 0.9 points


def test_seeds_are_added_in_stages_since_more_of_them_may_show_that_fewer_do() -> None:
    expected, _ = expectation({"base": [0.4] * 5, "bn": WIDE})
    needed = expected.needed()["bn"]
    assert 15 < needed < 30
    for jobs, seeds in ((1, -(-(needed - 5) // 2)), (60, needed - 5)):  # half, or all at once
        expected, _ = expectation({"base": [0.4] * 5, "bn": WIDE}, jobs)
        stage = next(expected.stages())
        assert {cell.seed for cell in stage} == set(range(5, 5 + seeds))
        assert len(stage) == 2 * seeds
    # The first seeds come first, all of them.
    expected, _ = expectation({"base": [0.4] * 2, "bn": WIDE[:2]})
    assert {cell.seed for cell in next(expected.stages())} == {2, 3, 4}


def test_a_question_that_is_answered_ends_early_if_the_plan_says_so() -> None:
    large = {"base": [0.4] * 6, "bn": [*WIDE, 0.5]}  # 10 points, and no margin of 0.5
    small = {"base": [0.5] * 6, "bn": [0.5 + (one - 0.5) / 8 for one in (*WIDE, 0.5)]}
    for accuracies, words in (
        (large, "and not to within ± 0.01 points, as the plan allows: it exceeds that."),
        (small, "it is below 1 point, and so too small to matter."),
    ):
        expected, grid = expectation(accuracies)
        needs_more = expected.needed()["bn"] > 6
        assert needs_more == (accuracies is large)
        expected, grid = expectation(accuracies, stop_early=True)
        assert not expected.missing(expected.needed())
        assert "or until the question is answered" in grid.plan.words
        assert (expected.design.name, expected.design.alpha) == ("anytime", 0.05)
        results = list(expected.finished.values())
        analysis = analyse(TUTORIAL, results, replace(expected.design, margin=0.01))
        (line,) = (one for one in analysis.headline if "as the plan allows" in one)
        assert line.startswith("The effect of BatchNorm is known to within ± ")
        assert line.endswith(words)
    # Five points apart, give or take ten: no answer.
    expected, _ = expectation(
        {"base": [0.4] * 6, "bn": [0.3, 0.6, 0.4, 0.6, 0.3, 0.5]}, stop_early=True
    )
    assert expected.needed()["bn"] == 30


def plan(seeds: int, most: int = 10, **others: Any) -> Plan:
    return Plan.of(["base", "bn"], [0.001], range(seeds), most=most, **others)


def test_a_later_report_has_the_end_that_the_first_one_named() -> None:
    first, later = plan(5), plan(8)
    design = choose_design(later, [first])
    assert (design.most, design.later_than, design.alpha) == (10, 5, 0.01)
    assert design.critical_t(8) < LATER.critical_t(8)
    assert choose_design(plan(9), [first, later]).later_than == 5
    # The same plan, whatever it says of the end.
    again = choose_design(replace(first, most=50), [first])
    assert (again.name, again.most, again.follows) == ("planned", 10, False)
    auto = plan(10, margin=0.5, stop_early=True)
    design = choose_design(auto, [first])
    assert (design.most, design.margin, design.stop_early) == (10, 0.5, True)


@pytest.mark.parametrize(
    ("plans", "now", "alpha"),
    [
        ([plan(5, most=0)], plan(8), 0.01),  # by an earlier version, which named no end
        ([plan(5, most=30)], plan(8), 0.01),  # too far away
        # Others may have had an end, which takes 0.4 of the 1 %.
        ([plan(5)], plan(4), 0.006),  # seeds were left out
        ([plan(5), plan(9)], plan(7), 0.006),
        ([plan(5), plan(6).for_comparison()], plan(8), 0.006),  # nobody knows when
        # Another value, which was chosen later.
        ([plan(5, value="mean5")], plan(8), 0.01),
        ([plan(5, value="mean5").for_comparison()], plan(8), 0.01),
        ([plan(10, margin=0.5)], plan(12, margin=0.2), 0.01),
        ([plan(6).for_comparison()], plan(8), 0.05),  # nothing was planned
        # The sequence goes on, unless another report has spent the 4 % of a plan.
        ([plan(10, margin=0.5, stop_early=True)], plan(12, margin=0.2), 0.05),
        ([plan(6, margin=0.5, stop_early=True), plan(8)], plan(12), 0.01),
        ([plan(6, margin=0.5, stop_early=True, follows=True)], plan(12), 0.01),  # it had only 1 %
        # A value that was chosen later stays so; only the oldest plan names an end.
        ([plan(5), plan(8, value="mean5", follows=True)], plan(9, value="mean5"), 0.01),
        ([plan(5, most=30), plan(3, most=10)], plan(9), 0.006),
    ],
)
def test_otherwise_later_intervals_hold_for_ever(
    plans: list[Plan], now: Plan, alpha: float
) -> None:
    design = choose_design(now, plans)
    assert design.name == "anytime"
    assert design.alpha == pytest.approx(alpha)
    assert not design.ends
    assert design.follows
    assert design.exploratory == ("exploratory" in design.reason) == (plans[0].value != now.value)


def test_finished_seeds_count_whichever_they_are() -> None:
    steady = {"base": [0.4] * 6, "bn": [0.5, 0.5001, 0.5, 0.5002, 0.5, 0.5001]}
    expected, _ = expectation(steady)
    last = {cell: replace(cell, seed=25) for cell in expected.finished if cell.seed == 5}
    gap = {last.get(cell, cell): one for cell, one in expected.finished.items()}
    expected.finished = {cell: replace(one, config=cell) for cell, one in gap.items()}
    assert not list(expected.stages())
    # One of the two runs of seed 25 is there.
    few, _ = expectation({"base": [0.4] * 5, "bn": WIDE})
    (cell,) = (one for one in last.values() if one.variant == "bn")
    few.finished = {**few.finished, cell: expected.finished[cell]}
    stage = list(few.missing({"base": 6, "bn": 6}))
    assert [(one.variant, one.seed) for one in stage] == [("base", 25)]


def test_runs_take_turns_and_their_own_epochs_replace_the_estimate() -> None:
    base, bn, other = (Config(variant=name, epochs=10) for name in ("base", "bn", "other"))
    nothing = Forecast(2, {})
    assert nothing.seconds({base: 0}) is None
    nothing.note("base", 3.0)
    assert nothing.seconds({base: 10, bn: 0}) == pytest.approx(1.4 + 30)  # as long as the other
    forecast = Forecast(2, {"base": 1.0, "bn": 2.0})
    # One process trains base and then the third, which takes 1.5 s an epoch, the other bn.
    runs = {base: 0, bn: 5, other: 0}
    assert forecast.seconds(runs) == pytest.approx(1.4 + 10 + 1.4 + 15)
    assert forecast.seconds({base: 0}, starting=True) == pytest.approx(6 + 1.4 + 10)
    for seconds in (3.0, 5.0):
        forecast.note("base", seconds)
    assert forecast.seconds({base: 5}) == pytest.approx(1.4 + 5 * 4)


def test_an_ablation_without_a_pair_to_compare_has_no_margin() -> None:
    own = ablation({"plain": {}, "wide": {"width": 64}, "other": {"width": 8}})
    check_effects(own, Grid(["plain", "wide"], range(30), [0.001], margin=1.0))
    check_effects(own, Grid(["wide", "other"], range(3), [0.001]))
    with pytest.raises(InputError, match=r"variants=wide,other has no pair .*, such as plain,wide"):
        check_effects(own, Grid(["wide", "other"], range(30), [0.001], margin=1.0))
    with pytest.raises(InputError, match=r"variants=one has no pair to compare$"):
        check_effects(ablation({"one": {}}), Grid(["one"], range(30), [0.001], margin=1.0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--margin", "0"], "margin is 0; it must be above 0 and below 100 points"),
        (["--max-seeds", "4"], "max_seeds is 4; it must be 5 to 1000"),
        (["--lr", "0.01,0.001"], "seeds=auto takes one lr"),
        (["--variants", "bn"], "seeds=auto needs an effect to measure"),
        (["--variants", "dropout,base_dropout"], "seeds=auto needs an effect to measure"),
    ],
)
def test_what_can_not_be_measured_is_refused_before_anything_is_made(
    pipeline: Callable[..., Answer], tmp_path: Path, options: list[str], message: str
) -> None:
    answer = pipeline(*AUTO, *options)
    assert answer.status == 2
    (line,) = answer.error_lines
    assert message in line
    assert not list(tmp_path.glob("mlflow.db"))
