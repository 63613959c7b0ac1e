"""Which variants a report compares, and what it calls their differences."""

from collections.abc import Mapping
from itertools import pairwise

import numpy as np
import pytest
from invented import TUTORIAL, ablation, study

from pipeline.ablation.definition import Ablation
from pipeline.report.analysis import analyse
from pipeline.report.contrasts import contrasts
from pipeline.report.figures import study_figures
from pipeline.report.files import effect_metrics, report_files
from pipeline.report.findings import Analysis
from pipeline.report.sections import limits
from pipeline.statistics.comparisons import Outcome, compare
from pipeline.statistics.sentences import sentence

WORDS = {
    "batch_norm": "BatchNorm",
    "se": "squeeze-and-excitation",
    "mixup": "mixup",
    "skip": "skip connections",
    "activation": {"relu": "ReLU", "gelu": "GELU"},
    "label_smoothing": "label smoothing",
}
ON = {"batch_norm": True, "se": True, "mixup": True}
THREE = {
    "plain": {},
    "bn": {"batch_norm": True},
    "se": {"se": True},
    "mix": {"mixup": True},
    "bn_se": {"batch_norm": True, "se": True},
    "bn_mix": {"batch_norm": True, "mixup": True},
    "se_mix": {"se": True, "mixup": True},
    "all": ON,
}


def said(variants: Mapping[str, Mapping[str, object]], **others: object) -> dict[str, str]:
    """What is compared, as the reader sees it, and in which words."""
    made = contrasts(ablation(variants, words=WORDS, **others))
    return {
        one.label: f"{one.subject} on {one.effect}" if one.effect else one.subject for one in made
    }


def report(of: Ablation, *variants: str) -> Analysis:
    return analyse(of, study({variant: [0.4, 0.5] for variant in variants or of.variants}, of=of))


def title(of: Ablation, *variants: str) -> str:
    page = report_files(report(of, *variants), "", {}, {})["report.md"].decode()
    return page.splitlines()[0].removeprefix("# ")


def test_the_comparisons_of_the_tutorial_are_those_of_its_published_results() -> None:
    assert [(one.label, one.name, one.subject, one.effect) for one in contrasts(TUTORIAL)] == [
        ("bn − base", "bn_vs_base", "BatchNorm", ""),
        ("dropout − bn", "dropout_vs_bn", "Dropout on top of BatchNorm", ""),
        ("dropout − base", "dropout_vs_base", "BatchNorm with Dropout", ""),
        ("base_dropout − base", "base_dropout_vs_base", "Dropout without BatchNorm", ""),
        (
            "(dropout − bn) − (base_dropout − base)",
            "interaction",
            "BatchNorm",
            "Dropout's effect",
        ),
    ]


def test_several_values_are_compared_with_that_of_the_baseline() -> None:
    activations = {name: {"activation": name} for name in ("relu", "gelu", "silu")}
    assert said(activations) == {
        "gelu − relu": "GELU instead of ReLU",
        "silu − relu": "activation silu instead of ReLU",
    }
    assert said({"narrow": {"width": 32}, "wide": {"width": 64}, "wider": {"width": 128}}) == {
        "wide − narrow": "width 64 instead of 32",
        "wider − narrow": "width 128 instead of 32",
    }
    assert said({"none": {"activation": None}, "gelu": {"activation": "gelu"}}) == {
        "gelu − none": "GELU"
    }
    assert said({"none": {"norm": None}, "gn": {"norm": "group"}}) == {"gn − none": "norm group"}


def test_what_is_left_out_is_compared_with_the_baseline_that_has_everything() -> None:
    variants = {
        "full": ON,
        **{f"no_{name}": {**ON, name: False} for name in ON},
        "no_both": {**ON, "batch_norm": False, "se": False},
    }
    assert said(variants) == {
        "no_batch_norm − full": "removing BatchNorm while keeping squeeze-and-excitation",
        "no_se − full": "removing squeeze-and-excitation while keeping BatchNorm",
        "no_mixup − full": "removing mixup",
        "no_both − no_se": "removing BatchNorm in the absence of squeeze-and-excitation",
        "no_both − no_batch_norm": "removing squeeze-and-excitation in the absence of BatchNorm",
        "no_both − full": "removing BatchNorm and squeeze-and-excitation",
        "(no_both − no_batch_norm) − (no_se − full)": (
            "removing BatchNorm on the effect of removing squeeze-and-excitation"
        ),
    }


def test_a_number_that_is_off_at_zero_is_a_switch() -> None:
    square: dict[str, dict[str, object]] = {
        "plain": {},
        "bn": {"batch_norm": True},
        "smooth": {"label_smoothing": 0.1},
        "both": {"batch_norm": True, "label_smoothing": 0.1},
    }
    assert said(square) == {
        "bn − plain": "BatchNorm without label smoothing",
        "smooth − plain": "label smoothing without BatchNorm",
        "both − smooth": "BatchNorm on top of label smoothing",
        "both − bn": "label smoothing on top of BatchNorm",
        "both − plain": "BatchNorm with label smoothing",
        "(both − bn) − (smooth − plain)": "BatchNorm on label smoothing's effect",
    }
    several = {f"s{n}": {"label_smoothing": n / 10} for n in (0, 1, 2)}
    assert said(several) == {
        "s1 − s0": "label smoothing 0.1",
        "s2 − s0": "label smoothing 0.2",
    }
    less = {"smooth": {"label_smoothing": 0.1}, "plain": {"label_smoothing": 0.0}}
    assert said(less) == {"plain − smooth": "removing label smoothing"}


