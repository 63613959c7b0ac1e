"""Refuse the files of a model if they were altered, or could run code when they are loaded.

Loading can run code from the files (MLflow 3.17.2, torch 2.14.1). `mlflow.pyfunc.load_model` puts
the folder `code` on Python's path, imports the `loader_module` and calls the `predict_fn` named in
MLmodel. `mlflow.pytorch` unpickles `data/model.pth` if it exists, whatever MLmodel says.
`torch.export.load` reads the weights of `data/model.pt2` as plain numbers, and the example inputs
with the restricted unpickler (`weights_only=True`), which creates only tensors and containers. But
it retries those with the unrestricted one, unpickles any weight or constant that the archive marks
as pickled, loads libraries from `data/aotinductor`, evaluates sizes (sympy's `sympify` is an
`eval`) and guards (`exec`), imports modules for the enums in a tree specification, and pastes names
into the source code it generates. MLFLOW_ALLOW_PICKLE_DESERIALIZATION=false, which is not the
default, refuses the pickles and the libraries, but runs the rest. So everything is checked here
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
from torch.export.pt2_archive import PT2ArchiveReader

from pipeline.errors import InputError, shortlist
from pipeline.store.outages.failures import first_line

# MLflow adds this file to a folder fetched from the registry, even to the store's own folder if
# that is local; nothing reads it.
ADDED_BY_MLFLOW = "registered_model_meta"

# What MLmodel must say about loading a model; the last two are optional.
PLAIN = {
    "loader_module": "mlflow.pytorch",
    "data": "data",
    "code": None,
    "config": {"device": "cpu"},
}
# Not used in loading: environments, and the module for a `model.pth`, which is not there.
IDLE = {"env", "pickle_module_name", "python_version"}

# The archive records that torch.export.save writes for a network whose state is all tensors.
RECORD = re.compile(
    r"data/weights/(weight_\d+|model_weights_config\.json)"
    r"|data/constants/(tensor_\d+|model_constants_config\.json)"
    r"|data/sample_inputs/model\.pt|models/model\.json"
    r"|archive_format|archive_version|byteorder|\.data/(version|serialization_id)"
)
# PyTorch's own tensor operators: compiled code that takes tensors and numbers. And arithmetic on
# sizes that depend on the batch, as in attention.
OPERATOR = re.compile(
    r"torch\.ops\.aten\.(?!__)\w+\.(?!__)\w+"
    r"|_operator\.(add|sub|mul|floordiv|mod|neg|pos|eq|ne|le|ge|lt|gt)"
)
# Sizes that depend on the batch, such as `Symbol('s81', positive=True, integer=True)`.
SIZE = re.compile(
    r"(Symbol|Integer|Add|Mul|FloorDiv|Mod|Min|Max|positive=True|integer=True|'s\d+'|[-\d(), ])*"
)
# One tensor in, one out, in tuples, lists or dicts.
TREE_WORDS = {"type", "context", "children_spec", "null"}
TREE_WORDS |= {"builtins.tuple", "builtins.list", "builtins.dict"}
# No call, quote or newline: harmless wherever it ends up in source code.
NAME = re.compile(r"[\w.+-]*")
# Where a node comes from: text kept for error messages.
TEXT = {"stack_trace", "nn_module_stack", "source_fn_stack", "torch_fn", "from_node", "custom"}


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 (hex) of each file in `folder`, by relative path."""
    files = (path for path in sorted(folder.rglob("*")) if not path.is_dir())
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
        if path.relative_to(folder).as_posix() != ADDED_BY_MLFLOW
    }


def check_unaltered(folder: Path, recorded: Mapping[str, str]) -> None:
    """Raise InputError, naming the files, if they differ from the `recorded` digests."""
    found = digests(folder)
    names = sorted(recorded.keys() | found.keys())
    if altered := [name for name in names if recorded.get(name) != found.get(name)]:
        words = {(True, False): "missing", (False, True): "added", (True, True): "changed"}
        raise InputError(
            "its files are not those that were logged: "
            + shortlist(f"{name} {words[name in recorded, name in found]}" for name in altered)
            + "; restore them, or train again"
        )


def check_harmless(folder: Path, flavors: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise InputError unless a model is a pt2 archive that contains no code.

    `flavors` is what its MLmodel says about loading it.
    """
    loading = {"loader_module": None, "data": None, **flavors.get("python_function", {})}
    if loading.get("config") == {"device": None}:  # MLflow's default
        loading["config"] = PLAIN["config"]
    for key, value in loading.items():
        if key not in IDLE and (key not in PLAIN or value != PLAIN[key]):
            raise InputError(f"loading it could run code: its MLmodel has {key} {value!r}")
    archive = folder / "data" / "model.pt2"
    if {path.name for path in archive.parent.glob("*")} != {archive.name}:
        raise InputError("loading it could run code: data holds more than model.pt2")
    check_archive(archive.read_bytes())


def check_archive(archive: bytes) -> None:
    """Raise InputError unless a pt2 archive contains no code."""
    try:
        danger = next(_dangers(archive), None)
    except Exception as error:  # whatever the readers of zip, JSON and tensors raise
        raise InputError(f"its data/model.pt2 is broken ({first_line(error)})") from None
    if danger:
        raise InputError(f"loading it could run code: its data/model.pt2 has {danger}")


def _dangers(archive: bytes) -> Iterator[str]:
    """Yield what could run code when a pt2 archive is loaded."""
    # Read as the loader does. If that fails, it opens the file as an older format, with zipfile.
    records = PT2ArchiveReader(BytesIO(archive))
    names = records.get_file_names()
    with ZipFile(BytesIO(archive)) as same:
        names += [name.partition("/")[2] for name in same.namelist()]
    yield from (f"the record {name!r}" for name in names if not RECORD.fullmatch(name))
    for kind in ("weights", "constants"):
        config = json.loads(records.read_bytes(f"data/{kind}/model_{kind}_config.json"))["config"]
        yield from (f"{name!r} pickled" for name in config if config[name]["use_pickle"])
    try:
        torch.load(BytesIO(records.read_bytes("data/sample_inputs/model.pt")), weights_only=True)
    except Exception:  # of any kind: the loader would now retry without the restriction
        yield "example inputs that are not only tensors"
    yield from _dangers_of_program(json.loads(records.read_bytes("models/model.json")))


def _dangers_of_program(value: object, key: str = "") -> Iterator[str]:
    """Yield what could run code in the program (JSON): any string that lacks the expected form.

    `key` is the program's name for the value, or for the list that contains it.
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
