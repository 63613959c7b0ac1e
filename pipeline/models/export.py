"""Export a trained network: its weights as a checkpoint, and a model that classifies pixels."""

import json
from collections.abc import Hashable, Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from functools import partial
from importlib.metadata import version
from io import BytesIO
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

import mlflow
import numpy as np
import torch
from mlflow.entities import LoggedModel, LoggedModelOutput, LoggedModelStatus, Metric, Run
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.types import Schema, TensorSpec
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram, export

from pipeline.ablation.definition import Arguments
from pipeline.data.dataset import ImageDataset
from pipeline.models.safety import digests
from pipeline.store import uploads
from pipeline.store.artifacts import at_once, missing_files, upload_folder
from pipeline.store.lookup import outputs_of
from pipeline.store.outages.waiting import in_store
from pipeline.upstream import storing

# On a logged model: its files' digests as JSON. The tag is in the store's database: altering the
# files does not alter it.
DIGESTS_TAG = "file_digests"
MODEL_FILE = "MLmodel"
PACKAGES = "mlflow", "numpy", "torch"  # that a model needs

_exported: dict[Hashable, ExportedProgram] = {}  # by the kind of network


class PixelClassifier(nn.Module):
    """A network in its registered form: pixels in, probabilities out.

    Preprocessing is included, so that users of the model can't get it wrong.

    Input: uint8 `[N, H, W, C]`, 0..255. Output: float32 `[N, num_classes]`, each row summing to 1.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the probabilities of a batch."""
        x = pixels.permute(0, 3, 1, 2).to(torch.float32) / 255
        return torch.softmax(self.network((x - 0.5) / 0.5), dim=1)


def signature(image_shape: Sequence[int], num_classes: int) -> ModelSignature:
    """The signature of a model: pixels in, `[N, H, W, C]`, probabilities out."""
    return ModelSignature(
        inputs=Schema([TensorSpec(np.dtype("uint8"), (-1, *image_shape))]),
        outputs=Schema([TensorSpec(np.dtype("float32"), (-1, num_classes))]),
    )


def log_network(
    network: nn.Module, settings: Arguments, data: ImageDataset, epochs: int, is_new: bool = False
) -> str:
    """Store a network trained for `epochs` in the active run, in 2 forms; return the model's URI.

    `checkpoint.pt` holds the weights for fine-tuning, and the `settings` that the network was built
    with. The model `model` classifies pixels; it is a pt2 archive, which loads without pickle and
    without any code but torch's. A model that already exists is kept; one that is incomplete, or
    whose files are gone, is deleted.

    is_new: whether the run was begun by this process, and can have no model yet.
    """
    portable = portable_network(network)
    # Not by torch itself, which reports a full disk as an internal error.
    content = BytesIO()
    torch.save({"settings": dict(settings), "state_dict": portable.state_dict()}, content)
    uploads.log_files({"checkpoint.pt": content.getvalue()})
    program = export_network(portable, settings, data)
    tries = count()

    @in_store
    def log_model() -> str:
        uploads.flush()  # the model gets the run's last metrics
        active = mlflow.active_run()
        assert active
        run = mlflow.get_run(active.info.run_id)
        has_models = next(tries) or not is_new
        return (has_models and _keep_model(run, epochs)) or _log_model(
            run, portable, program, data, epochs
        )

    return log_model()


def _keep_model(run: Run, epochs: int) -> str:
    """The URI of a run's whole model after these epochs, or nothing; delete what is incomplete."""
    client = mlflow.MlflowClient()
    steps = {output.model_id: output.step for output in outputs_of(run)}
    made = f"source_run_id = '{run.info.run_id}'"  # even if not among the outputs yet
    for model in client.search_logged_models([run.info.experiment_id], filter_string=made):
        recorded = model.status == LoggedModelStatus.READY and DIGESTS_TAG in model.tags
        if not recorded or not is_whole(model):
            client.delete_logged_model(model.model_id)
        elif steps.get(model.model_id) == epochs:
            return str(model.model_uri)
    return ""


