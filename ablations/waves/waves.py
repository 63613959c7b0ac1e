"""Does a smooth activation help a small network to fit a wave, at each width? With Lightning."""

from pipeline import Ablation, Outcome

ablation = Ablation(
    program="python train.py --width {width} --activation {activation} --seed {seed}",
    variants={
        "relu": {"width": 16, "activation": "ReLU"},
        "tanh": {"width": 16, "activation": "Tanh"},
        "wide_relu": {"width": 64, "activation": "ReLU"},
        "wide_tanh": {"width": 64, "activation": "Tanh"},
    },
    words={"activation": {"ReLU": "ReLU", "Tanh": "tanh"}},
    outcome=Outcome("test_mse", better="lower", margin=0.01),
)
