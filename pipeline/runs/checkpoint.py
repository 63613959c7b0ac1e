"""Checkpoints: the training state after an epoch, in the store or in a local file."""

import logging
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from platformdirs import user_state_path

from pipeline.config import APPLICATION
from pipeline.errors import MachineError, StoreError, StoreOutageError, shortlist
from pipeline.interruption import Interrupted
from pipeline.runs.record import RunRecord
from pipeline.store import buffer
from pipeline.store.artifacts import read_artifact, write_atomically
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

    def write(self, state: TrainingState) -> None:
        """Write a checkpoint to the store, or to a local file during an outage."""
        self.newest = pack(state, self.fingerprint)
        if not buffer.save_state(self.newest):
            self._keep()  # this process may end before the store is back

    def read(
        self, harmless: Callable[[], Collection[str]], of: RunRecord | None = None
    ) -> TrainingState | None:
        """Return the newest state of the run: the store's, or the one kept locally.

        harmless: returns what a state may lack. One that lacks anything else is not used.
        of: another run with the same fingerprint, whose state is read instead.
        """
        run_id = of.run_id if of else self.run_id
        content = read_artifact(of.artifact_uri, buffer.STATE_FILE) if of else buffer.load_state()
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
        """Holds the newest until the store has it; the same path from every folder."""
        return user_state_path(APPLICATION) / f"{self.run_id}.pt"

    @property
    def _remedy(self) -> str:
        if not self.run_id:
            return "the same command"
        return resume_command(self.run_id)

    def _keep(self) -> Path:
        """Write the newest to a file, atomically. Raises MachineError if it can't."""
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self.file, self.newest)
        except OSError as error:
            raise MachineError(
                f"the store does not answer, and {self.file} can't be written ({error}); once both"
                f" work, continue by: {self._remedy}"
            ) from None
        return self.file


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
