"""Checkpoints: the training state after an epoch, in the store or in a local file."""

import logging
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pipeline.errors import MachineError, StoreError, StoreOutageError, shortlist
from pipeline.interruption import Interrupted
from pipeline.runs.record import RunRecord
from pipeline.store import uploads
from pipeline.store.artifacts import read_artifact
from pipeline.store.tags import resume_command
from pipeline.training.state import StateError, TrainingState, pack, unpack

log = logging.getLogger(__name__)


class Checkpoints:
    """Writes and reads the checkpoints of one run; only valid for its `fingerprint`.

    run_id: set it as soon as the run has begun.
    """

    def __init__(self, fingerprint: str, run_id: str = "") -> None:
        self.fingerprint = fingerprint
        self.run_id = run_id
        self.newest = b""  # written by this process
        self.pace = uploads.Pace()

    def write(self, state: Callable[[], TrainingState], is_last: bool, is_kept: bool) -> None:
        """Write a checkpoint, if that takes no more than its share of the time.

        It is on its way to the store when this returns, or to a local file during an outage. The
        last one is written at once, unless it is not kept: then it would soon be deleted.
        """
        if is_last or self.pace.is_due:
            with self.pace.writing():
                self.newest = pack(state(), self.fingerprint)
            uploads.save_state(self.newest, is_last and is_kept)

    def read(
        self, harmless: Callable[[], Collection[str]], of: RunRecord | None = None
    ) -> TrainingState | None:
        """Return the newest state of the run: the store's, or the one kept locally.

        harmless: returns what a state may lack. One that lacks anything else is not used.
        of: another run with the same fingerprint, whose state is read instead.
        """
        run_id = of.run_id if of else self.run_id
        content = read_artifact(of.artifact_uri, uploads.STATE_FILE) if of else uploads.load_state()
        contents = [content]
        if not of and self.file.exists():
            contents.append(self.file.read_bytes())
        states = []
        for content in filter(None, contents):
            try:
                states.append(_whole(unpack(content, self.fingerprint), harmless))
            except StateError as error:
                log.warning(f"the state of run {run_id} {error}, and not used")
        return max(states, key=lambda state: len(state.history), default=None)

    @contextmanager
    def kept_on_failure(self) -> Iterator[None]:
        """Keep the newest checkpoint if the store fails; add to the error how to continue."""
        try:
            yield
        except Interrupted as stop:
            stop.remedy = self._remedy
            raise
        except StoreOutageError as outage:
            if not self.newest:
                raise StoreOutageError(f"{outage}; then continue by: {self._remedy}") from None
            raise StoreOutageError(
                f"{outage}; all results of the run are kept in {self._keep()}; once the store"
                f" answers, deliver them by: {self._remedy}"
            ) from None
        except StoreError as error:
            if self.newest:
                with suppress(MachineError):  # the disk is full too; the store has a checkpoint
                    self._keep()
            raise StoreError(f"{error}; then continue by: {self._remedy}") from None
        self.file.unlink(missing_ok=True)

    @property
    def file(self) -> Path:
        """Holds the newest until the store has it."""
        return uploads.kept_state(self.run_id)

    @property
    def _remedy(self) -> str:
        if not self.run_id:
            return "the same command"
        return resume_command(self.run_id)

    def _keep(self) -> Path:
        return uploads.keep_state(self.run_id, self.newest)


def _whole(state: TrainingState, harmless: Callable[[], Collection[str]]) -> TrainingState:
    """Return the state. Raises StateError if it lacks what training depends on."""
    names = shortlist(sorted(state.unsaved))
    if not set(state.unsaved) <= set(harmless() if names else ()):
        raise StateError(f"is incomplete ({names} changed in training, which can't be saved)")
    if names:
        log.warning(
            f"warning: the state lacks {names}, which can't be saved; the result may differ"
        )
    return state
