"""The operator's token, which orders about rollouts need."""

import os
from pathlib import Path

from rlarcade.errors import ConfigError
from rlarcade.files import read_bounded_text

TOKEN = "RLARCADE_TOKEN"
"""Environment variable with the operator's token."""
_LONGEST = 1000  # bytes
_SHORTEST = 8  # characters


def operator_token(file: Path | None) -> str | None:
    """Returns the operator's token, from a file or from the environment; None: there is none.

    Raises:
        ConfigError: the file cannot be read, or the token is too short.
    """
    token = os.environ.get(TOKEN)
    where = TOKEN
    if file is not None:
        where = f"--token-file {file}"
        try:
            token = read_bounded_text(file, _LONGEST)
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{where} cannot be read: {error}.") from error
    if token is None:
        return None
    token = token.strip()
    if len(token) < _SHORTEST or not token.isascii() or not token.isprintable() or " " in token:
        raise ConfigError(
            f"the operator's token of {where} must have at least {_SHORTEST} printable ASCII "
            'characters and no spaces. Make one: python -c "import secrets; '
            'print(secrets.token_urlsafe())".'
        )
    return token
