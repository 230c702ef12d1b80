"""Settings: frozen and validated. There is one way to say each thing.

There are two groups. `TrainConfig` holds every setting that may change the learned weights. It is
resolved once and stored in the run folder; a resumed run uses the stored values. `RunSettings`
holds the rest: where the run lies, how often it is saved and evaluated. Periods and budgets are in
agent steps summed over all environments.

Precedence: defaults < preset < flags. Presets are TOML files of settings.
"""

import difflib
import re
import tomllib
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    model_validator,
)

from rlarcade import numbers
from rlarcade.checked import AsWritten, Checked, did_you_mean, path_of, validated
from rlarcade.errors import ConfigError
from rlarcade.games.protocols import Protocol, ProtocolName
from rlarcade.text import quoted
from rlarcade.toml_files import read_toml

DevicePreference = Literal["auto", "cpu", "cuda"]
Precision = Literal["auto", "fp32", "bf16"]
Compilation = Literal["auto", "on", "off"]

_NO_PRESETS = ("gate.toml",)  # settings of promotion, not of training

_WITH_EXPONENT = re.compile(r"[+-]?\d{1,19}(\.\d{0,19})?[eE]\+?\d{1,2}")


def whole_number(value: Any) -> Any:
    """Turns 1e6 and "1e6" into an int. Other values are returned unchanged and validated later."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str) and _WITH_EXPONENT.fullmatch(value):
        with suppress(ValueError):
            return numbers.whole_number(value)
    return value


_Model = TypeVar("_Model", bound=BaseModel)
_Whole = Annotated[int, BeforeValidator(whole_number)]
_Count = Annotated[_Whole, Field(ge=1, le=10**15)]
_Steps = Annotated[_Whole, Field(ge=0, le=10**15)]
# These settings decide how much memory is used, so they have an upper bound.
_Width = Annotated[_Whole, Field(ge=1, le=65_536)]
_Fractions = Annotated[_Whole, Field(ge=1, le=10_000)]
_Batch = Annotated[_Whole, Field(ge=1, le=1_000_000)]
_Share = Annotated[float, Field(ge=0, le=1)]
_Positive = Annotated[float, Field(gt=0)]


def _path(value: Any) -> Any:
    """Refuses a path that no file can have."""
    return path_of(value, "a path") if isinstance(value, str | Path) else value


_Path = Annotated[Path, BeforeValidator(_path)]


# A name, or a whole protocol. The tag decides which one was given, so that an error is about it.
_Protocol = Annotated[
    Annotated[ProtocolName, Tag("")] | Annotated[Protocol, Tag(" ")],
    Discriminator(lambda value: "" if isinstance(value, str) else " "),
]


class _Settings(AsWritten, Checked):
    numbers_as_text: ClassVar[bool] = True

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )


def _switch(value: Any) -> Any:
    """Accepts true and false, which runs and checkpoints of the first versions contain."""
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else value


def check_device(value: Any) -> Any:
    """Refuses a GPU number such as cuda:1. CUDA_VISIBLE_DEVICES chooses among several GPUs.

    Raises:
        ConfigError: the device names a GPU by number; the message says how to choose it.
    """
    if isinstance(value, str) and (found := re.fullmatch(r"(cuda|gpu):?(\d{0,4})", value)):
        if value == "cuda":
            return value
        chosen = f"CUDA_VISIBLE_DEVICES={found[2]} and " if found[2] else ""
        raise ConfigError(
            f"device {quoted(value)} is invalid: rlarcade uses the first GPU that it sees. "
            f"Use {chosen}device cuda."
        )
    return value


class NetworkSettings(_Settings):
    """Parts and sizes of a network. Every checkpoint stores them to rebuild its network."""

    torso: Literal["nature", "impala"] = "nature"
    """Turns frames into features: three convolutions, or residual blocks (much slower)."""
    conv_channels: tuple[_Width, _Width, _Width] = (32, 64, 64)
    """Filters of the nature torso's three convolutions."""
    impala_width: Annotated[_Whole, Field(ge=1, le=256)] = 1
    """Multiplies the impala torso's 16, 32, 32 filters."""
    spectral_norm: bool = False
    """Keep the residual convolutions' largest singular value at 1 (impala torso)."""
    pool_size: Annotated[_Whole, Field(ge=0, le=11)] = 0
    """Max-pool the impala torso's 11×11 features to this many a side; 0 leaves them."""
    norm: Literal["none", "layer", "channel"] = "none"
    """Normalise after each convolution (impala: each stack's first) and the hidden layer: over the
    whole layer, or over the channels of each position."""
    hidden_units: _Width = 512
    """Width of the hidden layer."""
    head: Literal["expected", "categorical", "quantile", "implicit"] = "expected"
    """What the network predicts: mean returns, or their distribution (C51, QR-DQN, IQN)."""
    num_atoms: Annotated[_Whole, Field(ge=2, le=10_000)] = 51
    """Number of possible returns of the categorical head."""
    value_min: float = -10.0
    """Smallest return of the categorical head."""
    value_max: float = 10.0
    """Largest return of the categorical head."""
    num_quantiles: _Fractions = 200
    """Quantiles of the quantile head."""
    num_taus: Annotated[_Whole, Field(ge=1, le=512)] = 8  # no tensor's shape bounds it
    """Quantile fractions that the implicit head draws for each transition."""
    dueling: bool = False
    """Separate streams for the state's value and the actions' advantages."""
    noisy: bool = False
    """Noisy layers, which explore by themselves. Their noise is off in evaluation."""
    noisy_sigma: _Positive = 0.5
    """Initial strength of the noise of noisy layers."""

    @model_validator(mode="after")
    def _support(self) -> Self:
        if self.value_min >= self.value_max:
            raise ValueError(
                f"value_min ({self.value_min:g}) is not below value_max ({self.value_max:g}): the "
                "categorical head needs a range of returns. Swap them"
            )
        return self


