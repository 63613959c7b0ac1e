"""What a run says of itself: tags for people and searches, one tag for the rest, a description."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress

import mlflow
from mlflow.entities import Run

from pipeline.errors import InputError

# The tags that people look for, or that a search filters by. A run's page begins with them.
SHOWN = (
    *("kind", "ablation", "variant", "settings", "other_weights", "dataset"),
    *("images", "data_digest", "device", "precision", "study", "plan"),
    *("model_uri", "model_version", "continued_from", "reproduced_run", "reproduction"),
)
OURS = ("mlflow.", "pipeline.")  # how the names of tags begin that MLflow or the store reads
# All others, as JSON: a search returns them with each run, where a file would take a request.
DETAILS = "pipeline.details"
RECORD_FILE = "record.json"  # the same for people, with the settings
MAX_CHARACTERS = 8000  # in a tag; MLflow cuts longer ones, which would leave no JSON

FAILURE, DESCRIPTION = "failure", "mlflow.note.content"
KIND = "kind"
ADOPTED = "pipeline.adopted"  # of a program's run: the run that it has logged its outcome to
# Only a program's run that has it was ended by us: one that a program ended may be only half done.
EXIT_STATUS = "pipeline.exit_status"
PARENT_TAG = "mlflow.parentRunId"  # of a study's run: the study
BEGUN_BY = "pipeline.begun_by"  # the run whose program has begun this one


def pack(values: Mapping[str, object]) -> dict[str, str]:
    """The tags of a run that has these values, by name; empty ones are left out, or in `DETAILS`.

    Raises InputError if they are too long.
    """
    texts = {name: v if isinstance(v, str) else json.dumps(v) for name, v in values.items()}
    tags = {n: text for n, text in texts.items() if n in SHOWN or n.startswith(OURS)}
    rest = {name: text for name, text in texts.items() if name not in tags}
    tags[DETAILS] = json.dumps(rest, ensure_ascii=False)
    for name, text in tags.items():
        if len(text) > MAX_CHARACTERS:
            longest = max(rest, key=lambda one: len(rest[one])) if name == DETAILS else name
            raise InputError(
                f"what a run records takes {len(text):,} characters, over the limit of"
                f" {MAX_CHARACTERS:,}; shorten its {longest}, which takes most:"
                f" {texts[longest][:50]}…"
            )
    return {name: text for name, text in tags.items() if text}


def unpack(run: Run) -> dict[str, str]:
    """All that a run's tags say, by name. One that was set later, or by hand, counts."""
    details: object = None
    with suppress(ValueError):
        details = json.loads(run.data.tags.get(DETAILS, "{}"))
    if not isinstance(details, dict) or not all(isinstance(v, str) for v in details.values()):
        details = {}  # somebody has edited it
    return details | {name: tag for name, tag in run.data.tags.items() if name != DETAILS}


def kind_of(run: Run) -> str:
    """What a run of this project is: train, study, evaluate, …; empty for another's."""
    return str(run.data.tags.get(KIND, ""))


def for_people(values: Mapping[str, object], settings: Mapping[str, object]) -> dict[str, object]:
    """The content of a run's RECORD_FILE."""
    ours = {name: value for name, value in values.items() if not name.startswith(OURS)}
    return {"parameters": dict(settings), **ours}


def resume_command(run_id: str) -> str:
    """The command that continues a training run."""
    return f"python -m pipeline train --resume {run_id}"


def say_failure(
    run_id: str, status: str, reason: str, to_continue: bool = True, output: Sequence[str] = ()
) -> None:
    """Record why a run has ended, as a tag and at the beginning of its description.

    With how `to_continue` it, if it can be, and the last lines of its output, none of them empty.
    The rest of a description, such as a user's, stays.
    """
    client = mlflow.MlflowClient()
    run = client.get_run(run_id)
    resume = f"`{resume_command(run_id)}`"
    if PARENT_TAG in run.data.tags:
        resume = f"the study's command again, or {resume}"
    ways = {"train": resume, "study": "the same command again"}
    way = ways.get(kind_of(run)) if to_continue else None
    client.set_tag(run_id, FAILURE, reason)
    then = f"; continue by: {way}" if way else ""
    if output:  # in the same paragraph, which ends at an empty line
        then += "\n".join(["\n````", *output, "````"])
    _describe_end(run, status, reason, then)


def say_continued(run: Run, by: str) -> None:
    """Say that what a stopped or failed run has begun is continued by another: a link, `by`."""
    if run.info.lifecycle_stage == "active" and FAILURE in run.data.tags:
        _describe_end(run, run.info.status, run.data.tags[FAILURE], f"; continued by {by}")


def _describe_end(run: Run, status: str, reason: str, then: str) -> None:
    # As code: in Markdown, `_` and `*` would be emphasis.
    quoted = reason.replace("`", "'")
    description = "\n\n".join([f"**{status}:** `{quoted}`{then}", *_own_paragraphs(run)])
    if len(description) <= MAX_CHARACTERS:
        mlflow.MlflowClient().set_tag(run.info.run_id, DESCRIPTION, description)


def forget_failure(run: Run) -> None:
    """Delete what `say_failure` has recorded, if it has."""
    client, run_id = mlflow.MlflowClient(), run.info.run_id
    if FAILURE not in run.data.tags:
        return
    client.delete_tag(run_id, FAILURE)
    if paragraphs := _own_paragraphs(run):
        client.set_tag(run_id, DESCRIPTION, "\n\n".join(paragraphs))
    elif DESCRIPTION in run.data.tags:
        client.delete_tag(run_id, DESCRIPTION)


def _own_paragraphs(run: Run) -> list[str]:
    """The paragraphs of a description without the one of `say_failure`."""
    paragraphs = run.data.tags.get(DESCRIPTION, "").split("\n\n")
    ours = tuple(f"**{status}:**" for status in ("FAILED", "KILLED", "FINISHED"))
    return [one for one in paragraphs if one and not one.startswith(ours)]
