"""The tutorial's ablation on few images: all of them take a second, and so aliases may move."""

from dataclasses import replace

from pipeline.ablation.loading import load_ablation
from pipeline.data import synthetic

ablation = replace(
    load_ablation("auto"), datasets={"synthetic": lambda: synthetic.generate(500, 2_000)}
)
