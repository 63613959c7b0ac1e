"""What an analysis says about runs whose numbers are known."""

import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest
from conftest import ROOT
from invented import TUTORIAL, Accuracies, result, study
from scipy import stats

from pipeline.config import Config
from pipeline.report.analysis import analyse
from pipeline.report.figures import effects_figure, seeds_figure
from pipeline.report.files import effect_metrics, effects, report_files
from pipeline.report.findings import Analysis, RateResult
from pipeline.report.learning_rates import chosen_rates
from pipeline.report.publish import machines_of
from pipeline.report.sections import limits
from pipeline.report.tables import format_summary
from pipeline.runs.resolve import resolve
from pipeline.statistics.intervals import LATER, PLANNED, Design
from pipeline.study.grid import Grid

BASE = {"base": [0.40, 0.42, 0.41], "bn": [0.46, 0.485, 0.47], "dropout": [0.48, 0.47, 0.48]}


def main(analysis: Analysis) -> RateResult:
    assert analysis.main
    return analysis.main


def test_effects_are_paired_by_seed_and_corrected_for_being_several() -> None:
    analysis = analyse(TUTORIAL, study(BASE))
    bn, dropout, both = main(analysis).findings["val_accuracy"]
    assert bn.comparison.difference == pytest.approx((0.06 + 0.065 + 0.06) / 3)
    # 6.167 ± 8.58 x 0.289 / sqrt(3), Student's t at 2 degrees of freedom and 1 - 0.04 / 3 / 2
    assert analysis.headline[0] == (
        "BatchNorm raises validation accuracy by 6.2 points (95 % CI 4.7 to 7.6, 3 seeds)."
    )
    assert not dropout.comparison.settled
    assert "not settled" in analysis.headline[1]
    plain = stats.ttest_rel([0.46, 0.485, 0.47], [0.40, 0.42, 0.41]).pvalue
    # 4 of the 5 % are for the planned report.
    assert bn.comparison.p_value == pytest.approx(3 * plain * 5 / 4)
    assert both.contrast.subject == "going from base to dropout"


def test_each_variant_is_summarized_with_the_interval_of_its_mean() -> None:
    summary = main(analyse(TUTORIAL, study(BASE))).summaries["val_accuracy"]["bn"]
    low, high = stats.t.interval(0.95, 2, np.mean(BASE["bn"]), stats.sem(BASE["bn"]))
    assert summary.seeds == 3
    assert summary.mean == pytest.approx(np.mean(BASE["bn"]))
    assert summary.sd == pytest.approx(np.std(BASE["bn"], ddof=1))
    assert summary.interval == pytest.approx((low, high))


def test_a_seed_that_one_variant_lacks_is_left_out_of_its_comparisons_only() -> None:
    results = [r for r in study(BASE) if r.config.run_name != "bn-seed1"]
    bn, _, both = main(analyse(TUTORIAL, results)).findings["val_accuracy"]
    assert bn.comparison.seeds == 2
    assert bn.comparison.difference == pytest.approx((0.06 + 0.06) / 2)
    assert both.comparison.seeds == 3


def test_an_effect_that_is_not_known_to_within_the_margin_is_named() -> None:
    design = Design("fixed-width", "", 0.04, margin=1.3)
    analysis = analyse(TUTORIAL, study(BASE), design)
    missed = [line for line in analysis.headline if "not known to within" in line]
    bn, dropout, both = main(analysis).findings["val_accuracy"]
    wide = [
        finding
        for finding in (bn, dropout, both)
        if finding.comparison.interval and np.ptp(finding.comparison.interval) > 2 * 0.013
    ]
    assert 0 < len(missed) == len(wide) < 4
    assert missed[0].startswith(
        f"The effect of {wide[0].contrast.words} is not known to within ± 1.3 points after 3"
    )
    assert not any("not known" in line for line in analyse(TUTORIAL, study(BASE)).headline)


def test_one_seed_is_shown_without_an_interval() -> None:
    analysis = analyse(TUTORIAL, study({variant: values[:1] for variant, values in BASE.items()}))
    assert "one seed, which gives no uncertainty" in analysis.headline[0]
    assert main(analysis).summaries["val_accuracy"]["bn"].interval is None
    assert set(effect_metrics(analysis)) == {"bn_vs_base", "dropout_vs_bn", "dropout_vs_base"}
    page = report_files(analysis, "", {}, {})["report.md"].decode()
    (row,) = (line for line in page.splitlines() if "| bn − base |" in line and "+6" in line)
    cells = row.removesuffix(" |").removeprefix("| ").split(" | ")
    assert cells == ["BatchNorm", "1", "+6.00 points", "-", "-", "-", "-", "-", "bn − base"]


