"""Loading a model runs no code that it brings, and an altered one is refused with a reason."""

import io
import json
import os
import pickle
import random
import shutil
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import mlflow
import numpy as np
import pytest
import torch
import yaml
from conftest import SMALL, VARIANTS, Answer, network_of, run_forked, runs_in
from mlflow.pyfunc.model import PythonModel
from torch import Tensor, nn

from pipeline.models.export import (
    DIGESTS_TAG,
    PixelClassifier,
    record_digests,
    signature,
)
from pipeline.models.loading import load_model
from pipeline.models.registry import versions_of

MARK = "__import__('os').mkdir('mark')"
PIXELS = np.zeros((2, 32, 32, 3), np.uint8)


class Trained(NamedTuple):
    """A registered model: where its store is, where its files are, how it is called there."""

    folder: Path
    files: Path
    model_id: str
    addresses: dict[str, str]

    @property
    def client(self) -> mlflow.MlflowClient:
        return mlflow.MlflowClient(f"sqlite:///{self.folder}/mlflow.db")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("trained")
    answer = run_forked(folder, "pipeline", "train", *SMALL)
    assert answer.status == 0, answer.err
    (only,) = runs_in(folder)
    assert only.outputs is not None
    (output,) = only.outputs.model_outputs
    client = mlflow.MlflowClient(f"sqlite:///{folder}/mlflow.db")
    files = Path(client.get_logged_model(output.model_id).artifact_location)
    addresses = {
        "alias": "models:/synthetic-cnn@champion",
        "version": "models:/synthetic-cnn/1",
        "model": f"models:/{output.model_id}",
        "run": f"runs:/{only.info.run_id}/model",
        "run id": only.info.run_id,
        "folder": str(files),
    }
    return Trained(folder, files, output.model_id, addresses)


@pytest.fixture
def model(trained: Trained, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Trained]:
    """The model, as it was logged before and after; `evil` is a module that leaves a mark."""
    monkeypatch.chdir(trained.folder)
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "evil.py").write_text(f"{MARK}\n")
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    tags = trained.client.get_logged_model(trained.model_id).tags
    shutil.copytree(trained.files, tmp_path / "as logged")
    yield trained
    sys.modules.pop("evil", None)
    shutil.rmtree(trained.files, ignore_errors=True)  # a test may have deleted them
    shutil.copytree(tmp_path / "as logged", trained.files)
    trained.client.set_logged_model_tags(trained.model_id, tags)


Refused = Callable[..., str]


@pytest.fixture
def refused(model: Trained, pipeline: Callable[..., Answer]) -> Refused:
    """Evaluate the model, see that it is refused and leaves no run; return the one line."""

    def evaluate(address: str = "models:/synthetic-cnn@champion") -> str:
        answer = pipeline("evaluate", "--model", address)
        assert (answer.status, answer.out) == (2, "")
        (line,) = answer.err.splitlines()
        assert line.startswith("error: ")
        assert address in line
        assert [run.info.status for run in runs_in(model.folder)] == ["FINISHED"]
        return line

    return evaluate


# Altered since it was logged: the digests tell.


@pytest.mark.parametrize("each", [6, pytest.param(60, marks=pytest.mark.thorough)])
def test_one_changed_bit_anywhere_is_reported(
    each: int, model: Trained, refused: Refused, tally: Callable[[str, int], None]
) -> None:
    draw = random.Random(0)
    paths = [path for path in model.files.rglob("*") if path.is_file()]
    assert len(paths) == 7
    for path in paths * each:
        content = path.read_bytes()
        place = draw.randrange(len(content))
        changed = bytes([content[place] ^ 1 << draw.randrange(8)])
        path.write_bytes(content[:place] + changed + content[place + 1 :])
        name = path.relative_to(model.files).as_posix()
        assert f"not those that were logged: {name} changed; restore" in refused()
        path.write_bytes(content)
    tally("altered models refused", len(paths) * each)


