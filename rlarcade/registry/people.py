"""Names of the people who approve and deny.

Names that differ only in case, spaces or invisible characters mean the same person. Names are not
verified: a person who runs a command can give any name. So the audit log also records the user of
the operating system.
"""

import os
import pwd
import unicodedata

from rlarcade.errors import ConfigError
from rlarcade.text import quoted

LONGEST = 255
"""Most characters of a name: the width of the table's column."""
POLICY = "policy:"
"""Prefix of the name under which a gate approves by policy; no person may use it."""

_UNSEEN_CATEGORIES = frozenset(("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"))
# Further letters and marks that are invisible: fillers of Hangul, the empty cell of Braille,
# inherent vowels of Khmer, joiners, variation selectors.
_UNSEEN = {0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x2800, 0x3164, 0xFFA0}
_UNSEEN.update(range(0x180B, 0x1810), range(0xFE00, 0xFE10), range(0xE0100, 0xE01F0))


def checked_name(name: str) -> str:
    """Returns a person's name as it is recorded: NFKC, with single spaces and none around it.

    Raises:
        ConfigError: the name is empty or too long, has an invisible character, or is a policy's.
    """
    hidden = next((letter for letter in name.strip() if _unseen(letter)), None)
    if hidden is not None:
        raise ConfigError(
            f"the name {quoted(name)} has an invisible character (U+{ord(hidden):04X}). Remove "
            "that character: --by NAME."
        )
    found = " ".join(unicodedata.normalize("NFKC", name).split())
    if not found:
        raise ConfigError("the name of the person who decides is empty. Give one: --by NAME.")
    if len(found) > LONGEST:
        raise ConfigError(
            f"the name of the person who decides has {len(found):,} characters; at most {LONGEST} "
            "are allowed."
        )
    if same_person(found).startswith(POLICY):
        raise ConfigError(
            f"the name {quoted(found)} is reserved for a gate's policy. Give a person's name: --by "
            "NAME."
        )
    return found


def same_person(name: str) -> str:
    """Returns a form that is equal for all spellings of one name; empty if nothing is visible."""
    seen = "".join(letter for letter in name if not _unseen(letter))
    folded = unicodedata.normalize("NFKC", seen).casefold()
    return " ".join(unicodedata.normalize("NFKC", folded).split())


def _unseen(letter: str) -> bool:
    return ord(letter) in _UNSEEN or unicodedata.category(letter) in _UNSEEN_CATEGORIES


def system_user() -> str:
    """Returns the operating-system user of this process; $USER is ignored."""
    number = os.geteuid()
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:  # a container without a user database
        return f"uid {number}"
