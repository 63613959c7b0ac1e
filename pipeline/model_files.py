"""The files of a model: digests of them, and what may be in them for them to be loaded.

Loading runs what the files say (MLflow 3.17.2, torch 2.14.1). `mlflow.pyfunc.load_model` puts the
folder `code` on Python's path, imports the `loader_module` and calls the `predict_fn` that MLmodel
names. `mlflow.pytorch` unpickles `data/model.pth` where there is one, whatever MLmodel says.
`torch.export.load` reads the weights of `data/model.pt2` as plain numbers, and the example inputs
with the restricted unpickler (`weights_only=True`), which makes tensors and containers only. But it
tries those again with the unrestricted one, unpickles any weight or constant that the archive marks
so, loads libraries from `data/aotinductor`, evaluates sizes (sympy's `sympify` is an `eval`) and
guards (`exec`), imports modules for the enums in a tree specification, and pastes names into the
source code that it makes of the program. MLFLOW_ALLOW_PICKLE_DESERIALIZATION=false, which is not
the default, refuses the pickles and the libraries, and runs the rest. So all is looked at here
before anything is loaded.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import torch

from pipeline.errors import InputError
from pipeline.store import first_line

# MLflow adds it to a folder that it fetches from the registry, even to the store's own where that
# is a local one; nothing reads it.
ADDED_BY_MLFLOW = "registered_model_meta"

# What MLmodel must say of how to load a model; of the last two it may say nothing.
PLAIN = {
    "loader_module": "mlflow.pytorch",
    "data": "data",
    "code": None,
    "config": {"device": "cpu"},
}
# Read, but not while loading: environments, and the module for a `model.pth`, which is not there.
IDLE = {"env", "pickle_module_name", "python_version"}

# The records of an archive that torch.export.save writes of a network whose state are tensors.
RECORD = re.compile(
    r"data/weights/(weight_\d+|model_weights_config\.json)"
    r"|data/constants/(tensor_\d+|model_constants_config\.json)"
    r"|data/sample_inputs/model\.pt|models/model\.json"
    r"|archive_format|archive_version|byteorder|\.data/(version|serialization_id)"
)
# PyTorch's own tensor operators: compiled code, which takes tensors and numbers.
OPERATOR = re.compile(r"torch\.ops\.aten\.(?!__)\w+\.(?!__)\w+")
# Sizes that depend on the batch, such as `Symbol('s81', positive=True, integer=True)`.
SIZE = re.compile(
    r"(Symbol|Integer|Add|Mul|FloorDiv|Mod|positive=True|integer=True|'s\d+'|[-\d(), ])*"
)
# One tensor in, one out, in tuples, lists or dicts.
TREE_WORDS = {"type", "context", "children_spec", "null"}
TREE_WORDS |= {"builtins.tuple", "builtins.list", "builtins.dict"}
# Neither a call nor a quote nor a new line: harmless wherever it ends up in source code.
NAME = re.compile(r"[\w.+-]*")
# Where a node comes from: text that is kept for error messages.
TEXT = {"stack_trace", "nn_module_stack", "source_fn_stack", "torch_fn", "from_node", "custom"}


def digests(folder: Path) -> dict[str, str]:
    """sha256 (hex) of each file in `folder`, by its path there."""
    files = (path for path in sorted(folder.rglob("*")) if not path.is_dir())
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
        if path.relative_to(folder).as_posix() != ADDED_BY_MLFLOW
    }


def check_unaltered(folder: Path, recorded: Mapping[str, str]) -> None:
    """Raise InputError, naming the files, unless they are those that `digests` found once."""
    found = digests(folder)
    names = sorted(recorded.keys() | found.keys())
    if altered := [name for name in names if recorded.get(name) != found.get(name)]:
        words = {(True, False): "missing", (False, True): "added", (True, True): "changed"}
        raise InputError(
            "its files are not those that were logged: "
            + ", ".join(f"{name} {words[name in recorded, name in found]}" for name in altered)
            + "; restore them, or train again"
        )


def check_harmless(folder: Path, flavors: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise InputError unless a model is a pt2 archive that brings no code of its own.

    `flavors` is what its MLmodel says of how to load it.
    """
    said = {"loader_module": None, "data": None, **flavors.get("python_function", {})}
    if said.get("config") == {"device": None}:  # MLflow's default
        said["config"] = PLAIN["config"]
    for key, value in said.items():
        if key not in IDLE and (key not in PLAIN or value != PLAIN[key]):
            raise InputError(f"loading it could run code: its MLmodel has {key} {value!r}")
    archive = folder / "data" / "model.pt2"
    if {path.name for path in archive.parent.glob("*")} != {archive.name}:
        raise InputError("loading it could run code: data holds not only model.pt2")
    try:
        danger = next(_dangers(archive), None)
    except Exception as error:  # whatever the readers of zip, JSON and tensors raise
        raise InputError(f"its data/model.pt2 is broken ({first_line(error)})") from None
    if danger:
        raise InputError(f"loading it could run code: its data/model.pt2 has {danger}")


def _dangers(archive: Path) -> Iterator[str]:
    """What in a pt2 archive could run code when it is loaded."""
    # Read as the loader does. Where that fails it opens the file as an older format, with zipfile.
    records = torch._C.PyTorchFileReader(str(archive))
    names = records.get_all_records()
    with ZipFile(archive) as same:
        names += [name.partition("/")[2] for name in same.namelist()]
    yield from (f"the record {name!r}" for name in names if not RECORD.fullmatch(name))
    for kind in ("weights", "constants"):
        config = json.loads(records.get_record(f"data/{kind}/model_{kind}_config.json"))["config"]
        yield from (f"{name!r} pickled" for name in config if config[name]["use_pickle"])
    try:
        torch.load(BytesIO(records.get_record("data/sample_inputs/model.pt")), weights_only=True)
    except Exception:  # whatever it finds there: the loader would now try without the restriction
        yield "example inputs that are not only tensors"
    yield from _dangers_of_program(json.loads(records.get_record("models/model.json")))


def _dangers_of_program(value: object, key: str = "") -> Iterator[str]:
    """What in the program, JSON, could run code: a string somewhere that is not what it should be.

    `key` is the name that the value, or the list which it is in, has in the program.
    """
    if isinstance(value, dict):
        for name, part in value.items():
            yield from _dangers_of_program(name)
            yield from _dangers_of_program(part, name)
        if "target" in value and "inputs" in value and not OPERATOR.fullmatch(value["target"]):
            yield f"the operator {value['target'][:80]!r}"
    elif isinstance(value, list):
        for part in value:
            yield from _dangers_of_program(part, key)
    elif isinstance(value, str) and key not in TEXT:
        if key in ("in_spec", "out_spec"):
            harmless = set(re.findall(r"[^\W\d][\w.]*", value)) <= TREE_WORDS
        else:
            pattern = SIZE if key == "expr_str" else NAME
            harmless = bool(pattern.fullmatch(value))
        if not harmless:
            yield f"the expression {value[:80]!r}"
