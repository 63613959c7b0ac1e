"""`compare --outcome` of runs, names and tables as odd as people have them."""

import json
import math
import re
import sqlite3
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from conftest import Answer, runs_in
from test_any_runs import ASK, A, B, artifact, frame, make_pairs, make_run, not_counted, of_frame

from pipeline import Outcome, compare
from pipeline.errors import InputError
from pipeline.outcome import outcomes_of
from pipeline.report.figures import looks_of
from pipeline.report.runs_analysis import noun_of
from pipeline.runs.histories import read_histories

NAMES = [
    *("$x_1$ and $", r"$\frac{", "a|b", "a b", "a/b", "a`b", 'a"b', "a=b", "<b>x</b>", "ünï→😀"),
    *("*x*", "a\nb", "\x1b[31mred", "  padded  ", "y" * 6000, "y" * 5999 + "z"),
]


@pytest.mark.parametrize("values", [NAMES, [1, 2.5, "1e3"], [True, False]])
def test_variants_have_any_name(
    pipeline: Callable[..., Answer], tmp_path: Path, values: list[object]
) -> None:
    for seed in range(3):
        for place, value in enumerate(values):
            make_run({"model": value, "seed": seed}, {"auc": place + A[seed]})
    answer = pipeline("compare", *ASK)
    assert answer.status == 0, answer.err
    assert not answer.err
    assert "\x1b" not in answer.out
    assert len(answer.out) < 8000  # values of 6,000 characters are cut
    (run,) = runs_in(tmp_path, "comparison")
    effects = json.loads(artifact(tmp_path, "effects.json"))["effects"]
    assert len(effects) == len(values) - 1
    measured = [round(one["difference"]) for one in effects]
    assert len(set(measured)) == len(values) - 1  # none is taken for another
    # As metrics of the comparison's run, by names that MLflow takes.
    found = [value for name, value in run.data.metrics.items() if "_vs_" in name]
    assert sorted(map(round, found)) == sorted(measured)
    # Names are no markup, neither in the report nor in the description.
    page, description = artifact(tmp_path, "report.md"), run.data.tags["mlflow.note.content"]
    if "*x*" in values:
        for text in (page, description):
            assert r"odel \*x\* instead of" in text
            assert r"odel \<b>x\</b> instead of" in text
        assert r"| a\|b |" in page
    assert len(description) <= 8000


def test_numbers_are_named_as_numbers() -> None:
    table = frame().replace({"model": {"a": 0, "b": 1}})
    report = of_frame(table, baseline="1.0")
    assert report.analysis.variants == ["model=1", "model=0"]
    assert report.analysis.headline[0].startswith("Model 0 instead of 1 lowers auc")
    assert of_frame(table, baseline=0.0).analysis.variants == ["model=0", "model=1"]
    with pytest.raises(InputError, match="no variant is 'a,b'; baseline must be one of a, b"):
        of_frame(frame(), baseline="a,b")
    trees = of_frame(frame().replace({"model": {"a": "stumps", "b": "trees"}}))
    assert trees.analysis.headline[0].startswith("Model trees instead of stumps raises auc")
    # Texts are sorted by the numbers in them.
    many = pd.concat([frame().replace({"model": {"b": name}}) for name in ("m10", "m9")])
    assert of_frame(many, baseline="m9").analysis.variants == ["m9", "a", "m10"]
    assert of_frame(many.query("model != 'a'")).analysis.variants == ["m9", "m10"]


def test_as_many_variants_as_there_may_be_are_told_apart() -> None:
    rows = [
        {"model": f"m{n}", "seed": seed, "auc": n + seed / 7 + seed * n / 99}
        for n in range(24)
        for seed in range(3)
    ]
    report = of_frame(pd.DataFrame(rows))
    looks = looks_of(report.analysis)
    assert len({tuple(map(str, look.values())) for look in looks.values()}) == 24
    drawn = {(look["color"], look["marker"], look["markerfacecolor"]) for look in looks.values()}
    assert len(drawn) == 24
    sized = pd.DataFrame(rows).assign(size=lambda table: table["model"] + "!")
    named = of_frame(sized).analysis
    assert named.headline[-1].endswith("m3! (m3), m4! (m4) and 19 more.")
    rows.append({"model": "m24", "seed": 0, "auc": 1.0})
    with pytest.raises(InputError, match="by has 25 variants"):
        of_frame(pd.DataFrame(rows))


