"""Bad input gets one line that says what is wrong and what would be right, and leaves no run."""

import shlex
from collections.abc import Callable
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch
from conftest import REAL_DATA, SMALL, Answer, Study, needs_real_data, run_project, runs_in

# The command, and what its one line of error must contain.
CASES = {
    "variant": ("train --variant batchnorm", ["'batchnorm'", "base, bn, dropout, base_dropout"]),
    "variant, nearly": ("train --variant dropuot", ["did you mean dropout?"]),
    "dataset": ("train --dataset cifar10", ["'cifar10'", "cifar100, synthetic"]),
    "device": ("train --device tpu", ["'tpu'", "auto, cpu, cuda, mps"]),
    "several batch sizes": (
        "ablate --batch-size 128,256",
        ["'128,256' is a list", "all runs of a study have the same", "docs/your-own-ablation.md"],
    ),
    "several numbers of epochs": (
        "ablate --epochs 10,20",
        ["--epochs", "'10,20' is a list", "keep_state=yes"],
    ),
    "several seeds of a hold-out": (
        "train --holdout-seed 0,1",
        ["--holdout-seed", "'0,1' is a list", "all runs of a study have the same"],
    ),
    "a hold-out's seed no number": ("ablate --holdout-seed x", ["--holdout-seed", "integer"]),
    "several seeds of a run": ("train --seed 0,1", ["ablate takes several: seeds=0,1"]),
    "a study's seed": ("ablate --seed 0,1", ["--seed", "--seeds"]),
    "several variants of a run": ("train --variant base,bn", ["ablate takes several: variants="]),
    "a decimal comma": ("train --lr 0,001", ["'0,001' is a list", "lr=0.01,0.001"]),
    "keep state": ("ablate --keep-state always", ["'always'", "yes, no"]),
    "precision": ("train --precision fp16", ["'fp16'", "auto, fp32, bf16"]),
    "command": ("trian", ["trian"]),
    "no command": ("", ["Missing command"]),
    "option": ("train --foo 7", ["--foo"]),
    "no value": ("train --epochs", ["--epochs"]),
    "epochs 0": ("train --epochs 0", ["epochs is 0", "at least 1"]),
    "epochs negative": ("train --epochs -3", ["epochs is -3", "at least 1"]),
    "epochs without end": (f"train --epochs {10**30}", ["epochs is 1000", "at most 1000000000"]),
    "epochs no number": ("train --epochs abc", ["--epochs", "integer"]),
    "epochs fraction": ("train --epochs 1.5", ["--epochs", "integer"]),
    "batch size 0": ("train --batch-size 0", ["batch_size is 0", "at least 1"]),
    "batch size negative": ("train --batch-size -1", ["batch_size is -1", "at least 1"]),
    "batch size without end": (f"ablate --batch-size {10**30}", ["batch_size is 1", "at most"]),
    "batch size no number": ("train --batch-size x", ["--batch-size", "integer"]),
    "lr 0": ("train --lr 0", ["lr is 0.0", "above 0"]),
    "lr negative": ("train --lr -0.1", ["lr is -0.1", "above 0"]),
    "lr NaN": ("train --lr nan", ["lr is nan", "finite"]),
    "lr infinite": ("train --lr inf", ["lr is inf", "finite"]),
    "lr no number": ("train --lr fast", ["--lr", "number"]),
    "a large seed": (f"train --seed {2**32}", [f"seed is {2**32}", f"at most {2**32 - 1}"]),
    "seed": ("train --seed -1", ["seed is -1", "at least 0"]),
    "a hold-out's seed": ("ablate --validation holdout --holdout-seed -1", ["holdout_seed is -1"]),
    "a hold-out's large seed": (
        f"train --validation holdout --holdout-seed {2**32}",
        [f"holdout_seed is {2**32}", f"at most {2**32 - 1}"],
    ),
    "a hold-out's seed alone": (
        "train --holdout-seed 1",
        ["holdout_seed is 1, and nothing is held out", "give validation=holdout, too"],
    ),
    "a study's seed of no hold-out": ("ablate --holdout-seed 1", ["validation=holdout"]),
    "train images": ("train --train-images -1", ["train_images is -1", "at least 0"]),
    "too many train images": (
        "train --dataset synthetic --train-images 10001",
        ["train_images is 10001", "synthetic has 10000"],
    ),
    "data_dir of nobody": ("train --data-dir ~nobody-at-all/x", ["cannot read data_dir"]),
    "data_dir absent": ("train --data-dir nowhere", ["nowhere", "not a folder"]),
    "variants": ("ablate --variants base,dropot", ["'dropot'", "mean dropout?"]),
    "variants twice": ("ablate --variants bn,bn", ["name each variant only once"]),
    "no seeds": ("ablate --seeds 0", ["seeds is '0'", "a range (0-9)"]),
    "seeds without end": ("ablate --seeds 0-99999999999", ["at most 1000"]),
    "seeds": ("ablate --seeds 1,x", ["seeds is '1,x'", "a list (0,3,7)"]),
    "a negative seed": ("ablate --seeds 0,-1", ["seeds is '0,-1'"]),
    "seeds twice": ("ablate --seeds 0,1,1", ["seeds is '0,1,1'", "different whole numbers"]),
    "ablate's lr": ("ablate --lr nan", ["lr is nan"]),
    "one of several lr": ("ablate --lr 0.01,-1", ["lr is -1.0", "above 0"]),
    "ablate's lr no number": ("ablate --lr 0.1,fast", ["lr is '0.1,fast'", "such as 0.001"]),
    "lr twice": ("ablate --lr 0.1,1e-1", ["lr is '0.1,1e-1'", "different"]),
    "validation": ("train --validation val", ["'val'", "test, holdout"]),
    "holdout of one": ("train --validation holdout --train-images 1", ["at least 2"]),
    "register": ("ablate --register best", ["'best'", "median, all, none"]),
    "register one": ("train --register median", ["'median'", "none, model, alias"]),
    "reuse": ("ablate --reuse all", ["'all'", "same, any, none"]),
    "no cluster's address": ("ablate --cluster nonsense", ["cluster is 'nonsense'", "HOST:PORT"]),
    "a cluster without a port": ("ablate --cluster 10.0.0.1", ["such as 10.0.0.1:6379"]),
    "more than a GPU": ("ablate --gpu-share 2", ["gpu_share is 2", "0.01 to 1"]),
    "no GPU": ("ablate --gpu-share 0", ["gpu_share is 0"]),
    "no jobs": ("ablate --jobs 0", ["jobs is '0'", "1 to 9999, or auto"]),
    "more jobs than Python reads": (f"ablate --jobs {'9' * 4301}", ["1 to 9999, or auto"]),
    "no model": ("evaluate", ["--model"]),
    "model absent": ("evaluate --model models:/cifar100-cnn@bn", ["no model at", "its run"]),
    "model's run absent": (f"evaluate --model {'0' * 32}", ["no model at", "its run"]),
    "model's file absent": ("evaluate --model nowhere", ["no model at 'nowhere'"]),
    "model's server absent": ("evaluate --model http://127.0.0.1:9/x", ["no model at"]),
    "model's address strange": ("evaluate --model s3x://b/x", ["no model at 's3x://b/x'"]),
    "model with a line break": ("evaluate --model 'a\nb'", ["no model at 'a\\nb'"]),
    "data_dir of bytes": ("train --data-dir '\udcff'", ["'\\udcff'", "must be UTF-8 text"]),
    "data_dir with NUL": ("train --data-dir '~\0'", ["'~\\x00'", "without NUL"]),
    "data_dir empty": ("train --data-dir ''", ["data_dir is empty", "or auto"]),
    "run of bytes": ("compare '\udcff'", ["'\\udcff'", "must be UTF-8 text"]),
    "experiment of bytes": ("compare --experiment '\udcff'", ["'\\udcff'", "UTF-8 text"]),
    "name blank": ("ablate --name ' '", ["name is ' '", "1 to 250 characters"]),
    "name long": (f"ablate --name {'x' * 251}", ["xxx'", "1 to 250 characters"]),
    "study of long seeds": (
        f"ablate --seeds {','.join(str(10**9 + n) for n in range(1000))}",
        ["seeds and lr take 121", "split the study"],
    ),
}