class TrainConfig(NetworkSettings):
    """Everything that may change the learned weights."""

    game: str
    """Any spelling of a game's name, such as SpaceInvaders."""
    protocol: _Protocol = "v5"
    """How the game is played: sticky actions, action set, starts."""
    seed: Annotated[_Whole, Field(ge=0, lt=2**32)] = 0
    """Seed of all random numbers."""
    total_timesteps: _Count = 300_000
    """Length of the run in agent steps; emulator frames are four times as many."""

    num_envs: Annotated[_Whole, Field(ge=1, le=1024)] = 16
    """Games played side by side (lanes)."""
    learning_starts: _Steps = 20_000
    """Agent steps of random play before the first update."""
    train_freq: _Count = 4
    """Agent steps between rounds of updates."""
    gradient_steps: _Count = 1
    """Updates in a round."""
    batch_size: _Batch = 32
    """Transitions in an update."""
    buffer_size: _Count | None = None
    """Transitions in replay. Unset: 1,000,000, but at most total_timesteps, and at most as many as
    fit in half of the free memory."""
    target_update_interval: _Count = 8_000
    """Agent steps between updates of the target network from the online one."""
    target_tau: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of the online network's weights in an update of the target network: 1 copies them, less
    makes the target network a moving average of them."""
    acting_network: Literal["online", "target"] = "online"
    """Network that plays, in training and in every checkpoint. If the target network is a moving
    average, its scores differ less from one checkpoint to the next."""

    memory: Literal["replay", "none"] = "replay"
    """Learn from replay, or replay-free from the newest rollout with Q(λ)."""
    prioritized: bool = False
    """Draw transitions from replay by their last error: the larger, the more often."""
    priority_exponent: _Share = 0.5
    """How much the error counts: 0 draws uniformly, 1 in proportion to the error."""
    importance_exponent: _Share = 0.4
    """How much of the bias of drawing by priority is corrected at the start."""
    importance_final_exponent: _Share = 1.0
    """How much of that bias is corrected at the end."""
    importance_steps: _Count | None = None
    """Agent steps over which the correction grows. Unset: total_timesteps, fixed at the start."""
    rollout_steps: _Batch = 32
    """Steps of every lane between rounds of replay-free learning."""
    num_epochs: _Count = 2
    """Passes over a rollout in one round of replay-free learning, in batches of batch_size."""
    q_lambda: _Share = 0.65
    """λ of Q(λ): 0 bootstraps after one step, 1 at the end of the rollout."""

    double: bool = False
    """Double Q-learning: the online network picks the next action, the target network values it."""
    munchausen: bool = False
    """Munchausen target: a soft maximum, and the log-policy added to the reward."""
    munchausen_alpha: _Share = 0.9
    """Share of the log-policy that is added."""
    munchausen_tau: _Positive = 0.03
    """Temperature of the soft policy."""
    munchausen_clip: Annotated[float, Field(le=0)] = -1.0
    """Lower bound of the temperature-scaled log-policy."""
    munchausen_policy: Literal["target", "online"] = "target"
    """Network whose log-policy is added; the online one saves a forward pass."""
    n_steps: Annotated[_Whole, Field(ge=1, le=1_000)] = 1
    """Rewards summed before bootstrapping."""
    n_steps_final: _Count | None = None
    """Final n_steps, reached by geometric decay: long returns learn fast, short ones are less
    biased. Unset: n_steps stays constant."""
    n_steps_duration: _Count | None = None
    """Agent steps over which n_steps decays. Unset: total_timesteps, fixed at the start."""
    gamma: _Share = 0.99
    """Discount per agent step."""
    reward_clip: bool = True
    """Learn from the sign of rewards. Scores are always raw."""
    terminal_on_life_loss: bool = True
    """Learn as if a lost life ended the game (discount 0). The episode itself goes on."""

    loss: Literal["huber", "mse"] = "huber"
    """Loss of the expected head."""
    optimizer: Literal["adam", "radam"] = "adam"
    """Adam, or rectified Adam."""
    learning_rate: Annotated[float, Field(ge=0)] = 1e-4
    """Adam's step size."""
    learning_rate_final: Annotated[float, Field(ge=0)] | None = None
    """Final step size, reached by linear decay. Unset: the step size stays constant."""
    learning_rate_steps: _Count | None = None
    """Agent steps over which the step size decays. Unset: total_timesteps, fixed at the start."""
    adam_eps: _Positive = 1.5e-4
    """Adam's epsilon."""
    max_grad_norm: _Positive | None = None
    """Clip the gradient to this norm. Unset: not clipped."""
    exploration_initial_eps: _Share = 1.0
    """Share of random actions until learning starts."""
    exploration_final_eps: _Share = 0.01
    """Share of random actions at the end of exploration."""
    exploration_fraction: _Share = 0.2
    """Share of total_timesteps, after learning_starts, over which epsilon falls linearly."""
    exploration_steps: _Steps | None = None
    """Agent steps over which epsilon falls. Unset: exploration_fraction × total_timesteps, fixed at
    the start, so that a run that is lengthened later keeps its schedule."""

    reseed_interval: _Count = 10_000
    """After this many agent steps a lane gets a new seed at its next episode. This bounds how much
    a resumed run must replay."""
    device: Annotated[DevicePreference, BeforeValidator(check_device)] = "auto"
    """auto uses a CUDA device if there is one."""
    precision: Precision = "auto"
    """Arithmetic of the torso; the last layer, the targets and the loss are always fp32. auto is
    bf16 on a GPU that has it, and fp32 on a CPU."""
    torch_threads: Annotated[_Whole, Field(ge=0, le=1024)] = 0
    """CPU threads of the learner; 0 uses every core, or OMP_NUM_THREADS. A different number of
    threads changes the rounding."""
    deterministic: bool = False
    """On CUDA: the same weights for the same seed, more slowly. On CPU that always holds."""
    compile: Annotated[Compilation, BeforeValidator(_switch)] = "auto"
    """Compile acting in training and the update with torch.compile; on a GPU they become CUDA
    graphs. auto is on where there is a GPU, Triton and a C compiler. On a CPU it costs half a
    minute and gains nothing."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.buffer_size is not None and self.memory == "replay":
            if self.learning_starts > self.buffer_size:
                raise ValueError(
                    f"learning_starts ({self.learning_starts:,}) exceeds buffer_size "
                    f"({self.buffer_size:,}): replay would lose its first transitions before "
                    "learning starts. Lower learning_starts or raise buffer_size"
                )
            window = self.n_steps + 4
            if self.buffer_size < self.num_envs * (window + 1):
                raise ValueError(
                    f"buffer_size ({self.buffer_size:,}) is too small for num_envs "
                    f"({self.num_envs}) games with a window of {window} frames each. Raise "
                    f"buffer_size to at least {self.num_envs * (window + 1):,}, or lower num_envs"
                )
        if self.learning_rate_final is not None and self.learning_rate_final > self.learning_rate:
            raise ValueError(
                f"learning_rate_final ({self.learning_rate_final:g}) exceeds learning_rate "
                f"({self.learning_rate:g}): the step size would grow. Swap them"
            )
        if self.n_steps_final is not None and self.n_steps_final > self.n_steps:
            raise ValueError(
                f"n_steps_final ({self.n_steps_final}) exceeds n_steps ({self.n_steps}): returns "
                "would grow longer. Swap them"
            )
        if self.exploration_final_eps > self.exploration_initial_eps:
            raise ValueError(
                f"exploration_final_eps ({self.exploration_final_eps}) exceeds "
                f"exploration_initial_eps ({self.exploration_initial_eps}): exploration would "
                "grow. Swap them"
            )
        _check_composition(self)
        return self

    @property
    def network(self) -> NetworkSettings:
        """The settings of the network alone."""
        return NetworkSettings(**{n: getattr(self, n) for n in NetworkSettings.model_fields})

    @property
    def rollout_size(self) -> int:
        """Agent steps in a rollout of all lanes."""
        return self.num_envs * self.rollout_steps

    @property
    def rollout_batches(self) -> int:
        """Whole batches in a rollout, and updates in an epoch over it."""
        return self.rollout_size // self.batch_size

    @property
    def warm_up(self) -> int:
        """Agent steps before the first update is due."""
        return self.learning_starts if self.memory == "replay" else 0

    @property
    def replay_ratio(self) -> float:
        """Sampled transitions per agent step."""
        if self.memory == "none":
            sampled = self.num_epochs * self.rollout_batches * self.batch_size
            return sampled / self.rollout_size
        return self.batch_size * self.gradient_steps / self.train_freq

    def unused(self) -> tuple[str, ...]:
        """Returns the settings that this composition of parts does not use."""
        return tuple(name for names, used in _NEEDS if not used(self) for name in names)


def _check_composition(config: TrainConfig) -> None:
    """Refuses parts that do not go together, with the reason."""
    if config.munchausen and config.double:
        raise ValueError(
            "munchausen and double do not go together: the Munchausen target averages over a soft "
            "policy, so no action is picked that another network could value. Choose one"
        )
    if config.munchausen and config.head == "categorical":
        raise ValueError(
            "munchausen does not go with the categorical head: its log-policy shifts each action's "
            "returns off the fixed atoms. Use head implicit, quantile or expected"
        )
    if config.memory == "none":
        for name, wanted, why in (
            ("prioritized", False, "there is no replay to draw from"),
            ("double", False, "there is no target network"),
            ("munchausen", False, "there is no target network"),
            ("acting_network", "online", "there is no target network"),
            ("head", "expected", "Q(λ) targets are expected returns"),
        ):
            if getattr(config, name) != wanted:
                raise ValueError(
                    f"memory none does not go with {name} = {str(getattr(config, name)).lower()}: "
                    f"{why}. Use {name} = {str(wanted).lower()}, or memory replay"
                )
        if config.batch_size > config.rollout_size:
            raise ValueError(
                f"batch_size ({config.batch_size:,}) exceeds the rollout: num_envs × rollout_steps "
                f"= {config.rollout_size:,} transitions. Lower batch_size or raise rollout_steps"
            )


# Settings that only certain parts use, and whether a configuration has such a part.
_NEEDS: tuple[tuple[tuple[str, ...], Callable[[TrainConfig], bool]], ...] = (
    (("conv_channels",), lambda c: c.torso == "nature"),
    (("impala_width", "spectral_norm", "pool_size"), lambda c: c.torso == "impala"),
    (("num_atoms", "value_min", "value_max"), lambda c: c.head == "categorical"),
    (("num_quantiles",), lambda c: c.head == "quantile"),
    (("num_taus",), lambda c: c.head == "implicit"),
    (("noisy_sigma",), lambda c: c.noisy),
    (("learning_rate_steps",), lambda c: c.learning_rate_final is not None),
    (("loss",), lambda c: c.head == "expected"),
    (
        (
            "learning_starts",
            "train_freq",
            "gradient_steps",
            "buffer_size",
            "target_update_interval",
            "target_tau",
            "n_steps",
            "n_steps_final",
        ),
        lambda c: c.memory == "replay",
    ),
    (("n_steps_duration",), lambda c: c.memory == "replay" and c.n_steps_final is not None),
    (("rollout_steps", "num_epochs", "q_lambda"), lambda c: c.memory == "none"),
    (
        (
            "priority_exponent",
            "importance_exponent",
            "importance_final_exponent",
            "importance_steps",
        ),
        lambda c: c.prioritized,
    ),
    (
        ("munchausen_alpha", "munchausen_tau", "munchausen_clip", "munchausen_policy"),
        lambda c: c.munchausen,
    ),
)


class RunSettings(_Settings):
    """Everything about a run that cannot change what is learned."""

    run_dir: _Path | None = None
    """Folder of the run. Unset: checkpoints/GAME-PRESET-seedN."""
    resume: Literal["auto", "never"] = "auto"
    """auto resumes the run in the folder; never refuses a folder that holds a run."""
    minutes: _Positive | None = None
    """Length in minutes instead of total_timesteps. The number of steps is fixed once, from the
    measured speed."""
    save_interval: _Count = 50_000
    """Agent steps between saves of the training state and a policy checkpoint."""
    eval_interval: _Steps = 0
    """Agent steps between evaluations during training; 0 for none."""
    eval_episodes: _Batch = 10
    """Whole games in each evaluation, during training and at the end."""
    pipeline: Literal["ci", "delivery", "deployment"] | None = None
    """Register each policy checkpoint as a version and send it through the gate: ci only checks,
    delivery waits for a person, deployment makes it the champion if it is better."""
    registry: _Path | None = None
    """Folder of the registry. Unset: checkpoints/registry."""
    gate: _Path | None = None
    """Gate file. Unset: configs/gate.toml."""
    init_from: _Path | None = None
    """Policy checkpoint or version (7, champion@pong). A new run starts from its weights and
    records it as the parent."""


class Settings(_Settings):
    """Both groups, and the name of the preset that they came from."""

    preset: str
    train: TrainConfig
    run: RunSettings
    minutes_by_default: bool = False
    """Whether the length in minutes comes from the preset, not from a flag. A resumed run then
    keeps its own length."""
    buffer_by_default: bool = False
    """Whether the size of replay comes from the preset, not from a flag. If memory is short, replay
    is then made smaller."""
    given: frozenset[str] = frozenset()
    """Settings that were set by flags. They are not adapted to the run's length."""