@pytest.mark.parametrize(
    "name", ["run", "variant", "pair", "run_id", "step", "lr", "outcome", "metrics.auc", "a/b c"]
)
def test_a_metric_has_any_name(pipeline: Callable[..., Answer], name: str) -> None:
    for seed in range(5):
        for model, values in (("a", A), ("b", B)):
            make_run({"model": model, "seed": seed}, {name: [(0, 0.5), (1, values[seed])]})
    answer = pipeline("compare", "--outcome", name, *ASK[2:])
    assert answer.status == 0, answer.err
    assert f"Whether model b instead of a changes {name} is not settled: +0.028" in answer.out


@pytest.mark.parametrize(
    ("size", "said"),
    [
        (1e-300, "nowhere above 1e-250, which is too small to compute with"),
        (1e300, r"no run can be compared; .* diverged: its auc is \d"),
        (1e200, ""),
        (1e-12, ""),
    ],
)
def test_outcomes_of_any_size(size: float, said: str) -> None:
    table = frame(list(np.multiply(A, size)), list(np.multiply(B, size)))
    if said:
        with pytest.raises(InputError, match=said):
            of_frame(table)
    else:
        low, high = of_frame(table).effects["interval"][0]
        expected = of_frame(frame()).effects["interval"][0]
        assert (low / size, high / size) == pytest.approx(expected, rel=1e-6)


def test_so_few_runs_can_not_tell_and_enough_would() -> None:
    report = of_frame(frame(A[:4], B[:4]))
    assert "4 seeds can't tell, about 5 would" in str(report)
    unpaired = of_frame(frame(A[:4], B[:4]), pair="none")
    assert "4 runs can't tell, about 5 would" in str(unpaired)
    assert "seed" not in "".join(unpaired.analysis.headline)


def test_a_variant_of_which_no_run_counts_is_named() -> None:
    lost = pd.DataFrame([{"model": "c", "seed": n, "auc": math.inf} for n in range(3)])
    headline = of_frame(pd.concat([frame(), lost])).analysis.headline
    assert "Not counted: every run of c, which has failed, diverged or measured no auc." in headline


def test_runs_of_two_seeds_are_all_counted_as_independent_samples() -> None:
    report = of_frame(frame(A[:2], B[:2]), pair="none")
    assert len(report.runs) == 4
    # What only a few of many have is another setting all the same.
    few = of_frame(frame(batch=[32] * 18 + [64] * 2), pair="none")
    assert set(few.unused.values()) == {"also differ in batch: 32, 64; only 32 is compared"}


def test_pairs_of_several_keys_are_not_confused() -> None:
    rows = [
        {"model": model, "data": data, "fold": fold, "auc": value}
        for model, shift in (("a", 0), ("b", 1))
        for value, (data, fold) in enumerate([("x, y", "z"), ("x", "y, z"), ("x", "y")], shift)
    ]
    report = of_frame(pd.DataFrame(rows), pair=["data", "fold"])
    assert report.effects["seeds"][0] == 3
    assert report.analysis.noun == "pair"


@pytest.mark.parametrize("text", ["", " ", "None", "none", "null", "NaN", "<NA>", " None "])
def test_a_pair_that_is_missing_is_none(text: str) -> None:
    missing = pd.DataFrame({"model": ["a", "b"], "seed": text, "auc": [0.1, 0.9]})
    report = of_frame(pd.concat([frame(), missing], ignore_index=True))
    assert report.unused == {"row 20": "has no seed", "row 21": "has no seed"}


def test_words_for_pairs() -> None:
    assert noun_of(["params.seed"]) == "seed"
    assert noun_of(["tags.Fold"]) == "fold"
    for odd in ("batch", "city", "box", "seeds", "my_fold", "ß", "none", "RUN"):
        assert noun_of([f"params.{odd}"]) == "pair"
    assert noun_of([]) == "run"


