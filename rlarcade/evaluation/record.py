"""A record keeps finished games on disk, so that interrupted or killed work can resume.

The first JSON line identifies the work. Each finished part adds one line as it ends.
"""

import errno
import json
import os
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ValidationError

from rlarcade.errors import RunFolderError
from rlarcade.files import open_own
from rlarcade.json_text import parse_json
from rlarcade.locks import try_lock
from rlarcade.text import printable, shown_path

_Part = TypeVar("_Part", bound=BaseModel)

_LARGEST = 500_000_000  # bytes of a record; a game has about a thousand


class RecordInUseError(RunFolderError):
    """Another process is playing what the record belongs to."""


class Record(Generic[_Part]):
    """The finished parts of one work in one file. The file is locked against other processes.

    Attributes:
        path: the file.
        earlier: parts that were finished before, oldest first.
    """

    def __init__(
        self, path: Path, part: type[_Part], identity: dict[str, Any], *, what: str, elsewhere: str
    ) -> None:
        """Opens the record of a work, or creates it.

        A kill may cut the last line short. Such a line is removed, and its part is played again.

        Args:
            path: the file. Its folder is created.
            part: model of one line.
            identity: JSON values that identify the work. Two works with equal values are the same.
            what: the kind of work, for messages.
            elsewhere: the option that chooses another place for the record, for messages.

        Raises:
            RecordInUseError: another process is playing it.
            RunFolderError: the record is damaged, from another work, or not writable.
        """
        self.path, self._part, self._what = path, part, what
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Not buffered: a write that fails on a full disk must not be retried on close.
            self._file = open_own(path, os.O_RDWR | os.O_CREAT)
        except OSError as error:
            raise RunFolderError(
                f"the record of the {what}, {shown_path(path)}, cannot be written: "
                f"{error.strerror}. Choose another {elsewhere}."
            ) from error
        try:
            self.earlier = self._opened(identity)
        except BaseException:
            self.close()
            raise

    def _opened(self, identity: dict[str, Any]) -> tuple[_Part, ...]:
        try:
            mine = try_lock(self._file)
        except OSError as error:  # a file system without locks
            raise self._unwritten(error) from error
        if not mine:
            raise RecordInUseError(
                f"this {self._what} is being played by another process ({self.path} is locked). "
                "Wait for it, or choose another --seed."
            )
        text = self._text()
        whole = text[: text.rfind(b"\n") + 1]  # text after the last newline is unfinished
        begin = json.dumps(identity).encode() + b"\n"
        if not whole and begin.startswith(text):  # nothing, or a first line that a kill cut short
            self._cut(0)
            self._write(begin)
            return ()
        header, *lines = whole.splitlines() or [text]
        try:
            found: dict[str, Any] = dict(parse_json(header))
            self._check_identity(found, identity)
            parts = tuple(self._part.model_validate_json(line) for line in lines)
        except (ValidationError, ValueError, TypeError) as error:
            raise RunFolderError(
                f"the record of the {self._what}, {self.path}, is damaged or is another file. "
                f"Move it away to play the {self._what} from its beginning."
            ) from error
        self._cut(len(whole))
        return parts

    def _check_identity(self, found: dict[str, Any], identity: dict[str, Any]) -> None:
        if found != identity:
            keys = identity | found  # a match of a suite has more keys than a single match
            different = sorted(key for key in keys if found.get(key) != identity.get(key))
            raise RunFolderError(
                f"{self.path} is the record of another {self._what}, with another "
                f"{' and '.join(printable(key, 40) for key in different[:9]) or 'content'}. "
                "Resume with the same settings, or choose another --seed to start a new one."
            )

    def _text(self) -> bytes:
        size = os.fstat(self._file).st_size
        if size > _LARGEST:
            raise RunFolderError(
                f"{self.path} is no record of a {self._what}: it has {size:,} bytes. Move it away."
            )
        data = b""
        while more := os.read(self._file, _LARGEST):
            data += more
        return data

    def append(self, part: _Part) -> None:
        """Adds a finished part. The part is on the disk when this returns.

        Raises:
            RunFolderError: the disk is full or cannot be written. Earlier parts are kept.
        """
        self._write(part.model_dump_json().encode() + b"\n")

    def _write(self, line: bytes) -> None:
        end = os.lseek(self._file, 0, os.SEEK_END)
        try:
            if os.write(self._file, line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(self._file)
        except OSError as error:
            self._cut(end)
            raise self._unwritten(error) from error

    def _cut(self, length: int) -> None:
        """Cuts the file to `length` bytes, which removes an unfinished line."""
        try:
            os.ftruncate(self._file, length)
        except OSError as error:
            raise self._unwritten(error) from error

    def _unwritten(self, error: OSError) -> RunFolderError:
        return RunFolderError(
            f"the record of the {self._what}, {self.path}, cannot be written: {error.strerror}. "
            "Earlier lines are kept. Free some space, and the same command resumes from there."
        )

    def close(self) -> None:
        """Closes and unlocks the record."""
        os.close(self._file)
