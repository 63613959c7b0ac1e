"""Do gates help a recurrent network to remember? The adding problem, in plain PyTorch."""

from train import train

from pipeline import Ablation, Outcome

ablation = Ablation(
    program=train,
    variants={"plain": {"cell": "RNN"}, "gru": {"cell": "GRU"}, "lstm": {"cell": "LSTM"}},
    words={"cell": {"RNN": "a plain cell", "GRU": "a GRU", "LSTM": "an LSTM"}},
    outcome=Outcome("test_mse", better="lower", margin=0.01),
)
