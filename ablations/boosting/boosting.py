"""Does depth help gradient boosting? On the diabetes data that come with scikit-learn."""

from pipeline import Ablation, Outcome

ablation = Ablation(
    program="python train.py --depth {depth} --seed {seed}",
    variants={"stumps": {"depth": 1}, "trees": {"depth": 3}, "deep": {"depth": 6}},
    outcome=Outcome("test_rmse", better="lower", margin=1),
)
