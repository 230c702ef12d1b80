"""Names of people who approve and deny: told apart as a reader would, and never empty.

Whoever may run a command can give any name: it is taken on trust. The user of the operating system
is written down beside it.
"""

import os
import pwd
import unicodedata

from rlarcade.errors import ConfigError
from rlarcade.text import quoted

LONGEST = 255
"""Characters of a name, as many as the table has room for."""
POLICY = "policy:"
"""What the name of a gate begins with that approves by itself."""

_UNSEEN_CATEGORIES = frozenset(("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"))
# Letters and marks that no font draws: fillers of Hangul, the empty cell of Braille, inherent
# vowels of Khmer, joiners, selectors of variants.
_UNSEEN = {0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x2800, 0x3164, 0xFFA0}
_UNSEEN.update(range(0x180B, 0x1810), range(0xFE00, 0xFE10), range(0xE0100, 0xE01F0))


def checked_name(name: str) -> str:
    """Returns a person's name as it is written down: NFKC, single spaces, none around it.

    Raises:
        ConfigError: it is empty or too long, holds what nobody sees, or is that of a policy.
    """
    hidden = next((letter for letter in name.strip() if _unseen(letter)), None)
    if hidden is not None:
        raise ConfigError(
            f"the name {quoted(name)} holds a character that nobody sees (U+{ord(hidden):04X}). "
            "Write it without: --by NAME."
        )
    found = " ".join(unicodedata.normalize("NFKC", name).split())
    if not found:
        raise ConfigError("the name of who decides is empty. Say who it is: --by NAME.")
    if len(found) > LONGEST:
        raise ConfigError(
            f"the name of who decides has {len(found):,} characters; {LONGEST} are the most."
        )
    if same_person(found).startswith(POLICY):
        raise ConfigError(
            f"the name {quoted(found)} is that of a gate's policy, not a person's. Choose another: "
            "--by NAME."
        )
    return found


def same_person(name: str) -> str:
    """Returns what two spellings of one name have in common; nothing, if no name is to be seen."""
    seen = "".join(letter for letter in name if not _unseen(letter))
    folded = unicodedata.normalize("NFKC", seen).casefold()
    return " ".join(unicodedata.normalize("NFKC", folded).split())


def _unseen(letter: str) -> bool:
    return ord(letter) in _UNSEEN or unicodedata.category(letter) in _UNSEEN_CATEGORIES


def system_user() -> str:
    """Returns the user of the operating system that this process is, whatever $USER says."""
    number = os.geteuid()
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:  # a container without a user database
        return f"uid {number}"