FEW = {
    "base": [0.067, 0.1],
    "bn": [0.095, 0.06],
    "dropout": [0.11, 0.063],
    "base_dropout": [0.055, 0.1],
}


def test_intervals_that_reach_impossible_values_are_shown_nowhere() -> None:
    analysis = analyse(TUTORIAL, study(FEW))
    at_rate = main(analysis)
    raw = [one.comparison.interval for one in at_rate.findings["val_accuracy"]]
    assert all(interval and interval.low < -0.1 < 0.1 < interval.high for interval in raw)
    assert all("in 2 seeds, which can't tell. About" in line for line in analysis.headline)
    assert len(analysis.headline) == 5
    assert not [name for name in effect_metrics(analysis) if name.endswith(("_low", "_high"))]
    files = report_files(analysis, "", {}, {})
    page = files["report.md"].decode()
    told = page.partition("## Learning curves")[0] + format_summary(analysis)
    assert not re.search(r"[−+\d.] to [−+]?\d", told)
    row = next(line for line in page.splitlines() if line.endswith("| bn − base |"))
    assert row.count("2 seeds can't tell") == 2  # with pairing, and without
    assert "2 seeds can't tell, about 3 would" in format_summary(analysis)
    stated = json.loads(files["effects.json"])
    assert {one["shown"] for one in stated["effects"] if one["metric"] == "val_accuracy"} == {None}
    drawn = effects_figure(analysis).axes[0]
    assert [text.get_text() for text in drawn.texts] == ["2 seeds can't tell"] * 5
    assert max(abs(end) for line in drawn.lines for end in line.get_xdata()) < 10  # type: ignore[union-attr,arg-type]
    seeds = seeds_figure(analysis, at_rate).axes[0]
    low, high = seeds.get_ylim()
    assert 0 < low < high < 20


def test_the_limits_name_the_false_alarms_of_a_study_like_this() -> None:
    def said(accuracies: Accuracies, design: Design = PLANNED) -> str:
        results = study(accuracies)
        (line,) = (one for one in limits(analyse(TUTORIAL, results, design)) if "normally" in one)
        return line

    assert "13 to 16 % of studies" in said(BASE)
    assert "with three comparisons; " in said(BASE)
    assert "16 to 21 % of studies" in said(BASE, LATER)
    two = {variant: BASE[variant] for variant in ("base", "bn")}
    assert ": simulated with one planned report at 5 seeds, and with one comparison." in said(two)
    assert said({variant: values[:1] for variant, values in BASE.items()}).endswith(
        "can't show it."
    )
    assert "(here: 5)" in said({**BASE, "base_dropout": [0.39, 0.40, 0.39]})


def test_the_two_by_two_design_gives_the_interaction() -> None:
    base_dropout = [0.39, 0.40, 0.39]
    analysis = analyse(TUTORIAL, study({**BASE, "base_dropout": base_dropout}))
    last = main(analysis).findings["val_accuracy"][-1]
    with_bn = np.subtract(BASE["dropout"], BASE["bn"])
    without = np.subtract(base_dropout, BASE["base"])
    assert last.comparison.difference == pytest.approx(np.mean(with_bn - without))
    assert "BatchNorm" in analysis.headline[-1]
    assert "Dropout's effect on validation accuracy" in analysis.headline[-1]
    assert "interaction_low" in effect_metrics(analysis)
    family = main(analysis).findings["val_accuracy"]
    assert len(family) == 5
    plain = stats.ttest_rel(BASE["bn"], BASE["base"]).pvalue
    assert family[0].comparison.p_value == pytest.approx(5 * plain * 5 / 4)


def test_the_other_outcomes_are_compared_too() -> None:
    analysis = analyse(TUTORIAL, study(BASE))
    # 90 % of the worst run's 40 % is 36 %: all reach 40 % in the end, the best in epoch 2.
    assert analysis.target == 0.40
    row = analysis.table.set_index("run").loc["bn-seed1"]
    assert row["generalisation_gap"] == pytest.approx(0.02)
    assert (row["epochs_to_target"], row["seconds_to_target"]) == (2, 20.0)
    assert (row["seconds"], row["images_per_second"], row["parameters"]) == (30.0, 1000.0, 1000)
    found = main(analysis).findings["epochs_to_target"][0].comparison
    assert found.difference == pytest.approx(-1.0)
    metrics = {effect["metric"] for effect in effects(analysis)["effects"]}  # type: ignore[attr-defined]
    assert metrics == {
        "val_accuracy",
        "val_loss",
        "generalisation_gap",
        "epochs_to_target",
    }


