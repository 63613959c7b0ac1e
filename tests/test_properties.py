"""Whatever is given ends in a valid configuration, or in one line that says what is wrong."""

import io
import json
import math
import sys
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pandas as pd
import pytest
import yaml
from conftest import ROOT, VARIANTS, Answer, restoring_news, runs_in
from hypothesis import example, given, settings
from hypothesis import strategies as st
from invented import TUTORIAL, record, result

from pipeline import interruption
from pipeline.__main__ import main
from pipeline.ablation.definition import Ablation
from pipeline.ablation.loading import load_ablation, named
from pipeline.config import DEVICES, MAX_NAME, PRECISIONS, VALIDATIONS, Config
from pipeline.data import cifar100, cifar100_files
from pipeline.data.fetching import download
from pipeline.errors import InputError
from pipeline.models.registry import RegisteredVersion
from pipeline.models.trial import variants as trial
from pipeline.randomness import Stream, stream_seed
from pipeline.runs import evaluation_run, training_run
from pipeline.runs import resolve as resolving
from pipeline.runs.evaluation_run import Evaluated
from pipeline.runs.record import RunRecord, from_tags, to_tags
from pipeline.store.tags import DETAILS, pack
from pipeline.study import spec, study
from pipeline.study.grid import (
    MAX_SEEDS,
    Grid,
    parse_rates,
    parse_seeds,
    parse_variants,
)

PROJECT = yaml.safe_load((ROOT / "MLproject").read_text())
Tally = Callable[[str, int], None]

# Unlike text() alone: with the surrogates that stand for bytes that are no UTF-8.
ANY_TEXT = st.text(st.characters(exclude_categories=()))
ODD_TEXT = st.one_of(
    st.sampled_from(["", " ", "auto", "-1", "--help", "--", "a\nb", "\r\n", "../" * 9, "/", "@x"]),
    st.sampled_from(["~", "~\0", "a\0b", "\udcff", "\ud800", "\u202e\x1b[2J", "x" * 5000]),
    st.sampled_from(["%s%n{}", "$(touch injected)", "http://["]),
)
ODD_NUMBERS = st.one_of(
    st.sampled_from(["0x10", "１２", "٣", "nan", "-inf", "1e400", "-1e400", "1e-400", "5e-324"]),
    st.sampled_from(["1_0", "1.0", "1.5", " 7", "7\n", "\xa07", "+7", "-0", "1e3", "1,2", "0.1,1"]),
    st.sampled_from(["9" * 4300, "9" * 4301, "9" * 400 + ".0", str(2**63), str(2**64)]),
    st.sampled_from(["0-99999999999999", f"0-{'9' * 4300}", "3,", ",", "1-", "-"]),
)
NUMBERS = st.one_of(
    st.integers().map(str), st.integers(0, 9).map(str), st.floats().map(repr), ODD_NUMBERS
)
CHOICES: dict[str, tuple[str, ...]] = {
    "device": DEVICES,
    "precision": PRECISIONS,
    "validation": VALIDATIONS,
}


def examples(quick: int, thorough: int) -> pytest.MarkDecorator:
    """Run with so many examples: always the same ones, or ever new ones."""
    marks = [pytest.mark.thorough, pytest.mark.timeout(3000)]
    kinds = [
        settings(max_examples=quick, deadline=None, derandomize=True),
        pytest.param(settings(max_examples=thorough, deadline=None), marks=marks),
    ]
    return pytest.mark.parametrize("profile", kinds, ids=["quick", "thorough"])


def check_line(error: InputError) -> None:
    """A message is one line, whatever it repeats."""
    assert str(error)
    assert len(str(error).splitlines()) == 1


def check_usable(config: Config) -> None:
    """All that is made of a configuration can be made of this one."""
    assert min(config.epochs, config.batch_size) >= 1
    assert min(config.seed, config.train_images) >= 0
    assert 0 < config.lr < math.inf
    assert "\0" not in config.data_dir.encode().decode()
    stated = config.as_dict()
    assert config.run_name.startswith(config.variant)
    assert config.run_name.isprintable()
    assert json.loads(json.dumps(stated)) == stated
    assert read_back(config) == config
    for stream in Stream:
        assert 0 <= stream_seed(config.seed, stream, 1) < 2**64