def _log_model(
    run: Run, network: nn.Module, program: ExportedProgram, data: ImageDataset, epochs: int
) -> str:
    """Log a network and its exported program as a model; return its URI.

    `mlflow.pytorch.log_model` would store one file after another, and read the history of every
    metric (findings/mlflow_log_model_reads_the_history_of_every_metric_of_the_run.sh).
    """
    client, run_id = mlflow.MlflowClient(), run.info.run_id
    model = client.create_logged_model(
        run.info.experiment_id, "model", run_id, params=run.data.params
    )
    ids = {"run_id": run_id, "model_uuid": model.model_id, "model_id": model.model_id}
    metrics = [
        Metric(one.key, one.value, one.timestamp, one.step, model_id=model.model_id)
        for one in run.data.to_proto().metrics
        if one.step == epochs and not one.key.startswith("system/")
    ]
    with TemporaryDirectory() as folder:
        files = Path(folder) / "model"
        with storing(program):
            mlflow.pytorch.save_model(
                network,
                files,
                mlflow_model=Model(
                    artifact_path=model.artifact_location,
                    metadata={"dataset": data.name, "class_names": list(data.class_names)},
                    **ids,
                ),
                signature=signature(data.image_shape, data.num_classes),
                input_example=_example(data).numpy(),
                serialization_format="pt2",
                pip_requirements=[f"{name}=={version(name)}" for name in PACKAGES],
            )
        _run_on_cpu(files)
        at_once(
            (
                partial(client.log_outputs, run_id, [LoggedModelOutput(model.model_id, epochs)]),
                partial(client.log_batch, run_id, metrics),
                partial(upload_folder, model.artifact_location, files),
                partial(record_digests, files, model.model_id),
            )
        )
    client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
    return str(model.model_uri)


def export_network(network: nn.Module, settings: Arguments, data: ImageDataset) -> ExportedProgram:
    """Export a portable network in its registered form, in which it needs no code but torch's.

    Exporting takes longer than an epoch may, so it is done once for all networks that differ only
    in their weights: those of a class with the same settings. That nothing else differs is seen
    from what both compute from an example, to the last bit.
    """
    # Exporting freezes the mode, and a batch size of 1: hence an example of 2 images.
    classifier, example = PixelClassifier(network).eval(), _example(data)
    kind = (type(network), *settings.items())
    program = _exported.get(kind)
    if program is None or not _take_weights(program, classifier, example):
        program = _exported[kind] = export(classifier, (example,), dynamic_shapes=[{0: Dim.AUTO}])
    return program


def portable_network(network: nn.Module) -> nn.Module:
    """Return a copy that loads anywhere: on the CPU, in the default memory order."""
    return deepcopy(network).to("cpu").to(memory_format=torch.contiguous_format)


def _example(data: ImageDataset) -> Tensor:
    images = data.validation.images
    return images[torch.arange(2) % len(images)]


@torch.no_grad()
def _take_weights(program: ExportedProgram, classifier: PixelClassifier, example: Tensor) -> bool:
    weights = classifier.state_dict()
    shapes = {name: value.shape for name, value in weights.items()}
    if shapes != {name: value.shape for name, value in program.state_dict.items()}:
        return False
    for name, value in program.state_dict.items():
        value.copy_(weights[name])
    return torch.equal(program.module()(example), classifier(example))


def _run_on_cpu(files: Path) -> None:
    """Make a model of these files run on the CPU wherever it is loaded.

    MLflow would use a GPU if there is one, but a pt2 program stays on the device it was exported
    on, so loading would fail.
    """
    mlmodel = Model.load(str(files))
    mlmodel.flavors["python_function"]["config"] = {"device": "cpu"}
    mlmodel.save(str(files / MODEL_FILE))


def record_digests(files: Path, model_id: str) -> None:
    """Tag a logged model with the digests of its files."""
    tags = {DIGESTS_TAG: json.dumps(digests(files))}
    mlflow.MlflowClient().set_logged_model_tags(model_id, tags)


@in_store
def newest_model(model_ids: Sequence[str], run_id: str) -> LoggedModel | None:
    """The last model that a run has logged and not deleted, if there is one.

    model_ids: as the run names them, the newest first.
    """
    # Older MLflow servers leave a run's models out of a search.
    ids = model_ids or [one.model_id for one in outputs_of(mlflow.get_run(run_id))]
    return next(filter(None, map(find_model, ids)), None)


def is_whole(model: LoggedModel) -> bool:
    """Whether the files of a logged model are there, as far as one request can tell."""
    return not missing_files(model.artifact_location, file_names(model))


def file_names(model: LoggedModel) -> list[str]:
    """The files of a logged model, by path, as far as the store knows them."""
    return list(recorded_digests(model.tags)) or [MODEL_FILE]


def recorded_digests(tags: Mapping[str, str]) -> dict[str, str]:
    """What `record_digests` has recorded, by path; nothing if somebody has edited the tag."""
    with suppress(KeyError, ValueError, TypeError):
        return {str(path): digest for path, digest in dict(json.loads(tags[DIGESTS_TAG])).items()}
    return {}


@in_store
def find_model(model_id: str) -> LoggedModel | None:
    """A logged model by its id; None if there is none."""
    try:
        return mlflow.MlflowClient().get_logged_model(model_id)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise
