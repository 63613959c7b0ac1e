"""Record which files an ablation's networks, and what trains them, open."""

from contextlib import suppress

from pipeline.ablation.recording import keep, recording
from pipeline.data.augmentation import normalise
from pipeline.models.trial.repeating import few
from pipeline.training.epoch import plain_step
from pipeline.training.spec import RunSpec


def record_inputs(spec: RunSpec) -> None:
    """Build what trains each variant, use it once, and record what that opens.

    All variants, whichever are asked for: what one reads and keeps, another may use. It must come
    before anything else builds one. Whatever fails is left to the trial to explain.
    """
    source = spec.ablation.source
    for variant in spec.ablation.variants:
        tried = spec.changed(variant=variant)
        with recording(source, variant) as first:
            _use(tried)
        if first.read:
            with recording(source, variant) as again:
                _use(tried)
            keep(source, first.read - again.read)


def _use(spec: RunSpec) -> None:
    with suppress(Exception):
        _ = spec.augmentation
    with suppress(Exception):
        network, criterion, optimizer = spec.build()
        scheduler = spec.schedule(optimizer)
        split = few(spec.data.training, 2)
        images = normalise(split.images)
        network.eval()(images)
        network.train()
        plain_step(network, criterion, optimizer, "fp32")(images, split.labels)
        if scheduler:
            scheduler.step()