def read_back(config: Config) -> Config:
    """What is read of a run that was begun with a configuration."""
    tags = pack(to_tags(record(config, settings={}, augmentation="")))
    tags |= json.loads(tags.pop(DETAILS))
    return from_tags(RunRecord, tags, run_id="").config


def of_type(name: str, default: object) -> st.SearchStrategy[Any]:
    if isinstance(default, str):
        text = st.one_of(ANY_TEXT, ODD_TEXT)
        return st.one_of(st.sampled_from(CHOICES[name]), text) if name in CHOICES else text
    if isinstance(default, int):
        large = st.sampled_from([2**63, 10**400, -(2**64)])
        return st.one_of(st.integers(), st.integers(0, 9), large)
    return st.one_of(st.floats(), st.sampled_from([math.inf, 0.0, 5e-324]))


# A few at a time: of all of them at once, one is always wrong.
SETTINGS = st.sets(st.sampled_from(list(Config().as_dict())), max_size=3).flatmap(
    lambda names: st.fixed_dictionaries({k: of_type(k, getattr(Config, k)) for k in sorted(names)})
)


@examples(500, 10_000)
def test_any_settings_are_a_usable_configuration_or_one_line(
    profile: settings, tally: Tally
) -> None:
    ends = {"usable": 0, "refused": 0}

    @profile
    @given(SETTINGS)
    @example({"data_dir": "\udcff"})
    @example({"data_dir": "a\0b"})
    @example({"lr": math.inf})
    def check(given_: dict[str, Any]) -> None:
        try:
            config = named(Config(**given_), TUTORIAL)
        except InputError as error:
            check_line(error)
            ends["refused"] += 1
        else:
            check_usable(config)
            ends["usable"] += 1

    check()
    assert min(ends.values()) > 20
    tally("generated inputs", sum(ends.values()))


PARTS = st.one_of(NUMBERS, st.sampled_from([*VARIANTS, " bn ", ""]), ANY_TEXT, ODD_TEXT)
LISTS = st.one_of(
    PARTS,
    st.lists(PARTS, max_size=5).map(",".join),
    st.lists(st.integers(0, 2000).map(str), max_size=5).map(",".join),
    st.lists(st.integers(0, 2000).map(str), max_size=3).map("-".join),
    st.lists(st.sampled_from(list(VARIANTS)), max_size=4).map(",".join),
    st.text("0123456789,-+._ e"),
)


@examples(500, 10_000)
def test_any_text_is_a_list_of_seeds_rates_or_variants_or_one_line(
    profile: settings, tally: Tally
) -> None:
    valid: dict[str, int] = {"seeds": 0, "rates": 0, "variants": 0}
    count = 0

    @profile
    @given(LISTS)
    def check(text: str) -> None:
        nonlocal count
        count += 1
        for name, parse in (
            ("seeds", parse_seeds),
            ("rates", parse_rates),
            ("variants", partial(parse_variants, known=list(VARIANTS), compared=["base", "bn"])),
        ):
            try:
                values = cast(list[Any], parse(text))
            except InputError as error:
                check_line(error)
                continue
            valid[name] += 1
            assert 0 < len(values) == len(set(values))
            if name == "seeds":
                assert len(values) <= MAX_SEEDS
                check_usable(Config(seed=min(values)))
                check_usable(Config(seed=max(values)))
            elif name == "variants":
                assert set(values) <= set(VARIANTS)
            else:
                assert all(isinstance(value, float) for value in values)

    check()
    assert min(valid.values()) > 10
    tally("generated inputs", count)


