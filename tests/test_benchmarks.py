"""The benchmark measures what it says, on any machine."""

import json
import re
from pathlib import Path

import pytest
from conftest import ROOT, run

from benchmarks.figures import Target, judge, spread, target_lines


@pytest.mark.thorough
def test_the_benchmark_compares_with_the_tutorials_loop(tmp_path: Path) -> None:
    arguments = ["--quick", "--dataset", "synthetic", "--output", str(tmp_path)]
    answer = run(tmp_path, "python", "-m", "benchmarks.speed", *arguments)
    assert answer.status == 0, answer.err
    figures = json.loads((tmp_path / "speed.json").read_text())
    for name, contestant in figures["contestants"].items():
        assert contestant["what"] in answer.out
        assert f" {contestant['images_per_second_while_warming_up']:,.0f} " in answer.out
        assert sum(contestant["stages"].values()) == pytest.approx(1, abs=0.05)
        assert 0 < contestant["fraction_of_limit"] < 1
        assert (contestant["ratio"]["median"] > 1) == (name != "tutorial")
    assert figures["mflop_per_image"] == pytest.approx(19.4, abs=0.05)
    # What oneDNN calls a convolution, or whatever else computes it, was found.
    assert 0.1 < figures["validation_products_share"] < 1
    seconds = figures["seconds"]
    assert 0 < seconds["--help"]["median"] < seconds["from command to first batch"]["median"]
    assert figures["run"]["a run beside its epochs"]["median"] > 0
    assert 2 < figures["run"]["MB that a run leaves beside its model"]["median"] < 3
    targets = {row["what"]: row for row in figures["targets"]}
    _, told = answer.out.split("\ntarget ")
    for what, row in targets.items():
        (line,) = (line for line in told.splitlines() if line.startswith(what))
        assert line.endswith("  met" if row["met"] else "  missed")
    assert "ratio of validation" in targets
    assert "seconds of --help" in targets
    assert "MB of one run of 1 epoch" not in targets  # --quick runs no whole commands
    assert (tmp_path / "speed.png").read_bytes().startswith(b"\x89PNG")


def test_a_target_is_met_or_missed_by_the_median_and_left_out_if_it_was_not_measured() -> None:
    figures = {"speed": {"slow": spread([1, 2, 9]), "fast": 3.0}}
    targets = [
        Target("slow, least", "at least", 2, ("speed", "slow")),
        Target("slow, most", "at most", 1.9, ("speed", "slow")),
        Target("fast, least", "at least", 3.1, ("speed", "fast")),
        Target("fast, most", "at most", 3, ("speed", "fast")),
        Target("not measured", "at least", 1, ("speed", "other")),
    ]
    rows = judge(targets, figures)
    assert [row["met"] for row in rows] == [True, False, False, True]
    _, *lines = (" ".join(line.split()) for line in target_lines(rows))
    assert lines[0] == "slow, least at least 2 2 (1 to 9) met"
    assert lines[1] == "slow, most at most 1.9 2 (1 to 9) missed"


@pytest.mark.thorough
def test_every_attempt_at_a_faster_step_is_measured(tmp_path: Path) -> None:
    arguments = ["--rounds", "1", "--dataset", "synthetic"]
    answer = run(tmp_path, "python", "-m", "benchmarks.attempts", *arguments)
    assert answer.status == 0, answer.err
    ratios = {
        line[:42].strip(): float(line.split("ratio ")[1].split()[0])
        for line in answer.out.splitlines()
        if "ratio " in line
    }
    assert len(ratios) > 7
    assert ratios["as it is"] == 1