def test_a_file_that_is_missing_or_added_is_reported(
    model: Trained, refused: Refused, tally: Callable[[str, int], None]
) -> None:
    paths = [path for path in model.files.rglob("*") if path.is_file()]
    for path in paths:
        content = path.read_bytes()
        path.unlink()
        assert f"logged: {path.relative_to(model.files).as_posix()} missing; " in refused()
        path.write_bytes(content)
    added = ["data/model.pth", "code/sitecustomize.py", "data/registered_model_meta", ".hidden"]
    for name in added:
        (model.files / name).parent.mkdir(exist_ok=True)
        (model.files / name).write_text("")
        assert f"logged: {name} added; " in refused()
        (model.files / name).unlink()
    tally("altered models refused", len(paths) + len(added))


@pytest.mark.parametrize("tag", ["", "{", "3", '["MLmodel"]', "{}"])
def test_digests_that_somebody_has_edited_are_those_of_no_file(
    tag: str, model: Trained, refused: Refused
) -> None:
    model.client.set_logged_model_tags(model.model_id, {DIGESTS_TAG: tag})
    assert "not those that were logged: MLmodel added, " in refused()
    shutil.rmtree(model.files)
    assert "the files of models:/synthetic-cnn@champion are missing" in refused()


@pytest.mark.parametrize("way", ["alias", "version", "model", "run", "run id", "folder"])
def test_however_it_is_called(way: str, model: Trained, refused: Refused) -> None:
    address = model.addresses[way]
    loaded = load_model(address)
    assert loaded.model_id == model.model_id
    assert [str(version.version) for version in versions_of(str(loaded.run_id))] == ["1"]
    archive = model.files / "data" / "model.pt2"
    archive.write_bytes(archive.read_bytes()[:-1])
    assert "data/model.pt2 changed" in refused(address)


def test_what_mlflow_adds_to_the_files_of_a_registered_model_alters_nothing(model: Trained) -> None:
    mlflow.pyfunc.load_model("models:/synthetic-cnn@champion")
    assert (model.files / "registered_model_meta").exists()
    load_model("models:/synthetic-cnn@champion")


# Altered together with its digests, or not known to the store: the content tells.


class Bomb:
    """Leaves a mark when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, ("mark",)


def pickled() -> bytes:
    buffer = io.BytesIO()
    torch.save(Bomb(), buffer)
    return buffer.getvalue()


def edit_mlmodel(files: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    content = yaml.safe_load((files / "MLmodel").read_text())
    edit(content)
    (files / "MLmodel").write_text(yaml.safe_dump(content))


def loads_with(**settings: str) -> Callable[[Path], None]:
    """Let MLmodel name another way to load the model."""
    return lambda files: edit_mlmodel(
        files, lambda content: content["flavors"]["python_function"].update(settings)
    )


def own_code(files: Path) -> None:
    loads_with(code="code", loader_module="own")(files)
    (files / "code").mkdir()
    (files / "code" / "own.py").write_text(MARK)


def edit_records(files: Path, edit: Callable[[dict[str, bytes]], object]) -> None:
    """Rewrite the archive; the records are named without their common folder."""
    archive = files / "data" / "model.pt2"
    with zipfile.ZipFile(archive) as old:
        common = old.namelist()[0].partition("/")[0]
        records = {name.removeprefix(f"{common}/"): old.read(name) for name in old.namelist()}
    edit(records)
    with zipfile.ZipFile(archive, "w") as new:
        for name, content in records.items():
            new.writestr(f"{common}/{name}", content)


def record(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda files: edit_records(files, lambda records: records.update({name: content}))


def in_json(name: str, edit: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    """Edit one of the archive's records that are JSON."""

    def alter(records: dict[str, bytes]) -> None:
        content = json.loads(records[name])
        edit(content)
        records[name] = json.dumps(content).encode()

    return lambda files: edit_records(files, alter)