def test_a_changed_value_is_named_with_what_both_have() -> None:
    square = {
        f"{name}{'_bn' * on}": {"activation": name, "batch_norm": on}
        for on in (False, True)
        for name in ("relu", "gelu")
    }
    assert said(square) == {
        "gelu − relu": "GELU instead of ReLU without BatchNorm",
        "relu_bn − relu": "BatchNorm with ReLU",
        "gelu_bn − relu_bn": "GELU instead of ReLU with BatchNorm",
        "gelu_bn − gelu": "BatchNorm with GELU",
        "gelu_bn − relu": "GELU with BatchNorm instead of ReLU",
        "(gelu_bn − gelu) − (relu_bn − relu)": "GELU instead of ReLU on BatchNorm's effect",
    }


def test_several_changes_at_once_are_told_from_one_on_top_of_another() -> None:
    variants = {
        "plain": {"activation": "relu", "se": True},
        "other": {"activation": "gelu", "se": False},
        "third": {"activation": "gelu", "se": True, "mixup": True},
    }
    assert said(variants) == {
        "other − plain": "GELU instead of ReLU and squeeze-and-excitation",
        "third − plain": "GELU with mixup instead of ReLU",
    }


def test_three_switches_have_six_interactions_with_names_of_their_own() -> None:
    made = contrasts(ablation(THREE, words=WORDS))
    words = {one.label: one.subject for one in made}
    assert words["bn − plain"] == "BatchNorm without squeeze-and-excitation or mixup"
    assert words["bn_se − se"] == "BatchNorm on top of squeeze-and-excitation but without mixup"
    assert words["all − se_mix"] == "BatchNorm on top of squeeze-and-excitation and mixup"
    assert words["all − plain"] == "BatchNorm, squeeze-and-excitation and mixup together"
    interactions = {one.name: f"{one.subject} on {one.effect}" for one in made if one.effect}
    assert interactions == {
        "interaction_bn_se": "BatchNorm without mixup on squeeze-and-excitation's effect",
        "interaction_bn_mix": "BatchNorm without squeeze-and-excitation on mixup's effect",
        "interaction_se_mix": "squeeze-and-excitation without BatchNorm on mixup's effect",
        "interaction_bn_se_bn_mix": "squeeze-and-excitation on top of BatchNorm on mixup's effect",
        "interaction_bn_se_se_mix": "BatchNorm on top of squeeze-and-excitation on mixup's effect",
        "interaction_bn_mix_se_mix": (
            "BatchNorm on top of mixup on squeeze-and-excitation's effect"
        ),
    }
    assert len({one.name for one in made}) == len(made) == 12 + 4 + 6


def test_named_comparisons_replace_those_that_follow_from_the_settings() -> None:
    named = (("se", "bn"), ("all", "plain", "everything"), ("mix", "plain"))
    assert said(THREE, comparisons=named) == {
        "se − bn": "squeeze-and-excitation instead of BatchNorm",
        "all − plain": "everything",
        "mix − plain": "mixup",
    }


@pytest.mark.parametrize(
    ("subject", "raises", "unsettled"),
    [
        ("BatchNorm", "BatchNorm raises", "Whether BatchNorm changes"),
        ("GELU instead of ReLU", "GELU instead of ReLU raises", "GELU instead of ReLU changes"),
        ("removing se blocks", "Removing se blocks raises", "Whether removing se blocks changes"),
        ("skip connections", "Skip connections raise", "Whether skip connections change"),
        ("mixup on top of skip connections", "connections raises", "skip connections changes"),
        ("squeeze-and-excitation", "Squeeze-and-excitation raises", "excitation changes"),
        ("A, B and C together", "A, B and C together raise", "A, B and C together change"),
        ("a bias", "A bias raises", "Whether a bias changes"),
    ],
)
def test_sentences_about_any_change_are_english(subject: str, raises: str, unsettled: str) -> None:
    accuracy = Outcome("validation accuracy", "points", scale=100)
    low = [0.40, 0.41, 0.42, 0.43]
    settled = sentence(subject, compare([0.50, 0.52, 0.52, 0.54], low, accuracy), accuracy)
    assert f"{raises} validation accuracy by" in settled
    open_ = sentence(subject, compare([0.50, 0.32, 0.52, 0.34], low, accuracy), accuracy)
    assert f"{unsettled} validation accuracy is not settled" in open_
    equal = sentence(subject, compare(low, low, accuracy), accuracy)
    assert f"{raises.replace('raise', 'leave')} validation accuracy unchanged" in equal


