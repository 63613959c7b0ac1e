"""Which variants a report compares, and what it calls their differences."""

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from invented import TUTORIAL, ablation, study
from matplotlib.transforms import Bbox

from pipeline.ablation.definition import Ablation
from pipeline.report.analysis import analyse
from pipeline.report.contrasts import contrasts
from pipeline.report.figures import study_figures
from pipeline.report.files import effect_metrics, effects, report_files
from pipeline.report.findings import NetworkAnalysis
from pipeline.report.sections import limits
from pipeline.statistics.comparisons import compare_paired
from pipeline.statistics.outcomes import OutcomeMeasure
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
    return {one.label: one.words for one in made}


def report(of: Ablation, *variants: str) -> NetworkAnalysis:
    return analyse(of, study({variant: [0.4, 0.5] for variant in variants or of.variants}, of=of))


def test_the_comparisons_of_the_tutorial_are_those_of_its_published_results() -> None:
    assert [(one.label, one.name, one.subject, one.effect) for one in contrasts(TUTORIAL)] == [
        ("bn − base", "bn_vs_base", "BatchNorm", ""),
        ("dropout − bn", "dropout_vs_bn", "Dropout on top of BatchNorm", ""),
        ("dropout − base", "dropout_vs_base", "going from base to dropout", ""),
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
        "no_both − full": "going from full to no_both",
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
        "both − plain": "going from plain to both",
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
        "gelu_bn − relu": "going from relu to gelu_bn",
        "(gelu_bn − gelu) − (relu_bn − relu)": "GELU instead of ReLU on BatchNorm's effect",
    }


def test_three_switches_have_six_interactions_with_names_of_their_own() -> None:
    made = contrasts(ablation(THREE, words=WORDS))
    words = {one.label: one.subject for one in made}
    assert words["bn − plain"] == "BatchNorm without squeeze-and-excitation or mixup"
    assert words["bn_se − se"] == "BatchNorm on top of squeeze-and-excitation but without mixup"
    assert words["all − se_mix"] == "BatchNorm on top of squeeze-and-excitation and mixup"
    assert words["all − plain"] == "going from plain to all"
    interactions = {one.name: one.words for one in made if one.effect}
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
        "se − bn": "going from bn to se",
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
        ("going from a to things", "Going from a to things raises", "to things changes"),
        ("mixup on top of skip connections", "connections raises", "skip connections changes"),
        ("squeeze-and-excitation", "Squeeze-and-excitation raises", "excitation changes"),
        ("A, B and C together", "A, B and C together raise", "A, B and C together change"),
        ("A of x, B and C together", "A of x, B and C together raise", "C together change"),
        ("a bias", "A bias raises", "Whether a bias changes"),
    ],
)
def test_sentences_about_any_change_are_english(subject: str, raises: str, unsettled: str) -> None:
    accuracy = OutcomeMeasure("validation accuracy", "points", scale=100, effect_of_interest=0.01)
    low = [0.40, 0.41, 0.42, 0.43]
    settled = sentence(subject, compare_paired([0.50, 0.52, 0.52, 0.54], low, accuracy), accuracy)
    assert f"{raises} validation accuracy by" in settled
    open_ = sentence(subject, compare_paired([0.50, 0.32, 0.52, 0.34], low, accuracy), accuracy)
    assert f"{unsettled} validation accuracy is not settled" in open_
    equal = sentence(subject, compare_paired(low, low, accuracy), accuracy)
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


def test_eight_variants_look_different_in_every_figure() -> None:
    figures = study_figures(report(ablation(THREE, words=WORDS)))
    lines = [line for line in figures["learning_curves"].axes[0].lines if line.get_label()]
    looks = [(line.get_color(), line.get_marker(), str(line._dash_pattern)) for line in lines]  # type: ignore[attr-defined]
    assert len(lines) == 8
    assert [len(set(each)) for each in zip(*looks, strict=True)] == [8, 8, 8]
    for figure in figures.values():
        figure.draw_without_rendering()


def test_figures_name_effects_in_the_words_of_the_sentences_and_the_variants_below() -> None:
    long = {**WORDS, "mixup": "mixup of two images with a random share", "se": "cost $ and $^{"}
    analysis = report(ablation(THREE, words=long))
    figure = study_figures(analysis)["effects"]
    figure.draw_without_rendering()
    axis = figure.axes[0].yaxis
    big, small = axis.get_majorticklabels(), axis.get_minorticklabels()
    said = [" ".join(label.get_text().split()) for label in big]
    assert said[0] == "BatchNorm without cost $ and $^{ or mixup of two images with a random share"
    assert said[2].startswith("Mixup of two images")
    assert [label.get_text() for label in small[-1:]] == [
        "(all − bn_mix) − (se_mix − mix), 2 seeds"
    ]
    for words, finding in zip(said, analysis.at_rates[0].findings["val_accuracy"], strict=True):
        assert words[1:] == finding.contrast.words[1:]
        assert finding.contrast.subject[1:] in finding.sentence
    boxes = [
        Bbox.union([label.get_window_extent() for label in both])
        for both in zip(big, small, strict=True)
    ]
    assert not any(one.overlaps(below) for one, below in pairwise(boxes))
    assert all(label.get_visible() for label in small)
    (drawn,) = figure.axes
    right = drawn.get_window_extent().x0
    assert all(0 <= box.x0 < box.x1 < right for box in boxes)