def in_program(edit: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    return in_json("models/model.json", edit)


def renamed(old: str, new: str) -> Callable[[Path], None]:
    """Replace text throughout the program."""

    def alter(records: dict[str, bytes]) -> None:
        content = records["models/model.json"].decode()
        assert old in content
        records["models/model.json"] = content.replace(old, new).encode()

    return lambda files: edit_records(files, alter)


def pickled_weight(files: Path) -> None:
    name = "data/weights/model_weights_config.json"
    in_json(name, lambda config: config["config"]["network.conv1.bias"].update(use_pickle=True))(
        files
    )
    record("data/weights/weight_1", pickled())(files)


def pickled_constant(files: Path) -> None:
    constant = {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": True}
    constants = {"x": {**constant, "tensor_meta": None}}
    record("data/constants/opaque_obj_0", pickle.dumps(Bomb()))(files)
    in_json(
        "data/constants/model_constants_config.json",
        lambda config: config["config"].update(constants),
    )(files)


def first_enum(program: dict[str, Any]) -> None:
    """In a tree, an enum: its module is imported."""
    signature = program["graph_module"]["module_call_graph"][0]["signature"]
    enum = json.dumps([{"__enum__": True, "fqn": "evil:Enum", "name": "A"}])
    signature["in_spec"] = signature["in_spec"].replace('"[]"', json.dumps(enum))


def hidden_size(files: Path) -> None:
    """A size where one could think that only text is."""

    def edit(program: dict[str, Any]) -> None:
        values = program["graph_module"]["graph"]["tensor_values"]
        values["metadata"]["sizes"][0] = {"as_expr": {"expr_str": MARK, "hint": None}}

    renamed('"permute"', '"metadata"')(files)
    in_program(edit)(files)


def only_pickled(files: Path) -> None:
    """A model of MLflow's other format for PyTorch."""
    (files / "data" / "model.pt2").unlink()
    (files / "data" / "model.pth").write_bytes(pickled())
    (files / "data" / "pickle_module_info.txt").write_text("pickle")


def also_pickled(files: Path) -> None:
    (files / "data" / "model.pth").write_bytes(pickled())
    (files / "data" / "pickle_module_info.txt").write_text("pickle")


def elsewhere(files: Path) -> None:
    loads_with(data="elsewhere")(files)
    (files / "elsewhere").mkdir()
    (files / "elsewhere" / "model.pth").write_bytes(pickled())
    (files / "elsewhere" / "pickle_module_info.txt").write_text("pickle")


# What leaves a mark if it is loaded, and what the reason must say.
BRING_CODE: dict[str, tuple[Callable[[Path], object], str]] = {
    "loader": (loads_with(loader_module="evil"), "loader_module 'evil'"),
    "own code": (own_code, "MLmodel has loader_module 'own'"),
    "other folder": (elsewhere, "data 'elsewhere'"),
    "pickled model": (only_pickled, "data holds more than model.pt2"),
    "pickled model too": (also_pickled, "data holds more than model.pt2"),
    "example": (record("data/sample_inputs/model.pt", pickled()), "inputs that are not only"),
    "weight": (pickled_weight, "'network.conv1.bias' pickled"),
    "old weights": (record("data/weights/model.pt", pickled()), "record 'data/weights/model.pt'"),
    "constant": (pickled_constant, "record 'data/constants/opaque_obj_0'"),
    "size": (renamed("Symbol('s", f"{MARK} or Symbol('s"), f'expression "{MARK}'),
    "hidden size": (hidden_size, f'expression "{MARK}'),
    "guard": (in_program(lambda it: it["guards_code"].append(MARK)), f'expression "{MARK}'),
    "name": (renamed('"pixels"', f'"pixels={MARK}"'), f'expression "pixels={MARK}'),
    "enum": (in_program(first_enum), "the expression '[1, "),
}


def ten_classes() -> nn.Module:
    network = network_of("base")
    network.fc2 = nn.Linear(512, 10)
    return PixelClassifier(network)


class Large(PixelClassifier):
    """Takes images twice as wide and high."""

    def forward(self, pixels: Tensor) -> Tensor:
        return super().forward(pixels[:, ::2, ::2])


class Logits(PixelClassifier):
    """Forgets the softmax."""

    def forward(self, pixels: Tensor) -> Tensor:
        return self.network(pixels.permute(0, 3, 1, 2) / 255)  # type: ignore[no-any-return]


class Double(PixelClassifier):
    """Returns float64."""

    def forward(self, pixels: Tensor) -> Tensor:
        return super().forward(pixels).double()


def program(build: Callable[[], nn.Module], *shape: int) -> Callable[[Path], None]:
    """Put another network in the model's place; its MLmodel still promises what it did."""

    def alter(files: Path) -> None:
        exported = torch.export.export(
            build().eval(),
            (torch.zeros(shape, dtype=torch.uint8),),
            dynamic_shapes=[{0: torch.export.Dim.AUTO}],
        )
        torch.export.save(exported, files / "data" / "model.pt2")

    return alter


def other_signature(part: str, old: str, new: str) -> Callable[[Path], None]:
    def edit(content: dict[str, Any]) -> None:
        assert old in content["signature"][part]
        content["signature"][part] = content["signature"][part].replace(old, new)

    return lambda files: edit_mlmodel(files, edit)


def class_names(change: Callable[[list[str]], object]) -> Callable[[Path], None]:
    return lambda files: edit_mlmodel(files, lambda it: change(it["metadata"]["class_names"]))


def other_operator(program: dict[str, Any]) -> None:
    program["graph_module"]["graph"]["nodes"][0]["target"] = "torch.os.mkdir"


def python_operator(program: dict[str, Any]) -> None:
    program["graph_module"]["graph"]["nodes"][0]["target"] = "_operator.methodcaller"


def no_record(files: Path) -> None:
    edit_records(files, lambda records: records.pop("models/model.json"))


def truncated(files: Path) -> None:
    archive = files / "data" / "model.pt2"
    archive.write_bytes(archive.read_bytes()[:1000])


def proxy(build: type[PixelClassifier]) -> Callable[[], nn.Module]:
    return lambda: build(network_of("base"))


IMAGE = PIXELS.shape
# What is not what it says, and the reason that must be told.
WRONG: dict[str, tuple[Callable[[Path], object], str]] = {
    "input shape": (other_signature("inputs", "32, 32", "28, 28"), "is rejected"),
    "input type": (
        other_signature("inputs", "uint8", "float32"),
        "does not take uint8 [N, height,",
    ),
    "class count": (other_signature("outputs", "100", "10"), "does not name 10 different classes"),
    "99 names": (class_names(lambda names: names.pop()), "not name 100 different classes"),
    "a name more": (
        class_names(lambda names: names.append(names[0])),
        "not name 100 different classes",
    ),
    "a name twice": (class_names(lambda names: names.__setitem__(0, names[1])), "100 different"),
    "other names": (
        class_names(lambda names: names.__setitem__(1, "x")),
        "was trained on synthetic, where class 1 is 'x'; in synthetic it is 'disk-banded' now",
    ),
    "10 classes": (program(ten_classes, *IMAGE), "does not return float32 [N, 100]"),
    "large pixels": (program(proxy(Large), 2, 64, 64, 3), "is rejected"),
    "logits": (program(proxy(Logits), *IMAGE), "are not probabilities"),
    "double": (program(proxy(Double), *IMAGE), "does not return float32 [N, 100]"),
    "operator": (in_program(other_operator), "the operator 'torch.os.mkdir'"),
    "Python operator": (in_program(python_operator), "the operator '_operator.methodcaller'"),
    "long size": (renamed("Symbol('s", f"{'1' * 99}!Symbol('s"), "the expression '111"),
    "library": (record("data/aotinductor/model/x.so", b""), "the record 'data/aotinductor"),
    "code folder": (loads_with(code="code"), "code 'code'"),
    "method": (loads_with(predict_fn="__init__"), "predict_fn '__init__'"),
    "no program": (no_record, "data/model.pt2 is broken"),
    "half a program": (truncated, "data/model.pt2 is broken"),
}


CASES = {**BRING_CODE, **WRONG}


@pytest.mark.parametrize(
    "known",
    [
        pytest.param("digests as logged", marks=pytest.mark.thorough),
        "digests forged",
        pytest.param("no digests", marks=pytest.mark.thorough),
    ],
)
@pytest.mark.parametrize(("alter", "reason"), CASES.values(), ids=CASES)
def test_a_model_with_other_content_is_refused(
    alter: Callable[[Path], object],
    reason: str,
    known: str,
    model: Trained,
    refused: Refused,
    tally: Callable[[str, int], None],
) -> None:
    alter(model.files)
    if known == "digests forged":
        record_digests(model.files, model.model_id)
    if known == "no digests":
        model.client.delete_logged_model_tag(model.model_id, DIGESTS_TAG)
    line = refused()
    assert (reason if known != "digests as logged" else "not those that were logged") in line
    assert not Path("mark").exists()
    tally("altered models refused", 1)


@pytest.mark.parametrize("alter", [alter for alter, _ in BRING_CODE.values()], ids=BRING_CODE)
def test_mlflow_alone_would_run_that_code(alter: Callable[[Path], object], model: Trained) -> None:
    """Or else the test before would show nothing."""
    alter(model.files)
    with suppress(Exception):
        mlflow.pyfunc.load_model(str(model.files)).predict(PIXELS)
    Path("mark").rmdir()


class Pickled(PythonModel):
    """Has the right signature, and leaves a mark when it is unpickled."""

    def __init__(self) -> None:
        self.bomb = Bomb()

    def predict(self, context: object, model_input: np.ndarray) -> np.ndarray:  # type: ignore[override]
        return np.full((len(model_input), 100), 0.01, np.float32)


def test_a_foreign_model_that_is_pickled_is_not_unpickled(
    pipeline: Callable[..., Answer], tmp_path: Path
) -> None:
    with mlflow.start_run():
        info = mlflow.pyfunc.log_model(
            name="model",
            python_model=Pickled(),
            signature=signature((32, 32, 3), 100),
            pip_requirements=[],
        )
    answer = pipeline("evaluate", "--model", info.model_uri, "--dataset", "synthetic")
    assert answer.status == 2
    (line,) = answer.err.splitlines()
    assert "loading it could run code: its MLmodel has" in line
    assert not (tmp_path / "mark").exists()
    with suppress(Exception):
        mlflow.pyfunc.load_model(info.model_uri)
    assert (tmp_path / "mark").exists()


# What is not refused.


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_model_that_another_program_has_logged_is_evaluated(
    variant: str, pipeline: Callable[..., Answer], tmp_path: Path
) -> None:
    with mlflow.start_run():
        info = mlflow.pytorch.log_model(
            PixelClassifier(network_of(variant)).eval(),
            name="model",
            signature=signature((32, 32, 3), 100),
            input_example=PIXELS,
            serialization_format="pt2",
            pip_requirements=[],
        )
    if variant == "base":
        answer = pipeline("evaluate", "--model", info.model_uri, "--dataset", "synthetic")
        assert answer.status == 0, answer.err
    elsewhere = shutil.copytree(mlflow.artifacts.download_artifacts(info.model_uri), tmp_path / "x")
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/other.db")  # where nothing is known of it
    loaded = load_model(str(elsewhere))
    assert (loaded.model_id, loaded.run_id, loaded.dataset) == (None, None, "unknown")


def test_a_model_loads_where_mlflow_would_use_a_gpu(
    model: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_DEFAULT_PREDICTION_DEVICE", "cuda")
    for load in (mlflow.pyfunc.load_model, lambda uri: load_model(uri).model):
        loaded = load("models:/synthetic-cnn@champion")
        assert np.asarray(loaded.predict(PIXELS)).shape == (2, 100)


WATCH = """
import pickle, sys
import mlflow, numpy as np, torch
from torch import serialization

seen = []
def watch(event, arguments):
    # Raised by every unpickler of the standard library, before it looks up what to call.
    if event == "pickle.find_class":
        seen.append(("unpickled", *arguments[1:]))

def watched(original, name):
    def call(*arguments, **options):
        seen.append((name, options.get("weights_only")))
        return original(*arguments, **options)
    return call

sys.addaudithook(watch)
torch.load = watched(torch.load, "torch.load")
pickle.load, pickle.loads = watched(pickle.load, "load"), watched(pickle.loads, "loads")
model = mlflow.pyfunc.load_model(sys.argv[1])
assert model.predict(np.zeros((2, 32, 32, 3), np.uint8)).shape == (2, 100)
print(seen)
"""


def test_nothing_is_unpickled_but_the_example_and_that_by_the_restricted_unpickler(
    trained: Trained,
) -> None:
    answer = run_forked(trained.folder, "python", "-c", WATCH, "models:/synthetic-cnn@champion")
    assert answer.out.splitlines() == ["[('torch.load', True)]"], answer.err
