"""A run can be repeated and continued, whatever is random in it and whatever state it has."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlflow
import numpy as np
import pytest
import torch
from conftest import Answer, broken_epoch, runs_in, states_of_all_epochs
from mine import TRAIN, write
from torch import Tensor, nn
from torch.nn.utils import prune
from trained import spec_of, train_network

from pipeline.config import Config
from pipeline.models.trial.recipe import train_once
from pipeline.models.trial.variants import try_variants
from pipeline.training.epoch import plain_step
from pipeline.training.state import TrainingState, pack, unpack
from pipeline.training.stateful import Parts

CPU = torch.device("cpu")
LEARNED = ("train_loss", "train_accuracy", "val_loss", "val_accuracy", "lr")
CRITERION = """
class Loss(nn.CrossEntropyLoss):
    def __init__(self):
        super().__init__()
        self.setup()
    def setup(self):
        SETUP
    def forward(self, x, labels):
        FORWARD
        return super().forward(x, labels) * factor

ablation = Ablation(
    network=Mine, criterion=lambda: Loss(),"""
OPTIMIZER = """
class Own(torch.optim.SGD):
    steps = 0
    def step(self):
        self.steps += 1
        self.param_groups[0]["lr"] /= self.steps
        super().step()

ablation = Ablation(
    network=Mine, optimizer=lambda parameters, lr: Own(parameters, lr),"""


def criterion(setup: str, forward: str) -> tuple[str, str]:
    """A criterion of one's own that scales cross-entropy by `factor`."""
    text = CRITERION.replace("SETUP", setup).replace("FORWARD", forward)
    return "\nablation = Ablation(\n    network=Mine,", text


def schedule(text: str) -> tuple[str, str]:
    return "network=Mine,", f"network=Mine, schedule={text},"


def network(setup: str, step: str) -> tuple[tuple[str, str], ...]:
    """A change of the network: `step` comes in the n-th call in training, and may change x."""
    return (
        ("        self.fc =", "        self.n = 0; self.fc ="),
        ("num_classes)\n\n", f"num_classes); {setup}\n\n"),
        (
            "x = self.activation(",
            f"self.n += self.training\n        {step}\n        x = self.activation(",
        ),
    )


RATES = "torch.optim.lr_scheduler"
COSINE = "lambda n: 0.5 * (1 + np.cos(np.pi * n / epochs))"
# What is random, or has a state that no state dict holds.
HARD = {
    "numpy in forward": [
        (
            "x = self.activation(",
            "mix = np.random.beta(1, 1) if self.training else 1\n"
            "        x = mix * self.activation(",
        ),
    ],
    "random in a criterion": [
        criterion("pass", "import random; factor = random.betavariate(1, 1)")
    ],
    "a buffer of a criterion": [
        criterion(
            "self.register_buffer('mean', torch.zeros(()))",
            "self.mean.mul_(0.9).add_(x.detach().mean() ** 2); factor = 1 + self.mean",
        )
    ],
    "a buffer that is not persistent": [
        criterion(
            "self.register_buffer('mean', torch.zeros(()), persistent=False)",
            "self.mean = 0.9 * self.mean + x.detach().mean() ** 2; factor = 1 + self.mean",
        )
    ],
    "a tensor that is no buffer": [
        criterion(
            "self.mean = torch.zeros(())",
            "self.mean = 0.9 * self.mean + x.detach().mean() ** 2; factor = 1 + self.mean",
        )
    ],
    "a counter": [criterion("self.steps = 0", "self.steps += 1; factor = 1 / self.steps")],
    "a counter that begins later": [
        criterion("pass", "self.steps = getattr(self, 'steps', 0) + 1; factor = 1 / self.steps")
    ],
    "a NumPy number and an array": [
        criterion(
            "self.sum = np.float32(1); self.table = np.ones(3)",
            "self.sum *= np.float32(1.1); self.table[0] += 0.1;"
            " factor = float(self.sum) * self.table[0]",
        )
    ],
    "a list of losses": [
        criterion(
            "self.seen = [1.0]",
            "self.seen.append(float(x.detach().std())); factor = sum(self.seen)",
        )
    ],
    "a counter in the network": [
        (
            "x = self.activation(",
            "self.calls = getattr(self, 'calls', 0) + self.training\n"
            "        x = x / (1 + self.calls)\n        x = self.activation(",
        ),
    ],
    "memory that is shared with a weight at first": network(
        "self.anchor = self.fc.weight.data",
        "if self.n == 4: self.anchor = self.anchor.clone()\n        x = x + self.anchor.std()",
    ),
    "memory that is shared with a weight later": network(
        "self.anchor = torch.ones(3)",
        "if self.n == 4: self.anchor = self.fc.weight.data[1]\n        x = x + self.anchor.std()",
    ),
    "memory that two attributes share at first": network(
        "self.one = self.other = torch.ones(3)",
        "if self.n == 4: self.one = self.one + 1\n"
        "        self.other *= 1.1\n        x = x * self.one.sum() / self.other.sum()",
    ),
    "memory that an attribute shares with a closure": network(
        "scale = torch.ones(1); self.scale = scale; self.scaled = lambda x: x * scale",
        "if self.n == 4: self.scale *= 2\n        x = self.scaled(x)",
    ),
    "a norm of a weight": network(
        "torch.nn.utils.spectral_norm(self.fc)",
        "pass",
    ),
    "a weight that is frozen": network("", "if self.n == 4: self.conv.requires_grad_(False)"),
    "an attribute of a parameter": network(
        "self.fc.weight.calls = 1",
        "self.fc.weight.calls += self.training\n        x = x / self.fc.weight.calls",
    ),
    "a dictionary by shape": network(
        "self.seen = {}",
        "size = tuple(x.shape[2:])\n"
        "        self.seen[size] = self.seen.get(size, 0) + self.training\n"
        "        x = x / (1 + self.seen[size])",
    ),
    "marks that torch.compile leaves": network(
        "self.fc.weight._dynamo_static_input_type = object()",
        "self.fc.weight._dynamo_static_input_type = object()",
    ),
    "sets, strings, shapes and a sparse tensor": network(
        "self.seen, self.name, self.eye = frozenset(), np.str_(), torch.eye(3).to_sparse()",
        "self.shape, self.kind, self.seen = x.shape, x.dtype, self.seen | {self.n}\n"
        "        self.name = np.str_(self.name + 'a'); self.eye = self.eye * 1.1\n"
        "        x = x * len(self.seen) / len(self.name) + torch.sparse.sum(self.eye)",
    ),
    "an attribute of an optimizer": [
        ("\nablation = Ablation(\n    network=Mine,", OPTIMIZER),
    ],
    "a parameter of a criterion": [
        criterion(
            "self.scale = nn.Parameter(torch.rand(()))",
            "factor = self.scale.exp()",
        )
    ],
    "several outputs": [
        criterion(
            "pass",
            "x, (other, _) = x if self.training else (x, (x, x))\n        factor = other.std()",
        ),
        ("return self.fc(", "return (lambda y: (y, [y, y]) if self.training else y)(self.fc("),
        ("-1))", "-1)))"),
    ],
    "mixup in the network": [
        criterion(
            "pass",
            "order, share, x = x.values()\n"
            "        factor = share * (x[order] - x).abs().mean() + 1",
        ),
        (
            "return self.fc(x.view(x.size(0), -1))",
            "y = self.fc(x.view(x.size(0), -1))\n"
            "        order, share = torch.randperm(len(y)), torch.rand(())\n"
            "        parts = {'order': order, 'share': share, 'logits': y}\n"
            "        return OrderedDict(parts) if self.training else y",
        ),
        ("import numpy as np", "from collections import OrderedDict\nimport numpy as np"),
    ],
    "a NumPy learning rate": [
        schedule(f"lambda o, epochs: {RATES}.LambdaLR(o, {COSINE})"),
    ],
    "a NumPy learning rate in single precision": [
        schedule(
            f"lambda o, epochs: {RATES}.MultiplicativeLR(o, lambda n: np.float32(0.7))",
        )
    ],
    "a schedule per batch": [
        schedule(
            "lambda o, epochs, steps_per_epoch:"
            f" {RATES}.OneCycleLR(o, 0.01, epochs=epochs, steps_per_epoch=steps_per_epoch)",
        )
    ],
    "a schedule by the validation loss": [
        schedule(f"lambda o, epochs: {RATES}.ReduceLROnPlateau(o, patience=0, threshold=9)"),
    ],
}


@pytest.mark.parametrize("changes", HARD.values(), ids=HARD)
def test_training_that_is_repeated_or_continued_gives_the_same_bits(
    changes: Sequence[tuple[str, str]], tmp_path: Path
) -> None:
    write(tmp_path, *changes)
    file = str(tmp_path / "mine.py")
    spec = spec_of(Config(file, epochs=4, batch_size=32, lr=0.01))
    saved = list[bytes]()

    def train(state: TrainingState | None = None) -> tuple[list[dict[str, float]], list[Tensor]]:
        saved.clear()
        network, history, _ = train_network(
            spec, state, lambda state: saved.append(pack(state, ""))
        )
        learned = [{name: getattr(epoch, name) for name in LEARNED} for epoch in history]
        return learned, list(network.state_dict().values())

    history, weights = train()
    assert history[0]["train_loss"] != history[1]["train_loss"]
    middle = unpack(saved[1], "")
    for state in (None, middle):
        again, same = train(state)
        assert again == history
        assert all(torch.equal(*pair) for pair in zip(weights, same, strict=True))


def test_a_run_with_every_kind_of_state_continues_to_the_same_bits(
    pipeline: Callable[..., Answer], tmp_path: Path
) -> None:
    kinds = ("a buffer of a criterion", "a NumPy learning rate", "a counter in the network")
    write(tmp_path, *(change for kind in kinds for change in HARD[kind]))
    command = (*TRAIN, "--epochs", "4", "--lr", "0.01")
    answer = pipeline(*command)
    assert answer.status == 0, answer.err
    assert "warning" not in answer.err
    with broken_epoch(3), states_of_all_epochs():
        assert pipeline(*command).status == 1
    answer = pipeline("train", "--resume", runs_in(tmp_path)[0].info.run_id)
    assert answer.status == 0, answer.err
    assert "continues after 2 of 4 epochs" in answer.out
    assert "not used" not in answer.err
    continued, whole = runs_in(tmp_path)
    client = mlflow.MlflowClient()
    for name in LEARNED:
        one, other = (
            [metric.value for metric in client.get_metric_history(run.info.run_id, name)]
            for run in (whole, continued)
        )
        assert one == other, name


# What can't be repeated or continued is named before anything is trained.
NOT_REPEATABLE = {
    "a generator of one's own": (
        [
            (
                "x = self.activation(",
                "mix = np.random.default_rng().random() if self.training else 1\n"
                "        x = mix * self.activation(",
            )
        ],
        ["a run can't be repeated", "differs with the same seed", "global generators"],
    ),
    "a generator in an attribute": (
        [criterion("self.random = np.random.default_rng(0)", "factor = self.random.random()")],
        [
            "a run can't be continued",
            "not saved: criterion.random",
            "attributes that are numbers",
        ],
    ),
    "a counter of the whole process": (
        [criterion("pass", "Loss.steps = getattr(Loss, 'steps', 0) + 1; factor = 1 / Loss.steps")],
        ["a run can't be repeated", "differs with the same seed"],
    ),
    "a buffer that is made in the first step": (
        [
            ("self.fc = ", "self.register_buffer('mean', None); self.fc = "),
            ("x = self.activation(", "self.mean = x.mean()\n        x = self.activation("),
        ],
        ["a new network can't take the state", "(mean)", "make all layers, buffers"],
    ),
    "a learning rate of an unknown kind": (
        [
            (
                "\nablation = Ablation(\n    network=Mine,",
                "\nclass Own(torch.optim.SGD):\n    pass\n\nclass Rate(float):\n    pass\n\n"
                "ablation = Ablation(\n    network=Mine,"
                " optimizer=lambda parameters, lr: Own(parameters, Rate(lr)),",
            )
        ],
        ["it can't be trained", "param_groups in the optimizer's state can't be saved"],
    ),
}


@pytest.mark.parametrize(("changes", "words"), NOT_REPEATABLE.values(), ids=NOT_REPEATABLE)
def test_what_can_not_be_repeated_or_continued_is_named_before_it_is_trained(
    changes: list[tuple[str, str]],
    words: list[str],
    pipeline: Callable[..., Answer],
    tmp_path: Path,
) -> None:
    write(tmp_path, *changes)
    answer = pipeline(*TRAIN)
    assert answer.status == 2, answer.err
    (line,) = answer.error_lines
    for word in words:
        assert word in line
    assert not runs_in(tmp_path)


def test_an_attribute_that_changes_and_is_not_saved_is_named_even_if_no_number_depends_on_it(
    pipeline: Callable[..., Answer], tmp_path: Path
) -> None:
    changes = criterion(
        "from collections import deque; self.last = deque(maxlen=9)",
        "self.last.append(float(x.detach().mean())); factor = 1",
    )
    write(tmp_path, changes)
    answer = pipeline(*TRAIN)
    assert answer.status == 0, answer.err
    assert "warning: variant 'plain': criterion.last changes in training" in answer.err
    # The trial has shown that a run may go on without it.
    answer = pipeline("train", "--resume", runs_in(tmp_path)[0].info.run_id, "--epochs", "3")
    assert answer.status == 0, answer.err
    assert "continues after 2 of 3 epochs" in answer.out


def test_a_run_is_not_continued_without_what_begins_to_change_after_the_trial(
    pipeline: Callable[..., Answer], tmp_path: Path
) -> None:
    changes = criterion(
        "from collections import deque; self.last = deque(maxlen=9); self.n = 0",
        "self.n += 1; self.last.extend([1] * (self.n > 4)); factor = 1 + sum(self.last)",
    )
    write(tmp_path, changes)
    assert pipeline(*TRAIN).status == 0
    run_id = runs_in(tmp_path)[0].info.run_id
    answer = pipeline("train", "--resume", run_id, "--epochs", "3")
    assert answer.status == 0, answer.err
    assert "continues after 0 of 3 epochs" in answer.out
    said = f"the state of run {run_id} is incomplete (criterion.last changed in training"
    assert said in answer.err


class Grown(nn.Module):
    """A network whose structure a test changes."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.activation, self.fc = nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3)
        self.register_buffer("seen", torch.zeros(0))


CHANGES = {
    "another layer": ("network.activation = nn.Tanh()", "network.activation"),
    "a new layer": ("network.more = nn.Linear(4, 4)", "network.more"),
    "a layer less": ("del network.activation", "network.activation"),
    "a new layer of the same kind": ("network.fc.weight = nn.Parameter(b)", "network.fc.weight"),
    "shared weights": ("network.layer = network.fc", "network.layer.weight"),
    "pruning": ("prune.random_unstructured(network.fc, 'weight', 0.5)", "network.fc.weight"),
    "a buffer that grows": ("network.seen = torch.zeros(1)", "network.seen"),
    "what is trained": ("optimizer.add_param_group({'params': [b]})", "optimizer.param_groups"),
    "an attribute": ("network.fc.box = object()", "network.fc.box"),
    "an attribute of a weight": ("network.fc.weight.box = object()", "network.fc.weight.box"),
    "an attribute in a state dict": ("optimizer.box = object()", ""),
    "data": ("network.fc.count = 1", ""),
}


@pytest.mark.parametrize(("change", "name"), CHANGES.values(), ids=CHANGES)
def test_a_state_says_what_it_does_not_hold(change: str, name: str) -> None:
    network = Grown()
    optimizer = Saved(network.parameters(), 0.1)
    parts = Parts(network, nn.CrossEntropyLoss(), optimizer)
    assert not parts.state([]).unsaved
    names = {"network": network, "optimizer": optimizer, "b": torch.zeros(3, 4)}
    exec(change, {**names, "nn": nn, "prune": prune, "torch": torch})
    unsaved = parts.state([]).unsaved
    assert name in unsaved if name else not unsaved


class Saved(torch.optim.SGD):
    """An optimizer that says what its state is."""

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict()


def test_a_schedule_per_batch_is_tried_with_the_steps_that_it_will_have(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    one = f"{RATES}.OneCycleLR(o, 0.01, total_steps=epochs * steps_per_epoch, pct_start=0.1)"
    write(tmp_path, schedule(f"lambda o, epochs, steps_per_epoch: {one}"))
    file = str(tmp_path / "mine.py")
    spec = spec_of(Config(file, epochs=5, batch_size=9))
    try_variants(spec, ["plain"])  # of 2 steps, a tenth would be none
    for few in ({"epochs": 3, "batch_size": 256}, {"epochs": 2, "batch_size": 89}):  # 3, 4 steps
        try_variants(spec.changed(**few), ["plain"])
    # That it begins with a smaller learning rate than was asked for is no reason to warn.
    assert "warning" not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("words", "warned"),
    [
        ("o, epochs: {}.CosineAnnealingLR(o, epochs * 10)", "CosineAnnealingLR for 50 steps"),
        ("o, epochs, steps_per_epoch: {}.CosineAnnealingLR(o, epochs)", "takes 50"),
        (
            "o, epochs: {0}.SequentialLR(o, [{0}.LinearLR(o),"
            " {0}.OneCycleLR(o, 0.1, total_steps=500)], [1])",
            "OneCycleLR for 500 steps, and it takes 5",
        ),
        (
            "o, epochs: {0}.SequentialLR(o, [{0}.LinearLR(o),"
            " {0}.CosineAnnealingLR(o, epochs - 1)], [1])",
            "",
        ),
    ],
)
def test_a_schedule_that_does_not_come_to_its_end_is_named(
    words: str, warned: str, tmp_path: Path
) -> None:
    write(tmp_path, schedule(f"lambda {words.format(RATES)}"))
    config = Config(str(tmp_path / "mine.py"), "plain", epochs=5, batch_size=9)
    _, warnings = train_once(spec_of(config))
    assert len(warnings) == bool(warned)
    assert warned in "".join(warnings)


class Counted(nn.Module):
    """A linear layer with what a CUDA graph would not see change."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)
        self.recurrent = nn.GRU(3, 3)
        self.listed = [self.layer]
        self.box = SimpleNamespace(count=0, function=lambda: None)
        self.counts = False

    def forward(self, x: Tensor) -> Tensor:
        self.box.count += self.counts
        logits: Tensor = self.recurrent(self.layer(x))[0]
        return logits


class Decaying(torch.optim.SGD):
    """Its learning rate is a number that Python changes."""

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        super().step()
        self.param_groups[0]["lr"] *= 0.5


@pytest.mark.parametrize("what", ["nothing", "an object", "the rate", "a draw"])
def test_what_a_step_changes_in_python_is_seen(what: str) -> None:
    network, criterion = Counted(), nn.CrossEntropyLoss()
    kind = Decaying if what == "the rate" else torch.optim.SGD
    optimizer = kind(network.parameters(), 0.1)
    parts = Parts(network, criterion, optimizer)
    network.counts = what == "an object"
    step = plain_step(network, criterion, optimizer, "fp32")
    images, labels = torch.ones(2, 4), torch.zeros(2, dtype=torch.int64)
    step(images, labels)
    held = parts.held_by_python()
    step(images, labels)
    if what == "a draw":
        np.random.rand()
    assert (parts.held_by_python() == held) == (what == "nothing")
    # A list of layers that are saved anyway, as recurrent ones hold, is no reason to warn.
    assert parts.unsaved() == (["network.box"] if what == "an object" else [])


def test_a_parameter_of_a_criterion_is_trained(tmp_path: Path) -> None:
    write(tmp_path, *HARD["a parameter of a criterion"])
    spec = spec_of(Config(str(tmp_path / "mine.py"), epochs=1, batch_size=32))
    states = list[TrainingState]()
    begun = spec.criterion().state_dict()["scale"]
    train_network(spec, save=states.append)
    assert states[0].criterion["scale"] < begun  # which makes the loss smaller


def test_parameters_of_a_criterion_start_alike_in_all_variants(tmp_path: Path) -> None:
    loss = """
class Prototypes(nn.Module):
    def __init__(self, extra=False):
        super().__init__()
        if extra:
            self.extra = nn.Parameter(torch.randn(4))
        self.prototypes = nn.Parameter(torch.randn(3, 3))

    def forward(self, outputs, labels):
        return nn.functional.cross_entropy(outputs @ self.prototypes, labels)
"""
    write(
        tmp_path,
        ("\nablation = Ablation(", f"{loss}\nablation = Ablation(\n    criterion=Prototypes,"),
        ('"tanh": {"activation": "tanh"}', '"extra": {"extra": True}'),
    )
    spec = spec_of(Config(str(tmp_path / "mine.py"), "plain"))
    plain, extra, other = (
        spec.changed(variant=variant, seed=seed).criterion().state_dict()
        for variant, seed in (("plain", 0), ("extra", 0), ("plain", 1))
    )
    assert torch.equal(plain["prototypes"], extra["prototypes"])
    assert not torch.equal(plain["prototypes"].flatten()[:4], extra["extra"])
    assert not torch.equal(plain["prototypes"], other["prototypes"])


def test_data_and_an_ablation_that_draw_from_global_generators_are_the_same_every_time(
    tmp_path: Path,
) -> None:
    seeds = "int(9e6 * torch.rand(1)) + np.random.randint(9**6)"
    write(
        tmp_path,
        ("default_rng(0)", f"default_rng({seeds})"),
        ("ablation = Ablation(", "SCALE = float(np.random.rand())\n\nablation = Ablation("),
    )
    found = set()
    for _ in range(2):
        np.random.rand()  # what was drawn before does not matter
        spec = spec_of(Config(str(tmp_path / "mine.py")))
        found.add((spec.data.digest, sys.modules["ablation:mine"].SCALE))
    assert len(found) == 1
