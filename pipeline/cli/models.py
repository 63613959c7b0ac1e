"""The commands that use a model: classify pictures, serve it."""

import os
import sys

from pipeline.api import use_options
from pipeline.api.models import predictions_of
from pipeline.config import check_at_least
from pipeline.errors import InputError, percent, plural, printable
from pipeline.imports import importing

TABLE = "-"  # predictions on the terminal


def predict(
    model: use_options.Model,
    images: use_options.Images,
    top: use_options.Top = 5,
    output: use_options.Output = TABLE,
    recursive: use_options.Recursive = False,
) -> int:
    """Classify pictures of any kind and size; exit status 1 if some can't be read."""
    check_at_least("top", top, 1)
    project_run = os.environ.get("MLFLOW_RUN_ID")
    with importing():
        from pipeline.models import prediction
        from pipeline.store.interface import where_to_look
        from pipeline.store.lookup import get_run
        from pipeline.upstream import typed_in

    if output != TABLE:
        prediction.check_output(output, typed_in())
    predictions = predictions_of(model, images, top, recursive)
    unread = [one for one in predictions if one.error]
    if output != TABLE:
        prediction.write(predictions, typed_in() / output)
        print(f"{output}: {len(predictions) - len(unread)} of {len(predictions)} classified")
    elif len(unread) < len(predictions):
        print(prediction.as_table(predictions))
    accuracy, labelled = prediction.accuracy(predictions)
    if labelled:
        of = f"of {plural(labelled, 'picture')} in folders named after a class"
        print(f"accuracy {percent(accuracy)}, {of}")
    for one in unread:
        print(f"not read: {printable(one.file)}: {one.error}", file=sys.stderr)
    if project_run:
        print(where_to_look(get_run(project_run).info.experiment_id, project_run))
    return 1 if unread else 0


def serve(
    model: use_options.Model,
    host: use_options.Host = "127.0.0.1",
    port: use_options.Port = 8000,
    follow: use_options.Follow = False,
    allowed_hosts: use_options.AllowedHosts = "",
) -> None:
    """Serve a model over HTTP, with a page to try it, until SIGTERM or Ctrl-C."""
    if not 0 <= port < 2**16:
        raise InputError(f"port is {port}; it must be from 0 to {2**16 - 1}")
    with importing():
        from pipeline.serving.server import serve
        from pipeline.store.initialization import check_store

    check_store()
    serve(model, host, port, follow, allowed_hosts)