@pytest.mark.parametrize("step", [math.inf, 1e300, 1.5, np.int32(1), np.float32(1)])
def test_steps_that_are_no_numbers_get_one_line(
    pipeline: Callable[..., Answer], step: float
) -> None:
    for seed in range(2):
        for model in ("a", "b"):
            make_run({"model": model, "seed": seed}, {"auc": [(step, A[seed])]})  # type: ignore[list-item]
    answer = pipeline("compare", *ASK)
    assert answer.status == 2
    assert re.match("error: no run can be compared; 4 runs: logged auc with a step ", answer.err)
    assert answer.err.endswith("; log step=int(step)\n")


def test_a_long_history_takes_no_memory_beyond_its_curve(tmp_path: Path) -> None:
    run_id, count = make_run({}, {}), 60_000
    database = tmp_path / "mlflow.db"
    with sqlite3.connect(database) as connection:
        rows = ((run_id, "auc", n, 1_700_000_000_000 + n, n / count) for n in range(count))
        connection.executemany(
            "INSERT INTO metrics (run_uuid, key, step, timestamp, value, is_nan)"
            " VALUES (?, ?, ?, ?, ?, 0)",
            rows,
        )
    read_histories([run_id], Outcome("loss"))  # imports what it needs
    tracemalloc.start()
    one = read_histories([run_id], Outcome("auc"))[run_id]
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert one.value == (count - 1) / count
    assert (one.length, len(one.curve)) == (count, 200)
    assert (one.curve[0][0], one.curve[-1][0]) == (0, count - 1)
    assert most < 200 * count  # bytes; a Metric of MLflow's takes more, for each step


TABLES: dict[str, Callable[[pd.DataFrame], Any]] = {
    "with the pair as its index": lambda table: table.set_index("seed"),
    "with two index levels": lambda table: table.set_index(["model", "seed"]),
    "categorical": lambda table: table.astype({"model": "category", "seed": "category"}),
    "nullable": lambda table: table.convert_dtypes(),
    "of Arrow's types": lambda table: table.convert_dtypes(dtype_backend="pyarrow"),
    "of texts": lambda table: table.astype(str),
    "of objects": lambda table: table.astype(object),
    "with a status of its own": lambda table: table.assign(run_id=range(20), status="ok"),
    "with long ids": lambda table: table.assign(
        run_id=[f"experiment-{n}" for n in range(20)], status="FINISHED"
    ),
}


@pytest.mark.parametrize("kind", TABLES)
def test_tables_of_any_kind(kind: str) -> None:
    report = of_frame(TABLES[kind](frame()))
    expected = of_frame(frame())
    assert report.effects["interval"][0] == pytest.approx(expected.effects["interval"][0])
    assert report.runs["run"].is_unique


def test_tables_of_other_libraries() -> None:
    pyarrow = pytest.importorskip("pyarrow")
    report = of_frame(pyarrow.Table.from_pandas(frame()))
    assert len(report.runs) == 20
    with pytest.raises(InputError, match="it must be a table of pandas"):
        of_frame(type("Odd", (), {"columns": ["auc"]})())
    with pytest.raises(InputError, match="unless they are a table of pandas"):
        of_frame(frame().to_dict("records"))


def test_a_table_of_mlflow_is_read_as_the_store_is() -> None:
    make_pairs(A[:6], B[:6])
    make_run({"model": "a", "seed": 7}, {"auc": 0.3}, status="RUNNING")
    make_run({"model": "a", "seed": 8}, {"auc": 0.3}, status="FAILED")
    make_run({"model": "a", "seed": 0}, {"auc": 0.99})
    asked: dict[str, Any] = {"by": "params.model", "pair": "params.seed"}
    for found in (mlflow.search_runs(), mlflow.search_runs(order_by=["start_time ASC"])):
        report = compare(found, outcome="metrics.auc", **asked)
        stored = compare(experiment="Default", outcome="auc", **asked)
        assert report.unused == stored.unused
        assert report.effects["interval"][0] == stored.effects["interval"][0]
        assert report.curves.columns.tolist() == stored.curves.columns.tolist()
        assert report.analysis.headline[1:] == [
            line.replace("no auc", "no metrics.auc") for line in stored.analysis.headline[1:]
        ]