def test_a_report_says_what_each_variant_is() -> None:
    assert report(TUTORIAL).variants_in_words == (
        "Variants: base (without BatchNorm or Dropout), bn (BatchNorm),"
        " dropout (BatchNorm and Dropout), base_dropout (Dropout)."
    )
    assert report(TUTORIAL, "bn", "dropout").variants_in_words == (
        "Variants: bn (BatchNorm), dropout (BatchNorm and Dropout)."
    )
    same = {"batch_norm": True}
    own = ablation(
        {
            "small": {"width": 32, "activation": "relu", **same},
            "wide": {"width": 64, "activation": "relu", **same},
            "gelu": {"width": 32, "activation": "gelu", "label_smoothing": 0.1, **same},
        },
        words=WORDS,
    )
    assert report(own).variants_in_words == (
        "Variants: small (width 32 and ReLU), wide (width 64 and ReLU),"
        " gelu (width 32, GELU and label smoothing)."
    )
    assert report(ablation({"one": {"width": 32}})).variants_in_words == ""
    page = report_files(report(own), "SUBTITLE", {}, {})
    assert "SUBTITLE\n\nVariants: small (width" in page["report.md"].decode()
    assert "<br>\nVariants: small (width" in page["report.html"].decode()


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
    others = {"plain": {}, "se": {"plain": ("conv1.weight", 3)}}
    unlike = [replace(one, other_weights=others[one.config.variant]) for one in results]
    (line,) = (line for line in limits(analyse(of, unlike)) if "initial weights" in line)
    assert line == (
        "How much of an effect is due to other initial weights: in se, conv1.weight and 2 more"
        " parameters do not start out as in plain."
    )

    both = study({variant: [0.4, 0.5] for variant in ("se", "smooth")}, of=of)
    entries = {
        "se": {"plain": ("fc.bias", 1)},
        "smooth": {"plain": ("conv1.weight", 1), "se": ("fc.bias", 1)},
    }
    both = [replace(one, other_weights=entries[one.config.variant]) for one in both]
    (line,) = (line for line in limits(analyse(of, both)) if "initial weights" in line)
    assert line.endswith("in smooth, fc.bias does not start out as in se.")

    def page(*variants: str) -> str:
        return report_files(report(of, *variants), "", {}, {})["report.md"].decode()

    assert "different losses" not in page("plain", "se")
    assert "trained with different losses, which can't be compared" in page("plain", "smooth")


def test_runs_that_learned_nothing_are_counted_once_per_variant_and_in_each_effect() -> None:
    accuracies = {
        "base": [0.01, 0.41, 0.01],
        "bn": [0.4, 0.01, 0.42],
        "dropout": [0.5, 0.5, 0.52],
    }

    def said(accuracies: Mapping[str, list[float]]) -> list[str]:
        results = [
            replace(one, learning="stuck") if one.history[-1].val_accuracy < 0.02 else one
            for one in study(accuracies)
        ]
        analysis = analyse(TUTORIAL, results)
        assert effects(analysis)["headline"] == analysis.headline
        return analysis.headline

    bn, dropout, both, *notes = said(accuracies)
    assert bn.startswith(
        "Whether BatchNorm changes validation accuracy is not settled: +13.3 points in 3 seeds,"
        " which can't tell, and 1 of 3 runs of bn and 2 of 3 runs of base have learned nothing."
    )
    assert "can't tell, and 1 of 3 runs of bn has learned nothing. " in dropout
    assert "can't tell, and 2 of 3 runs of base have learned nothing. " in both
    assert [note.partition(":")[0] for note in notes] == [
        "2 of 3 runs of base have learned nothing",
        "1 of 3 runs of bn has learned nothing",
    ]
    settled, *_ = said({"base": [0.011, 0.012, 0.01], "bn": [0.4, 0.4, 0.401]})
    assert settled == (
        "BatchNorm raises validation accuracy by 38.9 points (95 % CI 38.5 to 39.4, 3 seeds),"
        " where 3 of 3 runs of base have learned nothing."
    )
    alone, _ = said({"base": [0.01], "bn": [0.4]})
    assert alone.endswith("not settled, and 1 of 1 run of base has learned nothing.")
    assert not any("nothing" in line for line in said({"base": [0.4, 0.41], "bn": [0.5, 0.5]}))
