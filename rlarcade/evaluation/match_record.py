"""The record of a match on disk, so that one that was interrupted or killed goes on.

One JSON line that says which match it is, then one for each pair that counts, written as it ends.
"""

import fcntl
import json
import os
from pathlib import Path
from typing import Any, BinaryIO

from pydantic import ValidationError

from rlarcade.errors import RunFolderError
from rlarcade.evaluation.documents import Comparison, PairResult, short_version


class MatchRecord:
    """The pairs of one match in one file, which no other process may use meanwhile.

    Attributes:
        path: the file, `GAME-CHAMPION-CANDIDATE-seedN.jsonl` with both digests' beginnings.
        earlier: pairs of this match that were played before, oldest first.
    """

    def __init__(
        self, folder: Path, match: Comparison, suite: dict[str, Any] | None = None
    ) -> None:
        """Opens the record of a match, or begins one.

        A last line that a kill cut short is removed; its pair is played again.

        Raises:
            RunFolderError: it is in use, damaged, another match's, or cannot be written.
        """
        sides = (match.champion.version, match.candidate.version)
        name = "-".join([match.game, *map(short_version, sides), f"seed{match.seed}"])
        self.path = folder / f"{name}.jsonl"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file: BinaryIO = self.path.open("a+b")
        except OSError as error:
            raise RunFolderError(
                f"the record of the match, {self.path}, cannot be written: {error.strerror}. "
                "Choose another --dir."
            ) from error
        try:
            self.earlier = self._opened(_identity(match, suite))
        except BaseException:
            self._file.close()
            raise

    def _opened(self, identity: dict[str, Any]) -> tuple[PairResult, ...]:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunFolderError(
                f"this match is being played by another process ({self.path} is locked). Wait for "
                "it, or choose another --seed."
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
            pairs = tuple(PairResult.model_validate_json(line) for line in lines)
        except (ValidationError, ValueError, TypeError) as error:
            raise RunFolderError(
                f"the record of the match, {self.path}, is damaged. Remove it to play the match "
                "from its beginning."
            ) from error
        if found != identity:
            different = sorted(key for key in identity if found.get(key) != identity[key])
            raise RunFolderError(
                f"{self.path} is the record of a match with another {' and '.join(different)}. A "
                "match keeps its rule to the end; choose another --seed for a new one."
            )
        return pairs

    def append(self, pair: PairResult) -> None:
        """Adds a pair; it is on the disk when this returns.

        Raises:
            RunFolderError: the disk is full or cannot be written; the pairs before are kept.
        """
        self._write(pair.model_dump_json())

    def _write(self, line: str) -> None:
        try:
            self._file.write(line.encode() + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise RunFolderError(
                f"the record of the match, {self.path}, cannot be written: {error.strerror}. What "
                "was written before is kept: make room, and the same command goes on from there."
            ) from error

    def close(self) -> None:
        """Gives the record free."""
        self._file.close()


def _identity(match: Comparison, suite: dict[str, Any] | None) -> dict[str, Any]:
    """What makes two matches one: all but their length, which an e-value does not mind."""
    document = match.model_dump(
        mode="json", include={"game", "protocol", "rule", "seed", "same_dice"}
    )
    document["champion"] = match.champion.version
    document["candidate"] = match.candidate.version
    return document if suite is None else {**document, "suite": suite}