def test_a_table_says_nothing_of_steps_or_of_looks_that_it_can_not_know() -> None:
    report = of_frame(frame(), planned=10)
    assert report.about == "auc. 20 runs with 10 seeds."
    assert "last step" not in report.report
    assert "no earlier comparison has seen" not in report.report
    with pytest.raises(InputError, match="value is for runs in a store"):
        of_frame(frame(), value="max")


def test_other_outcomes_that_are_missing_are_told_from_those_that_diverged() -> None:
    notes = of_frame(
        frame(loss=[math.inf, math.nan, *range(18)]), outcome="auc,loss"
    ).analysis.notes
    assert (
        "loss is missing, or no finite number, in 2 runs, which are not compared by it: row 0,"
        in ("".join(notes))
    )


def test_a_plan_is_for_pairs_that_all_variants_have() -> None:
    rows = [
        {"x": x, "y": y, "seed": seed, "auc": seed % 3 + x + seed * y / 9}
        for (x, y), seeds in {
            (0, 0): range(10),
            (0, 1): range(10),
            (1, 0): range(5, 15),
            (1, 1): range(5, 15),
        }.items()
        for seed in seeds
    ]
    with pytest.raises(InputError, match="found: 15 seeds, which not all variants have"):
        of_frame(pd.DataFrame(rows), by=["x", "y"], planned=10)


def test_outcomes_are_checked() -> None:
    assert outcomes_of("auc", value=str(2**63 - 1))[0].value == 2**63 - 1
    assert Outcome("auc", unit="a\n b").unit == "a b"
    for wrong in ({"value": 2**63}, {"scale": None}, {"scale": 1e31}, {"margin": math.inf}):
        with pytest.raises(InputError):
            Outcome("auc", **wrong)


@pytest.mark.parametrize(("option", "given"), [("scale", 2), ("value", "max"), ("planned", 3)])
def test_options_for_others_runs_are_not_ignored(option: str, given: object) -> None:
    with pytest.raises(InputError, match=f"{option} is for anybody's runs"):
        compare(**{option: given})  # type: ignore[arg-type]


def test_reasons_name_runs_that_share_the_beginning_of_an_id(
    pipeline: Callable[..., Answer], tmp_path: Path
) -> None:
    make_pairs(A[:2], B[:2])
    make_run({"model": "a", "seed": 5}, {"auc": 0.1})
    assert pipeline("compare", *ASK).status == 0
    assert list(not_counted(tmp_path).values()) == [
        "without partner: no run of b that counts has params.seed 5"
    ]


def test_a_plan_does_not_outlive_what_it_has_read(
    pipeline: Callable[..., Answer], tmp_path: Path
) -> None:
    make_pairs(A[:5], B[:5])
    planned = ("compare", *ASK, "--planned", "5")
    assert pipeline(*planned).status == 0
    assert pipeline(*planned).status == 0
    run = mlflow.search_runs(filter_string="params.model = 'b'", output_format="list")[0]
    mlflow.MlflowClient().log_metric(run.info.run_id, "auc", 0.9, step=1)
    assert "has seen these runs, which have logged more since" in pipeline(*planned).err
    for content in ('{"runs": 5, "question": {}}', "[1]", None):
        for file in (tmp_path / "mlruns").rglob("comparison.json"):
            file.unlink() if content is None else file.write_text(content)
        answer = pipeline(*planned)
        assert answer.status == 2
        assert "has lost its comparison.json, and may have seen these runs" in answer.err


def test_a_tag_and_a_parameter_of_one_meaning_are_no_difference() -> None:
    for seed in range(3):
        for model in ("a", "b"):
            tags = {"model": model, "seed": str(seed)}
            make_run({"model": model, "seed": seed}, {"auc": A[seed]}, tags=tags)
    report = compare(experiment="Default", outcome="auc", by="tags.model", pair="tags.seed")
    assert len(report.analysis.headline) == 1


def test_a_repetition_with_another_setting_is_named_as_such() -> None:
    table = pd.concat([frame(), frame().query("model == 'a'").assign(alpha=2)], ignore_index=True)
    table["alpha"] = table["alpha"].where(table["model"] == "a", 5).fillna(1)
    report = of_frame(table.query("seed < 3"))
    assert set(report.unused.values()) == {
        f"repeated by row {n}, with another alpha" for n in (6, 7, 8)
    }