def test_variants_that_share_a_seed_count_once_in_the_interval_over_all(tmp_path: Path) -> None:
    done = [
        {"way": way, "variant": variant, "seed": seed, "epochs": 1, "val_accuracy": [accuracy]}
        for variant, seeds in {"base": 4, "bn": 3}.items()
        for seed in range(seeds)
        for way, accuracy in {"fp32": 0.5, "bf16": 0.5 + seed / 100}.items()
    ]
    path = tmp_path / "accuracies.json"
    path.write_text(json.dumps(done))
    arguments = ["--seeds", "0", "--epochs", "1", "--output", str(path)]
    answer = run(tmp_path, "python", "-m", "benchmarks.same_results", *arguments)
    # t's 97.5 % quantile for 2 degrees of freedom is 4.303, for 3 it is 3.182.
    assert answer.out.splitlines() == [
        "bf16 minus fp32, all: +1.00 points, 95 % CI -1.48 to +3.48, 3 seeds",
        "bf16 minus fp32, base: +1.50 points, 95 % CI -0.55 to +3.55, 4 seeds",
        "bf16 minus fp32, bn: +1.00 points, 95 % CI -1.48 to +3.48, 3 seeds",
    ]


@pytest.mark.parametrize("jobs", [pytest.param("1", marks=pytest.mark.thorough), "2"])
def test_many_runs_are_timed_in_processes_that_import_no_mlflow(tmp_path: Path, jobs: str) -> None:
    for name in ("mlflow", "typer"):  # the first that are found
        (tmp_path / f"{name}.py").write_text("raise SystemExit('imported')")
    arguments = ["--dataset", "synthetic", "--train-images", "200", "--epochs", "1", "--seeds", "1"]
    more = ["--variants", "base,bn", "--jobs", jobs, "--output", "figures.json"]
    answer = run(tmp_path, "python", "-m", "benchmarks.many_runs", *arguments, *more)
    assert answer.status == 0, answer.err
    assert "Epoch 1" not in answer.err  # no progress bars, which take time
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["train_images"] == 200
    assert figures["val_accuracy"].keys() == {"base", "bn"}
    epoch = figures["epoch_seconds"]["median"]
    assert 0 < figures["training_seconds"]["median"] < epoch
    assert figures["total_seconds"] > figures["first_epoch_seconds"] + epoch
    assert figures["targets"] == []  # they are for a GPU
    assert {"commit", "machine", "versions"} < figures.keys()
    for variant, accuracy in figures["val_accuracy"].items():
        (line,) = (line for line in answer.out.splitlines() if f" of {variant} " in line)
        assert line.endswith(f" {accuracy:.2%}")


@pytest.mark.parametrize(
    "steps", [["precision", "rates"], pytest.param([], marks=pytest.mark.thorough)]
)
def test_the_commands_for_a_gpu_run_on_a_cpu_too(tmp_path: Path, steps: list[str]) -> None:
    answer = run(tmp_path, "python", "-m", "benchmarks.gpu_day", "day", *steps, "--small")
    assert answer.status == 0, answer.out
    assert not re.search("status [^0]", answer.out)
    day = tmp_path / "day"
    assert json.loads((day / "origin.json").read_text())["versions"]["torch"]
    assert json.loads((day / "many_fp32.json").read_text())["precision"] == "fp32"
    assert "0.0003" in (day / "rates" / "report.md").read_text()
    assert (day / "rates.db").stat().st_size
    for name in () if steps else ("speed", "many_8"):
        assert json.loads((day / f"{name}.json").read_text())["commit"]


@pytest.mark.thorough
def test_compare_is_timed_on_runs_of_others_and_its_false_alarms_are_counted(
    tmp_path: Path,
) -> None:
    few = ["--runs", "12", "--steps", "3", "--times", "1"]
    timed = run(ROOT, "python", "-m", "benchmarks.comparing", *few)
    assert timed.status == 0, timed.err
    assert re.search(
        r"^12 runs of 3 steps, 1 times\nseconds: \d+\.\d\nMB at most: \d+$", timed.out, re.M
    )
    alarms = run(tmp_path, "python", "-m", "benchmarks.false_alarms", "--studies", "2")
    assert alarms.status == 0, alarms.err
    assert len(re.findall(r": \d of 2 studies, ", alarms.out)) == 4
