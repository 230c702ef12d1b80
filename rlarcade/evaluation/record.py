"""What was played so far, on disk: so that work that was interrupted or killed goes on.

One JSON line that says what it is, then one for each part that is finished, written as it ends.
"""

import fcntl
import json
import os
from pathlib import Path
from typing import Any, BinaryIO, Generic, TypeVar

from pydantic import BaseModel, ValidationError

from rlarcade.errors import RunFolderError

_Part = TypeVar("_Part", bound=BaseModel)


class Record(Generic[_Part]):
    """The finished parts of one work in one file, which no other process may use meanwhile.

    Attributes:
        path: the file.
        earlier: parts that were finished before, oldest first.
    """

    def __init__(
        self, path: Path, part: type[_Part], identity: dict[str, Any], *, what: str, elsewhere: str
    ) -> None:
        """Opens the record of a work, or begins one.

        A last line that a kill cut short is removed; its part is done again.

        Args:
            path: the file; its folder is made.
            part: what its lines are.
            identity: what makes two works one, as JSON.
            what: the kind of work, for messages.
            elsewhere: how to have it kept elsewhere, likewise.

        Raises:
            RunFolderError: it is in use, damaged, another work's, or cannot be written.
        """
        self.path, self._part, self._what = path, part, what
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file: BinaryIO = path.open("a+b")
        except OSError as error:
            raise RunFolderError(
                f"the record of the {what}, {path}, cannot be written: {error.strerror}. "
                f"Choose another {elsewhere}."
            ) from error
        try:
            self.earlier = self._opened(identity)
        except BaseException:
            self._file.close()
            raise

    def _opened(self, identity: dict[str, Any]) -> tuple[_Part, ...]:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunFolderError(
                f"this {self._what} is being played by another process ({self.path} is locked). "
                "Wait for it, or choose another --seed."
            ) from error
        self._file.seek(0)
        text = self._file.read()
        whole = text[: text.rfind(b"\n") + 1]  # what follows the last newline is unfinished
        self._file.truncate(len(whole))
        if not whole:
            self._write(json.dumps(identity))
            return ()
        header, *lines = whole.splitlines()
        try:
            found: dict[str, Any] = dict(json.loads(header))
            parts = tuple(self._part.model_validate_json(line) for line in lines)
        except (ValidationError, ValueError, TypeError) as error:
            raise RunFolderError(
                f"the record of the {self._what}, {self.path}, is damaged. Remove it to play the "
                f"{self._what} from its beginning."
            ) from error
        if found != identity:
            different = sorted(key for key in identity if found.get(key) != identity[key])
            raise RunFolderError(
                f"{self.path} is the record of another {self._what}, with another "
                f"{' and '.join(different)}. What was begun in one way goes on in that way; "
                "choose another --seed to begin anew."
            )
        return parts

    def append(self, part: _Part) -> None:
        """Adds a finished part; it is on the disk when this returns.

        Raises:
            RunFolderError: the disk is full or cannot be written; the parts before are kept.
        """
        self._write(part.model_dump_json())

    def _write(self, line: str) -> None:
        try:
            self._file.write(line.encode() + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise RunFolderError(
                f"the record of the {self._what}, {self.path}, cannot be written: "
                f"{error.strerror}. What was written before is kept: make room, and the same "
                "command goes on from there."
            ) from error

    def close(self) -> None:
        """Gives the record free."""
        self._file.close()
