"""Record which files an ablation's networks, and what trains them, open."""

from contextlib import suppress
from dataclasses import replace

from pipeline.ablation.loading import load_ablation
from pipeline.ablation.recording import keep, recording
from pipeline.config import Config
from pipeline.data.augmentation import normalise
from pipeline.data.dataset import ImageDataset
from pipeline.models.trial.repeating import CPU, few
from pipeline.training.building.parts import prepare, schedule_of, steps_of
from pipeline.training.epoch import plain_step


def record_inputs(config: Config, data: ImageDataset) -> None:
    """Build what trains each variant, use it once, and record what that opens.

    All variants, whichever are asked for: what one reads and keeps, another may use. It must come
    before anything else builds one. Whatever fails is left to the trial to explain.
    """
    for variant in load_ablation(config.ablation).variants:
        tried = replace(config, variant=variant)
        with recording(config.ablation, variant) as first:
            _use(tried, data)
        if first.read:
            with recording(config.ablation, variant) as again:
                _use(tried, data)
            keep(config.ablation, first.read - again.read)


def _use(config: Config, data: ImageDataset) -> None:
    with suppress(Exception):
        load_ablation(config.ablation).augmentation_of(config.variant)
    with suppress(Exception):
        network, criterion, optimizer = prepare(config, data, CPU)
        scheduler, _ = schedule_of(config, optimizer, steps_of(config, data))
        split = few(data.training, 2)
        images = normalise(split.images)
        network.eval()(images)
        network.train()
        plain_step(network, criterion, optimizer, "fp32")(images, split.labels)
        if scheduler:
            scheduler.step()
