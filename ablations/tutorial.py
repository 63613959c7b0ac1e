"""Do BatchNorm and Dropout help? The question of the tutorial that this project comes from."""

from pipeline import Ablation, CNNNetwork
from pipeline.data import cifar100, synthetic

ablation = Ablation(
    network=CNNNetwork,  # called with a variant's settings
    variants={
        "base": {},
        "bn": {"batch_norm": True},
        "dropout": {"batch_norm": True, "dropout": True},  # the tutorial's last network
        "base_dropout": {"dropout": True},  # completes the 2x2 design
    },
    compared=("base", "bn", "dropout"),  # unless others are asked for
    words={"batch_norm": "BatchNorm", "dropout": "Dropout"},
    datasets={"cifar100": cifar100.load, "synthetic": synthetic.generate},
    name="cnn",
)