FIELDS: dict[str, type[_Settings]] = {
    # `game` first: a class's model_fields list inherited settings before its own
    **dict.fromkeys(TrainConfig.__annotations__, TrainConfig),
    **dict.fromkeys(NetworkSettings.model_fields, TrainConfig),
    **dict.fromkeys(RunSettings.model_fields, RunSettings),
}
"""Every setting and its group, in the order in which commands show them."""

WHOLE_NUMBERS = frozenset(
    name
    for name, group in FIELDS.items()
    if "int" in re.findall(r"\w+", str(group.model_fields[name].annotation))
)
"""Settings that are one whole number, or several."""


def preset_names() -> tuple[str, ...]:
    """Returns the names of the presets that ship with rlarcade."""
    return tuple(sorted(path.name.removesuffix(".toml") for path in _shipped_presets()))


def load_preset(name_or_path: str) -> tuple[str, dict[str, Any]]:
    """Reads a preset: its name, and the settings that differ from the defaults.

    Args:
        name_or_path: a shipped preset, or the path of a TOML file.

    Raises:
        ConfigError: there is no such preset or file, it is not TOML, or a setting is unknown.
    """
    for shipped in _shipped_presets():
        if shipped.name == f"{name_or_path}.toml":
            values = tomllib.loads(shipped.read_text("utf-8"))
            return name_or_path, _checked_preset(values, shipped.name)
    path = Path(name_or_path)
    if path.suffix != ".toml":
        near = difflib.get_close_matches(name_or_path, preset_names(), n=1)
        hint = f"Did you mean {near[0]!r}? " if near else ""
        raise ConfigError(
            f"unknown preset {quoted(name_or_path)}. {hint}Choose one of "
            f"{', '.join(preset_names())}, or the path of a .toml file."
        )
    return path.stem, _checked_preset(read_toml(path, "preset"), str(path))


