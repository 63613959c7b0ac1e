"""Repeat runs from their records."""

import logging
from typing import TYPE_CHECKING

from pipeline.api import use_options
from pipeline.api.environment import set_variables
from pipeline.config import check_at_least, text_of
from pipeline.imports import importing

if TYPE_CHECKING:
    from pipeline.reproduction.reproduce import Reproduced

log = logging.getLogger(__name__)


def reproduce(
    run_id: use_options.RunId,
    *,
    epochs: use_options.FirstEpochs = None,
    data_dir: use_options.OtherDataDir = None,
) -> "list[Reproduced]":
    """Train a run again from its record and compare every metric; of a study, one of each variant.

    Returns a comparison for each run that is repeated.

    Raises InputError if it can't be repeated here.
    """
    if epochs is not None:
        check_at_least("epochs", epochs, 1)
    run_id = text_of("run_id", run_id)
    data_dir = None if data_dir is None else text_of("data_dir", data_dir)
    set_variables()
    with importing():
        from pipeline.reproduction.reproduce import describe, records_of, reproduce
        from pipeline.store.initialization import check_experiment_of, check_store
        from pipeline.store.interface import where_to_look

    check_store()
    found = []
    for record in records_of(run_id, epochs):
        # Which takes the repetition.
        check_experiment_of(record.run.run_id, record.run.experiment_id)
        for line in describe(record):
            log.info(line)
        one = reproduce(record, epochs, data_dir)
        log.info(f"{one.words}\n{where_to_look(one.experiment_id, one.run_id)}")
        found.append(one)
    return found