def test_an_outcome_without_a_number_is_not_compared_and_named() -> None:
    results = study(BASE)
    *history, last = results[4].history
    results[4] = replace(results[4], history=(*history, replace(last, val_loss=math.nan)))
    analysis = analyse(TUTORIAL, results)
    assert main(analysis).findings["val_loss"] == []
    note = "Validation loss is not compared: it is not a number in bn-seed1."
    assert note in analysis.headline
    assert len(main(analysis).findings["val_accuracy"]) == 3
    assert report_files(analysis, "", {}, {})


RATES = (0.01, 0.001)
AT_RATES: dict[float, Accuracies] = {
    0.01: {"base": [0.10, 0.11, 0.12], "bn": [0.40, 0.41, 0.43], "dropout": [0.35, 0.35, 0.37]},
    0.001: {"base": [0.40, 0.42, 0.41], "bn": [0.38, 0.40, 0.40], "dropout": [0.46, 0.48, 0.47]},
}


# Of small spread, because twelve intervals that hold jointly are long.
SETTLED = {
    lr: {v: [float(np.mean(x) * 7 + one) / 8 for one in x] for v, x in accuracies.items()}
    for lr, accuracies in AT_RATES.items()
}


def test_with_several_learning_rates_each_variant_has_its_best_and_signs_are_reported() -> None:
    # On the held-out images bn is better at 0.001, on the reported ones at 0.01.
    held_out = {(0.01, "bn"): 0.30}
    results = [
        result(Config(variant=v, seed=s, lr=lr, validation="holdout"), x, held_out.get((lr, v), x))
        for lr, accuracies in SETTLED.items()
        for v, values in accuracies.items()
        for s, x in enumerate(values)
    ]
    analysis = analyse(TUTORIAL, results)
    assert analysis.primary == "test_accuracy"
    assert main(analysis).rates == {"base": 0.001, "bn": 0.001, "dropout": 0.001}
    assert [at_rate.label for at_rate in analysis.at_rates] == ["best", "0.001", "0.01"]
    assert analysis.headline[0].startswith("BatchNorm lowers test accuracy by 1.7 points")
    change = analysis.headline[-1]
    assert change == (
        "The effect of Dropout on top of BatchNorm on test accuracy changes its sign with the"
        " learning rate: +7.7 points at learning rate 0.001, −5.7 points at learning rate 0.01."
    )
    page = report_files(analysis, "", {}, {})["report.md"].decode()
    assert "0.001 for base, 0.001 for bn, 0.001 for dropout" in page
    assert "is the lowest or highest that was tried" in page


def test_estimates_of_either_sign_are_no_change_of_sign() -> None:
    bn = {0.01: [0.40, 0.43, 0.42], 0.001: [0.40, 0.42, 0.40]}  # by +0.7 and -0.3 points from base
    results = [
        r
        for lr, values in bn.items()
        for r in study({"base": [0.41, 0.41, 0.41], "bn": values}, lr=lr)
    ]
    analysis = analyse(TUTORIAL, results)
    differences = [
        one.findings["val_accuracy"][0].comparison.difference for one in analysis.by_rate
    ]
    assert min(differences) < 0 < max(differences)
    assert analysis.sign_changes == []
    assert not any("sign" in line for line in analysis.headline)


def test_a_rate_at_which_runs_failed_is_not_chosen_for_what_is_left_of_it() -> None:
    results = [
        result(Config(variant="bn", seed=s, lr=lr, validation="holdout"), x, x)
        for lr, values in ((0.01, [0.6]), (0.001, [0.5, 0.5, 0.4]))
        for s, x in enumerate(values)
    ]
    notes: list[str] = []
    assert chosen_rates(TUTORIAL.variants, results, notes) == {"bn": 0.001}
    assert notes == ["Runs of bn are missing at learning rate 0.01: not chosen."]


