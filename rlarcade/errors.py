"""The errors a user can cause. Each says what, where, the numbers and the remedy.

    RlarcadeError
    ├── ConfigError       a setting, flag or preset that cannot be used
    │   └── GameError     a game that does not exist or cannot be trained
    ├── ActionError       an action outside the game's action set
    ├── PolicyError       a policy that crashed, was too slow or gave no action
    ├── CheckpointError   a checkpoint or state file that is damaged, foreign or hostile
    ├── RecordingError    a recorded game that is damaged, or goes another way when played again
    ├── RunFolderError    a run folder that is locked, unwritable or belongs to another run
    ├── RegistryError     a registry that is not there or foreign, or cannot do what was asked
    │   ├── StaleError    an alias that somebody else has moved meanwhile
    │   └── UnusableRegistryError  a registry that is damaged, altered, locked, full or read-only
    │       └── DamagedPartError   one version, document or row of it is; the rest can be used
    ├── ResourceError     too little memory or disk for what was asked
    ├── ServerError       a server that cannot be reached, or refuses
    ├── ExportError       an exported network is not the agent's, or cannot be made
    └── DivergenceError   training went beyond all numbers

Commands turn every one of them into one line on stderr and an exit code: 2, or the error's own
`exit_code` of 1 where nothing is wrong with how the command was written.
"""


class RlarcadeError(Exception):
    """Base of every error that rlarcade raises on purpose.

    Attributes:
        exit_code: of a command that the error ends: 2 for how it was asked, 1 for what happened.
    """

    exit_code = 2


class ConfigError(RlarcadeError, ValueError):
    """A setting, flag or preset cannot be used as given."""


class GameError(ConfigError):
    """The named game does not exist, or has no single-player mode."""


class ActionError(RlarcadeError, ValueError):
    """An environment was given something that is not an action of its game."""


class PolicyError(RlarcadeError):
    """A policy crashed, took too long, or did not choose one of the game's actions."""


class CheckpointError(RlarcadeError):
    """A checkpoint or training state is missing, damaged, foreign or hostile."""


class RecordingError(RlarcadeError):
    """A recorded game is missing or damaged, or goes another way when it is played again."""


class RunFolderError(RlarcadeError):
    """A run folder is locked, cannot be written, or holds another run."""


class RegistryError(RlarcadeError):
    """A registry is not there or foreign, or has no such version, alias or file."""


class StaleError(RegistryError):
    """Somebody else has moved the alias since it was looked at: look again and decide anew."""

    exit_code = 1


class UnusableRegistryError(RegistryError):
    """A registry is damaged, altered, locked, full or read-only: the command was no mistake."""

    exit_code = 1


class DamagedPartError(UnusableRegistryError):
    """One version, document or row of a registry is damaged or altered; the rest can be used."""


class ResourceError(RlarcadeError):
    """The machine has too little memory or disk for what was asked."""


class ServerError(RlarcadeError):
    """A server cannot be reached, or refuses a request."""

    exit_code = 1


class DivergenceError(RlarcadeError):
    """The loss is no finite number any more; what was saved before is as good as it was."""

    exit_code = 1


class ExportError(RlarcadeError):
    """A network cannot be converted to another format, or computes something else there."""

    exit_code = 1