def _shipped_presets() -> list[Any]:
    return [
        path
        for path in _shipped_configs().iterdir()
        if path.name.endswith(".toml") and path.name not in _NO_PRESETS
    ]


def shipped_config(name: str) -> str:
    """Returns the text of a file that ships in `configs/`."""
    text: str = (_shipped_configs() / name).read_text("utf-8")
    return text


def _shipped_configs() -> Any:
    package = resources.files("rlarcade") / "configs"
    # An editable install has the configs beside the package, a wheel has them inside it.
    return package if package.is_dir() else Path(__file__).parent.parent / "configs"


def _checked_preset(values: dict[str, Any], where: str) -> dict[str, Any]:
    check_names(values, where)
    return whole_numbers(values)


def whole_numbers(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings, with 1e6 as 1000000 where a setting is a whole number."""
    return {name: whole_number(v) if name in WHOLE_NUMBERS else v for name, v in values.items()}


def check_names(values: Mapping[str, Any], where: str) -> None:
    """Refuses names of settings that do not exist.

    Raises:
        ConfigError: a name is unknown; the message suggests the nearest known names.
    """
    for name in values:
        if name not in FIELDS:
            hint = did_you_mean(name, FIELDS)
            raise ConfigError(f"unknown setting {quoted(name)} in {where}. {hint}".strip())


def make_settings(preset: str, values: Mapping[str, Any]) -> Settings:
    """Validates settings of both groups, given by name.

    Raises:
        ConfigError: an unknown name, a wrong type, a value out of range, or values that do not go
            together.
    """
    check_names(values, f"preset {quoted(preset)} or flags")
    groups: dict[type[_Settings], dict[str, Any]] = {TrainConfig: {}, RunSettings: {}}
    for name, value in values.items():
        groups[FIELDS[name]][name] = value
    if "game" not in groups[TrainConfig]:
        raise ConfigError("no game was named. Add --game, such as --game SpaceInvaders.")
    return Settings(
        preset=preset,
        train=validated(TrainConfig, groups[TrainConfig]),
        run=validated(RunSettings, groups[RunSettings]),
    )
