"""The benchmark measures what it says, on any machine."""

import json
from pathlib import Path

import pytest
from conftest import run


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
    assert (tmp_path / "speed.png").read_bytes().startswith(b"\x89PNG")


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