def test_an_interaction_is_the_difference_of_two_effects() -> None:
    of = ablation(THREE, words=WORDS)
    reached = {v: [0.40 + 0.01 * n, 0.42 + 0.02 * n, 0.43] for n, v in enumerate(THREE)}
    analysis = analyse(of, study(reached, of=of))
    assert analysis.main
    found = {one.contrast.name: one for one in analysis.main.findings["val_accuracy"]}
    expected = np.mean(
        np.subtract(np.subtract(reached["all"], reached["bn_se"]), reached["bn_mix"])
        + np.array(reached["bn"])
    )
    assert found["interaction_bn_se_bn_mix"].comparison.difference == pytest.approx(expected)
    assert "interaction_bn_se_low" in effect_metrics(analysis)


def test_the_title_asks_about_the_changes() -> None:
    three = ablation(THREE, words=WORDS)
    assert title(three, "plain", "bn") == "Does BatchNorm help?"
    assert title(three) == "Do BatchNorm, squeeze-and-excitation and mixup help?"
    left_out = ablation({"full": ON, "no_bn": {**ON, "batch_norm": False}}, words=WORDS)
    assert title(left_out) == "Does BatchNorm help?"
    values = {name: {"activation": name} for name in ("relu", "gelu", "silu")}
    assert title(ablation(values, words=WORDS), "relu", "gelu") == (
        "Does GELU instead of ReLU help?"
    )
    widths = ablation({f"w{n}": {"width": n} for n in (32, 64, 128)})
    assert title(widths) == "Does width 64 or 128 instead of 32 help?"
    more = ablation({f"w{n}": {"width": n} for n in (32, 64, 128, 256, 512)})
    assert title(more) == "Which of 4 changes help?"
    assert title(ablation({"no": {}, "yes": {"skip": True}}, words=WORDS)) == (
        "Do skip connections help?"
    )


def test_eight_variants_look_different_in_every_figure() -> None:
    figures = study_figures(report(ablation(THREE, words=WORDS)))
    lines = [line for line in figures["learning_curves"].axes[0].lines if line.get_label()]
    looks = [(line.get_color(), line.get_marker(), str(line._dash_pattern)) for line in lines]  # type: ignore[attr-defined]
    assert len(lines) == 8
    assert [len(set(each)) for each in zip(*looks, strict=True)] == [8, 8, 8]
    for name, figure in figures.items():
        figure.draw_without_rendering()
        boxes = [label.get_window_extent() for label in figure.axes[0].get_yticklabels()]
        if name == "effects":
            assert not any(one.overlaps(below) for one, below in pairwise(boxes))


def test_a_variant_keeps_its_colour_when_others_are_left_out() -> None:
    of = ablation(THREE, words=WORDS)

    def colour(*variants: str) -> object:
        (line,) = (
            line
            for line in study_figures(report(of, *variants))["learning_curves"].axes[0].lines
            if str(line.get_label()).startswith("all ")
        )
        return line.get_color()

    assert colour("plain", "all") == colour()


def test_what_variants_do_not_share_is_told() -> None:
    of = ablation({"plain": {}, "se": {"se": True}, "smooth": {"label_smoothing": 0.1}})
    results = study({variant: [0.4, 0.5] for variant in ("plain", "se")}, of=of)
    assert not any("initial weights" in line for line in limits(analyse(of, results)))
    others = {"plain": "", "se": "conv1.weight, conv2.weight, fc.weight"}
    unlike = [
        one._replace(tags={**one.tags, "other_weights": others[one.config.variant]})
        for one in results
    ]
    (line,) = (line for line in limits(analyse(of, unlike)) if "initial weights" in line)
    assert line == (
        "How much of an effect is due to other initial weights: in se, conv1.weight and 2 more"
        " parameters do not start out as in plain."
    )

    both = study({variant: [0.4, 0.5] for variant in ("se", "smooth")}, of=of)
    entries = {"se": "fc.bias", "smooth": "conv1.weight, fc.bias of se"}
    both = [
        one._replace(tags={**one.tags, "other_weights": entries[one.config.variant]})
        for one in both
    ]
    (line,) = (line for line in limits(analyse(of, both)) if "initial weights" in line)
    assert line.endswith("in smooth, fc.bias does not start out as in se.")

    def page(*variants: str) -> str:
        return report_files(report(of, *variants), "", {}, {})["report.md"].decode()

    assert "different losses" not in page("plain", "se")
    assert "trained with different losses, which can't be compared" in page("plain", "smooth")


def test_runs_that_learned_nothing_are_named() -> None:
    results = study({"base": [0.01, 0.01], "bn": [0.4, 0.5]})
    results[0] = results[0]._replace(tags={**results[0].tags, "learning": "stuck"})
    analysis = analyse(TUTORIAL, results)
    assert (
        "1 of 4 runs learned nothing (their training loss is still that of a uniform"
        in (analysis.headline[-1])
    )
    assert "base-seed0)" not in analysis.headline[-1]
    assert ": base-seed0." in analysis.headline[-1]
