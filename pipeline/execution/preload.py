"""What a run of networks needs, imported by the process that those of a study are forks of."""

from pipeline.imports import importing

with importing():
    from pipeline import upstream
    from pipeline.runs import training_run  # noqa: F401

    upstream.import_ahead()