@pytest.mark.parametrize(
    "text",
    [
        "0-99999999999999",
        "99999999999999",
        "9" * 4300,
        "9" * 10**6,
        f"0-{'9' * 4300}",
        f"{'9' * 20}-{'9' * 23}",
        "," * 10**6,
        "-" * 10**6,
        "1," * 10**5,
    ],
    ids=lambda text: f"{text[:20]}, {len(text)} characters",
)
def test_no_seeds_make_a_list_without_end(text: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(InputError) as error:
            parse_seeds(text)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    check_line(error.value)
    assert peak < 1_000_000 + 100 * len(text)


OPTIONS = {
    "train": {*PROJECT["entry_points"]["train"]["parameters"], "resume"},
    "ablate": PROJECT["entry_points"]["ablate"]["parameters"].keys(),
    "evaluate": PROJECT["entry_points"]["evaluate"]["parameters"].keys(),
    "compare": {"experiment"},
    "data": {"data_dir", "source"},
}
LEGAL = {
    **CHOICES,
    "variants": ("base", "base,bn", " bn"),
    "seeds": ("3", "0-4", "7,", "auto"),
    "margin": ("0.5", "1e-3", " 2"),
    "max_seeds": ("5", "30"),
    "lr": ("0.01", "1e-3", " 0.1"),
    "epochs": ("1", "1.0", " 7"),
    "batch_size": ("1", "1_0"),
    "seed": ("1", f"{2**64}"),
    "train_images": ("0", "100"),
    "jobs": ("auto", "1", "3"),
    "name": ("auto", "a b", "é\n"),
    "register": ("median", "all", "none", "alias", "model"),
    "reuse": ("same", "any", "none"),
    "keep_state": ("yes", "no"),
    "model": ("models:/cifar100-cnn@bn", "é"),
    "data_dir": ("auto", ".", "/"),
    "source": ("file:///nowhere", "https://example.org"),
}
VALUES = st.one_of(NUMBERS, ANY_TEXT, ODD_TEXT)


def option(command: str) -> st.SearchStrategy[list[str]]:
    """An option with a value, written in any of the ways that there are."""

    def written(name: str) -> st.SearchStrategy[list[str]]:
        legal = st.sampled_from(LEGAL.get(name, ("x",)))
        value = st.one_of(legal, legal, VALUES)
        dashed = name.replace("_", "-")
        return value.flatmap(
            lambda v: st.sampled_from(
                [[f"--{dashed}", v], [f"--{name}", v], [f"--{dashed}={v}"], [f"--{name}={v}"]]
            )
        )

    return st.sampled_from(sorted(OPTIONS[command])).flatmap(written)


def arguments(command: str) -> st.SearchStrategy[list[str]]:
    """A command with options, mostly its own, and now and then anything."""
    own, anything = option(command), st.lists(VALUES, max_size=2)
    flag = st.sampled_from([["--check"], ["--sources"], ["--help"], ["--epochs"]])
    parts = st.lists(st.one_of(own, own, own, own, own, anything, flag), max_size=4)
    needed = [["--model", "x"]] if command == "evaluate" else [[]]
    return st.tuples(st.sampled_from([*needed, []]), parts).map(
        lambda two: [command, *two[0], *(word for part in two[1] for word in part)]
    )


COMMANDS = st.one_of(*map(arguments, OPTIONS), st.lists(VALUES, max_size=3))


def call(words: list[str], monkeypatch: pytest.MonkeyPatch) -> Answer:
    """`python -m pipeline …` in this process, with the streams that a terminal gives it."""
    out = io.TextIOWrapper(io.BytesIO(), "utf-8")
    err = io.TextIOWrapper(io.BytesIO(), "utf-8", "backslashreplace")
    with monkeypatch.context() as patch:
        patch.setattr(sys, "argv", ["pipeline", *words])
        patch.setattr(sys, "stdout", out)
        patch.setattr(sys, "stderr", err)
        patch.delenv("PIPELINE_DATA_SOURCE", raising=False)
        patch.setenv("TQDM_DISABLE", "1")  # which a command sets itself
        with restoring_news(), pytest.raises(SystemExit) as exit_:
            main()
    told = []
    for stream in (out, err):
        stream.flush()
        stream.seek(0)
        told.append(stream.read())
    return Answer(int(exit_.value.code or 0), *told)


@pytest.fixture
def reached(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[Any, ...]]:
    """What the commands would do, were it not for what takes long: loading and training."""
    done: list[tuple[Any, ...]] = []

    def load_data(config: Config, _: object) -> SimpleNamespace:
        if config.dataset == "cifar100":
            cifar100_files.locate(config.data_dir)
        return SimpleNamespace(name=config.dataset, heading=config.dataset)

    def load_cifar100(data_dir: str, *_: object, **__: object) -> SimpleNamespace:
        cifar100_files.locate(data_dir)
        done.append(("data",))
        return SimpleNamespace(training=(), validation=(), digest="")

    def describe_sources(_: object) -> list[str]:
        done.append(("sources",))
        return []

    def resolve(config: Config) -> SimpleNamespace:
        known = load_ablation(config.ablation)
        config = named(config, known)
        return SimpleNamespace(config=config, ablation=known, data=load_data(config, known))

    def train_run(spec: SimpleNamespace, *_: object) -> RunRecord:
        done.append(("train", spec.config))
        version = RegisteredVersion("synthetic-cnn", "1")
        return replace(result(spec.config, 0.5), registered=version)

    def prepare_study(config: Config, _: Ablation, grid: Grid, *__: object, **choices: str) -> Any:
        return SimpleNamespace(config=config, grid=grid, choices=choices)

    def run_study(study: Any, _: object) -> str:
        of = study.spec
        done.append(("ablate", of.config, of.grid, of.choices))
        return ""

    def evaluate_run(model: str, dataset: str, data_dir: str, ablation: str) -> Evaluated:
        resolve(Config(ablation, dataset=dataset, data_dir=data_dir))
        done.append(("evaluate",))
        confusions = pd.DataFrame([{"class": "bed", "taken_for": "bee", "images": 1}])
        return Evaluated(
            run_id="0" * 32,
            experiment_id="0",
            model=model,
            dataset=dataset,
            metrics={"loss": 1.0},
            confusion=confusions.to_numpy(),
            per_class=confusions,
            confusions=confusions,
        )

    monkeypatch.setattr(interruption, "install", lambda: None)
    monkeypatch.setattr(resolving, "resolve", resolve)
    monkeypatch.setattr(trial, "try_variants", lambda *_: None)
    monkeypatch.setattr(cifar100, "load", load_cifar100)
    monkeypatch.setattr(download, "describe", describe_sources)
    monkeypatch.setattr(training_run, "train_run", train_run)
    monkeypatch.setattr(spec, "prepare_study", prepare_study)
    monkeypatch.setattr(study, "run_study", run_study)
    monkeypatch.setattr(evaluation_run, "evaluate_run", evaluate_run)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return done


@examples(500, 10_000)
def test_any_command_line_is_a_valid_configuration_or_one_line(
    profile: settings,
    reached: list[tuple[Any, ...]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    tally: Tally,
) -> None:
    ends, commands = {0: 0, 1: 0, 2: 0}, set()

    @profile
    @given(COMMANDS)
    @example(["train", "--dataset", "synthetic", "--data-dir", "\udcff"])
    @example(["ablate", "--name", " "])
    @example(["ablate", "--name", "x" * 5000])
    @example(["compare", "\udcff"])
    @example(["data", "--source", "file:///a\0b"])
    @example(["data", "--check", "--data-dir", "."])  # status 1: no data to check
    def check(words: list[str]) -> None:
        reached.clear()
        answer = call(words, monkeypatch)
        ends[answer.status] += 1
        if answer.status:
            assert reached == []
            (line,) = answer.err.splitlines()
            assert line.startswith("error: ")
            assert line.isprintable()
            assert answer.out == ""
        elif "Usage:" in answer.out:
            assert "--help" in words
            assert reached == []
        else:
            assert answer.err == ""
            assert "\0" not in "".join(words).encode().decode()
            check_reached(words)

    def check_reached(words: list[str]) -> None:
        ((command, *what),) = reached
        commands.add(command)
        assert command == words[0] or (command, words[0]) == ("sources", "data")
        if command == "train":
            (config,) = what
            check_usable(config)
        if command == "ablate":
            config, grid, choices = what
            assert 0 < len(choices["name"].strip()) <= MAX_NAME
            for cell in grid.cells(config):
                assert cell.run_name.isprintable()
            check_usable(cell)

    check()
    assert min(ends.values()) > 0
    assert min(ends[0], ends[2]) > 20
    assert commands >= {"train", "ablate", "evaluate", "data"}
    assert runs_in(tmp_path) == []
    tally("generated inputs", sum(ends.values()))