def test_a_rate_at_which_nothing_learns_does_not_take_the_time_to_learn_from_the_others() -> None:
    results = [
        result(Config(variant=v, seed=s, lr=lr, validation="holdout"), x, x)
        for lr, x in ((0.01, 0.01), (0.001, 0.4))
        for v in ("base", "bn")
        for s in range(2)
    ]
    analysis = analyse(TUTORIAL, results)
    assert analysis.target == 0.40
    assert len(main(analysis).findings["epochs_to_target"]) == 1
    nothing = analyse(TUTORIAL, [r for r in results if r.config.lr == 0.01])
    assert nothing.target is None
    assert any("time to an accuracy is not compared" in note for note in nothing.notes)


@pytest.mark.parametrize(
    ("variants", "title"),
    [
        ("dropout base bn", "cnn: base, bn, dropout"),
        ("base", "cnn: base"),
        ("bn base_dropout", "cnn: bn, base_dropout"),
    ],
)
def test_the_title_names_the_ablation_and_its_variants(variants: str, title: str) -> None:
    analysis = analyse(TUTORIAL, study({variant: [0.4, 0.5] for variant in variants.split()}))
    files = report_files(analysis, "", {}, {"bn-seed9": "a | b"})
    page = files["report.md"].decode()
    assert page.startswith(f"# {title}\n")
    assert "a \\| b" in page
    assert analysis.headline
    is_compared = not analysis.headline[0].startswith("Nothing is compared")
    assert ("figures/effects.png" in files) == is_compared == ("dropout base bn" in variants)


def test_no_learning_rate_is_chosen_on_the_reported_images() -> None:
    results = [r for lr, accuracies in SETTLED.items() for r in study(accuracies, lr=lr)]
    analysis = analyse(TUTORIAL, results)
    assert analysis.main is None
    assert len([line for line in analysis.headline if "at learning rate" in line]) == 6 + 2
    assert any("validation=holdout" in note for note in analysis.notes)
    assert {"bn_vs_base_lr0.01", "bn_vs_base_lr0.001_low"} <= effect_metrics(analysis).keys()
    page = report_files(analysis, "", {}, {})["report.html"].decode()
    assert "learning rate 0.01" in page


def test_the_limits_are_those_of_the_study() -> None:
    results = study(BASE)
    told = limits(analyse(TUTORIAL, results))
    assert told[0].startswith("Whether the effects hold for another network")
    assert "(here: 30 epochs; batch size 256; Adam)" in told[0]
    assert any("a learning rate other than 0.001" in line for line in told)
    caveat = "Anything about photographs: these are drawings."
    drawn = [replace(one, data_caveat=caveat) for one in results]
    assert limits(analyse(TUTORIAL, drawn)) == [caveat, *told]


def test_a_study_of_few_images_says_so_first() -> None:
    analysis = analyse(TUTORIAL, study(BASE, train_images=2000))
    assert analysis.few_images == "2,000 of 50,000 images"
    assert analysis.headline[0].startswith("Trained on only 2,000 of 50,000 images; ")
    assert analyse(TUTORIAL, study(BASE)).few_images == ""
    # All of them, also by number, are not few.
    small = str(ROOT / "tests" / "small.py")
    for validation, number, few in (("test", 500, ""), ("holdout", 500, ""), ("test", 499, "499")):
        config = Config(small, dataset="synthetic", train_images=number, validation=validation)
        data = resolve(config).data
        asked = study(BASE, train_images=number)
        analysis = analyse(TUTORIAL, [replace(run, total_images=data.total) for run in asked])
        of_all = f"{few} of 500 images" if few else ""
        assert analysis.few_images == of_all
        assert data.heading.split(":")[0] == ", ".join(filter(None, ["synthetic", of_all]))


def test_a_mixture_of_machines_is_named() -> None:
    places = [{"node": "one", "processor": "Xeon"}] * 5 + [{"node": "two", "processor": "EPYC"}] * 4
    results = [
        replace(run, **place)  # type: ignore[arg-type]
        for run, place in zip(study(BASE), places, strict=True)
    ]
    assert machines_of(results) == "5 runs on one (Xeon); 4 runs on two (EPYC)"
    mixture = "What difference the processor made: it was not the same for all runs."
    assert mixture in limits(analyse(TUTORIAL, results))
    assert mixture not in limits(analyse(TUTORIAL, results[:5]))


def test_the_order_is_balanced_over_variants() -> None:
    cells = Grid(["base", "bn", "dropout"], range(6), [0.001]).cells(Config())
    for place in range(3):
        variants = [cell.variant for cell in cells[place::3]]
        assert sorted(variants) == sorted(["base", "bn", "dropout"] * 2)
    assert [cell.seed for cell in cells] == [seed for seed in range(6) for _ in range(3)]