@pytest.mark.parametrize(("command", "parts"), CASES.values(), ids=CASES)
def test_one_line_and_status_2(
    command: str, parts: list[str], pipeline: Callable[..., Answer], tmp_path: Path
) -> None:
    answer = pipeline(*shlex.split(command))
    assert answer.status == 2
    assert answer.out == ""
    (line,) = answer.err.splitlines()
    assert line.startswith("error: ")
    for part in parts:
        assert part in line
    assert not (tmp_path / "mlflow.db").exists() or runs_in(tmp_path) == []


def test_a_run_of_mlflow_run_that_is_not_there_is_reported(
    pipeline: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for command in ("train", "ablate"):
        monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)
        answer = pipeline(command, *SMALL)
        assert answer.status == 2
        (line,) = answer.err.splitlines()
        assert f"'{'0' * 32}' is not the id of a run" in line
    assert runs_in(tmp_path) == []


def test_cuda_where_there_is_none(
    pipeline: Callable[..., Answer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for command in ("train", "ablate"):
        answer = pipeline(command, *SMALL, "--device", "cuda")
        assert (answer.status, len(answer.err.splitlines())) == (2, 1)
        assert "use cpu or auto" in answer.err
    assert runs_in(tmp_path) == []


def test_a_data_dir_that_cannot_be_read_or_is_altered(
    pipeline: Callable[..., Answer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    # The codes in its name would clear the terminal.
    folder = tmp_path / "line\nbreak\x1b[2J"
    path = folder / "cifar-100-python" / "train"
    path.mkdir(parents=True)  # a folder in a file's place
    unreadable = pipeline("train", "--data-dir", str(folder))
    path.rmdir()
    path.write_bytes(b"not the real one")
    altered = pipeline("train", "--data-dir", str(folder))
    for answer, part in ((unreadable, "truncated or altered"), (altered, "truncated or altered")):
        assert answer.status == 2
        (line,) = answer.err.splitlines()
        assert part in line
        assert str(path).replace("\n", "\\n").replace("\x1b", "\\x1b") in line
    assert runs_in(tmp_path) == []


def test_a_source_whose_address_is_no_path(
    pipeline: Callable[..., Answer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "file").touch()
    for address in ("file:///%00", f"file://{tmp_path}/file"):
        monkeypatch.setenv("PIPELINE_DATA_SOURCE", address)
        answer = pipeline("data")
        assert answer.status == 1
        (line,) = answer.error_lines
        assert f"{address}/ has no cifar-100-python.tar.gz" in line
        assert "Traceback" not in answer.err


def test_a_model_that_takes_other_input(pipeline: Callable[..., Answer], tmp_path: Path) -> None:
    with mlflow.start_run():
        info = mlflow.pytorch.log_model(
            torch.nn.Linear(3, 100).eval(), name="model", input_example=np.ones((2, 3), np.float32)
        )
    answer = pipeline("evaluate", "--model", info.model_uri)
    assert answer.status == 2
    (line,) = answer.err.splitlines()
    assert "does not take uint8 [N, height, width, channels]" in line
    assert len(runs_in(tmp_path)) == 1


@needs_real_data
def test_a_model_of_another_data_set(
    study: Study, pipeline: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(study.folder)
    model = ["--model", "models:/synthetic-cnn@bn"]
    answer = pipeline("evaluate", *model, "--dataset", "cifar100", "--data-dir", str(REAL_DATA))
    assert answer.status == 2
    assert "trained on synthetic" in answer.err


def test_a_store_that_cannot_be_written(
    pipeline: Callable[..., Answer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/file/mlflow.db")
    for command in (["train", *SMALL], ["ablate", *SMALL], ["evaluate", "--model", "x"]):
        answer = pipeline(*command)
        assert answer.status == 1
        line = answer.err.splitlines()[-1]
        assert line.startswith(f"error: the tracking store sqlite:///{tmp_path}/file/mlflow.db")
        assert "MLFLOW_TRACKING_URI" in line
        assert "Traceback" not in answer.err


def test_a_store_of_files_which_mlflow_no_longer_writes(
    pipeline: Callable[..., Answer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", str(tmp_path / "mlruns"))
    answer = pipeline("train", *SMALL)
    assert answer.status == 1
    (line,) = answer.err.splitlines()
    assert "sqlite:///mlflow.db" in line


def test_an_artifact_folder_that_cannot_be_written_ends_the_run_as_failed(
    pipeline: Callable[..., Answer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mlruns").touch()  # a file in the folder's place
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "new")  # which has no folder before it has a run
    answer = pipeline("train", *SMALL)
    assert answer.status == 1
    assert len(answer.error_lines) == 1
    assert "Traceback" not in answer.err
    (run,) = runs_in(tmp_path)
    assert run.info.status == "FAILED"
    assert "train_loss" not in run.data.metrics  # told before the training, not after it


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["-Pvariant=batchnorm"], "unknown variant 'batchnorm'"),
        (["-Pfoo=7"], "--foo"),
        (["-e", "tarin"], "Could not find tarin among entry points"),
        (["-e", "evaluate"], "No value given for missing parameters: 'model'"),
    ],
)
def test_mlflow_run_passes_the_line_on_and_leaves_no_run_running(
    arguments: list[str], part: str, tmp_path: Path
) -> None:
    answer = run_project(tmp_path, *arguments)
    assert answer.status != 0
    assert "Traceback" not in answer.err
    assert sum(part in line for line in answer.err.splitlines()) >= 1
    if (tmp_path / "mlflow.db").exists():
        for run in runs_in(tmp_path):
            assert run.info.status == "FAILED"
            if "-e" not in arguments:  # else MLflow itself has refused to start the command
                assert run.info.run_name == "train"
                assert part in run.data.tags["mlflow.note.content"]
