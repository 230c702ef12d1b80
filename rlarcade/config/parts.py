"""The parts that a training configuration is composed of. Each holds its own rules.

A setting has the same name in files, flags and Python. Where an attribute is shorter (`kind`,
`initial_eps`), that name is its alias.
"""

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from rlarcade.config.values import (
    Batch,
    Compilation,
    Count,
    DevicePreference,
    Fractions,
    Positive,
    Precision,
    SettingsGroup,
    Share,
    Steps,
    Whole,
    Width,
    check_device,
    switch,
)


class Part(SettingsGroup):
    """One part of a configuration."""

    model_config = ConfigDict(populate_by_name=True)

    title: ClassVar[str]
    """Heading in help texts."""

    @classmethod
    def attributes(cls) -> dict[str, str]:
        """Returns the attribute of each setting, by the setting's name."""
        return {field.alias or name: name for name, field in cls.model_fields.items()}

    def flat(self) -> dict[str, Any]:
        """Returns the values by the names of the settings."""
        return {name: getattr(self, one) for name, one in self.attributes().items()}

    def unused(self) -> tuple[str, ...]:
        """Returns the settings that the other settings of this part make meaningless."""
        return ()


class NetworkSettings(Part):
    """Parts and sizes of a network. Every checkpoint stores them to rebuild its network."""

    title = "network"

    torso: Literal["nature", "impala"] = "nature"
    """Turns frames into features: three convolutions, or residual blocks (much slower)."""
    conv_channels: tuple[Width, Width, Width] = (32, 64, 64)
    """Filters of the nature torso's three convolutions."""
    first_kernel: Literal[4, 8] = 8
    """Side of the nature torso's first kernels, in pixels; they lie 4 pixels apart. 8 as published.
    4 sees each pixel once, in a fourth of the multiplications."""
    impala_width: Annotated[Whole, Field(ge=1, le=256)] = 1
    """Multiplies the impala torso's 16, 32, 32 filters."""
    spectral_norm: bool = False
    """Keep the residual convolutions' largest singular value at 1 (impala torso)."""
    pool_size: Annotated[Whole, Field(ge=0, le=11)] = 0
    """Max-pool the impala torso's 11×11 features to this many a side; 0 leaves them."""
    norm: Literal["none", "layer", "channel"] = "none"
    """Normalise after each convolution (impala: each stack's first) and the hidden layer: over the
    whole layer, or over the channels of each position."""
    hidden_units: Width = 512
    """Width of the hidden layer."""
    head: Literal["expected", "categorical", "gauss", "quantile", "implicit"] = "expected"
    """What the network predicts: mean returns; their distribution (C51, QR-DQN, IQN); or mean
    returns as a histogram (gauss, HL-Gauss)."""
    num_atoms: Annotated[Whole, Field(ge=2, le=10_000)] = 51
    """Number of possible returns of the categorical and the gauss head."""
    value_min: float = -10.0
    """Smallest return of the categorical and the gauss head."""
    value_max: float = 10.0
    """Largest return of the categorical and the gauss head."""
    num_quantiles: Fractions = 200
    """Quantiles of the quantile head."""
    num_taus: Annotated[Whole, Field(ge=1, le=512)] = 8  # no tensor's shape bounds it
    """Quantile fractions that the implicit head draws for each transition."""
    dueling: bool = False
    """Separate streams for the state's value and the actions' advantages."""
    noisy: bool = False
    """Noisy layers, which explore by themselves. Their noise is off in evaluation."""
    noisy_sigma: Positive = 0.5
    """Initial strength of the noise of noisy layers."""

    @model_validator(mode="after")
    def _support(self) -> Self:
        if self.value_min >= self.value_max:
            raise ValueError(
                f"value_min ({self.value_min:g}) is not below value_max ({self.value_max:g}): the "
                "categorical head needs a range of returns. Swap them"
            )
        return self

    def unused(self) -> tuple[str, ...]:
        """Returns the settings of torsos, heads and layers that this network does not have."""
        needs = (
            (("conv_channels", "first_kernel"), self.torso == "nature"),
            (("impala_width", "spectral_norm", "pool_size"), self.torso == "impala"),
            (("num_atoms", "value_min", "value_max"), self.head in ("categorical", "gauss")),
            (("num_quantiles",), self.head == "quantile"),
            (("num_taus",), self.head == "implicit"),
            (("noisy_sigma",), self.noisy),
        )
        return tuple(name for names, used in needs if not used for name in names)


class TargetSettings(Part):
    """What the values are learned from: returns, their targets, and the target network."""

    title = "target"

    double: bool = False
    """Double Q-learning: the online network picks the next action, the target network values it."""
    munchausen: bool = False
    """Munchausen target: a soft maximum, and the log-policy added to the reward."""
    munchausen_alpha: Share = 0.9
    """Share of the log-policy that is added."""
    munchausen_tau: Positive = 0.03
    """Temperature of the soft policy."""
    munchausen_clip: Annotated[float, Field(le=0)] = -1.0
    """Lower bound of the temperature-scaled log-policy."""
    munchausen_policy: Literal["target", "online"] = "target"
    """Network that gives the added log-policy. The online one saves a forward pass."""
    n_steps: Annotated[Whole, Field(ge=1, le=1_000)] = 1
    """Rewards summed before bootstrapping."""
    n_steps_final: Count | None = None
    """Final n_steps, reached by geometric decay: long returns learn fast, short ones are less
    biased. Unset: n_steps stays constant."""
    n_steps_duration: Count | None = None
    """Agent steps over which n_steps decays. Unset: total_timesteps, fixed at the start."""
    gamma: Share = 0.99
    """Discount per agent step."""
    q_lambda: Share = 0.65
    """λ of Q(λ): 0 bootstraps after one step, 1 at the end of the rollout."""
    reward_clip: bool = True
    """Learn from the sign of rewards. Scores are always raw."""
    terminal_on_life_loss: bool = True
    """Learn as if a lost life ended the game (discount 0). The episode itself goes on."""
    target_update_interval: Count = 8_000
    """Agent steps between updates of the target network from the online one."""
    target_tau: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of the online network's weights in an update of the target network: 1 copies them, less
    makes the target network a moving average of them."""
    acting_network: Literal["online", "target"] = "online"
    """Network that plays, in training and in every checkpoint. If the target network is a moving
    average, its scores differ less from one checkpoint to the next."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.n_steps_final is not None and self.n_steps_final > self.n_steps:
            raise ValueError(
                f"n_steps_final ({self.n_steps_final}) exceeds n_steps ({self.n_steps}): returns "
                "would grow longer. Swap them"
            )
        if self.munchausen and self.double:
            raise ValueError(
                "munchausen and double do not go together: the Munchausen target averages over a "
                "soft policy, so no action is picked that another network could value. Choose one"
            )
        return self

    def unused(self) -> tuple[str, ...]:
        """Returns the settings of Munchausen, if it is off."""
        if self.munchausen:
            return ()
        return ("munchausen_alpha", "munchausen_tau", "munchausen_clip", "munchausen_policy")


class MemorySettings(Part):
    """What transitions are learned from: replay, or the newest rollout."""

    title = "memory"

    kind: Literal["replay", "none"] = Field(default="replay", alias="memory")
    """Learn from replay, or replay-free from the newest rollout with Q(λ)."""
    buffer_size: Count | None = None
    """Transitions in replay. Unset: 1,000,000, but at most total_timesteps, and at most as many as
    fit in half of the free memory."""
    prioritized: bool = False
    """Draw transitions from replay by their last error: the larger, the more often."""
    priority_exponent: Share = 0.5
    """How much the error counts: 0 draws uniformly, 1 in proportion to the error."""
    importance_exponent: Share = 0.4
    """How much of the bias of drawing by priority is corrected at the start."""
    importance_final_exponent: Share = 1.0
    """How much of that bias is corrected at the end."""
    importance_steps: Count | None = None
    """Agent steps over which the correction grows. Unset: total_timesteps, fixed at the start."""
    rollout_steps: Batch = 32
    """Steps of every lane between rounds of replay-free learning."""
    num_epochs: Count = 2
    """Passes over a rollout in one round of replay-free learning, in batches of batch_size."""

    def unused(self) -> tuple[str, ...]:
        """Returns the settings of the other kind of memory, and of priorities if they are off."""
        names = ("buffer_size",) if self.kind == "none" else ("rollout_steps", "num_epochs")
        if self.prioritized:
            return names
        return (
            *names,
            "priority_exponent",
            "importance_exponent",
            "importance_final_exponent",
            "importance_steps",
        )


class OptimizerSettings(Part):
    """The loss and its optimizer."""

    title = "optimizer"

    kind: Literal["adam", "radam"] = Field(default="adam", alias="optimizer")
    """Adam, or rectified Adam."""
    loss: Literal["huber", "mse"] = "huber"
    """Loss of the expected head."""
    learning_rate: Annotated[float, Field(ge=0)] = 1e-4
    """Adam's step size."""
    learning_rate_final: Annotated[float, Field(ge=0)] | None = None
    """Final step size, reached by linear decay. Unset: the step size stays constant."""
    learning_rate_steps: Count | None = None
    """Agent steps over which the step size decays. Unset: total_timesteps, fixed at the start."""
    adam_eps: Positive = 1.5e-4
    """Adam's epsilon."""
    max_grad_norm: Positive | None = None
    """Clip the gradient to this norm. Unset: not clipped."""

    @model_validator(mode="after")
    def _falling(self) -> Self:
        if self.learning_rate_final is not None and self.learning_rate_final > self.learning_rate:
            raise ValueError(
                f"learning_rate_final ({self.learning_rate_final:g}) exceeds learning_rate "
                f"({self.learning_rate:g}): the step size would grow. Swap them"
            )
        return self

    def unused(self) -> tuple[str, ...]:
        """Returns the length of the decay, if the step size is constant."""
        return ("learning_rate_steps",) if self.learning_rate_final is None else ()


class ExplorationSettings(Part):
    """How the share of random actions falls."""

    title = "exploration"

    initial_eps: Share = Field(default=1.0, alias="exploration_initial_eps")
    """Share of random actions until learning starts."""
    final_eps: Share = Field(default=0.01, alias="exploration_final_eps")
    """Share of random actions at the end of exploration."""
    fraction: Share = Field(default=0.2, alias="exploration_fraction")
    """Share of total_timesteps, after learning_starts, over which epsilon falls linearly."""
    steps: Steps | None = Field(default=None, alias="exploration_steps")
    """Agent steps over which epsilon falls. Unset: exploration_fraction × total_timesteps, fixed at
    the start, so that a run that is lengthened later keeps its schedule."""

    @model_validator(mode="after")
    def _falling(self) -> Self:
        if self.final_eps > self.initial_eps:
            raise ValueError(
                f"exploration_final_eps ({self.final_eps}) exceeds exploration_initial_eps "
                f"({self.initial_eps}): exploration would grow. Swap them"
            )
        return self


class ScheduleSettings(Part):
    """Length of the run, and the pace of playing and learning."""

    title = "schedule"

    total_timesteps: Count = 300_000
    """Length of the run in agent steps; emulator frames are four times as many."""
    num_envs: Annotated[Whole, Field(ge=1, le=1024)] = 16
    """Games played side by side (lanes)."""
    learning_starts: Steps = 20_000
    """Agent steps of random play before the first update."""
    train_freq: Count = 4
    """Agent steps between rounds of updates."""
    gradient_steps: Count = 1
    """Updates in a round."""
    batch_size: Batch = 32
    """Transitions in an update."""
    reseed_interval: Count = 10_000
    """After this many agent steps a lane gets a new seed at its next episode. This bounds how much
    a resumed run must replay."""


class MachineSettings(Part):
    """What computes, and how."""

    title = "machine"

    device: Annotated[DevicePreference, BeforeValidator(check_device)] = "auto"
    """auto uses a CUDA device if there is one."""
    precision: Precision = "auto"
    """Arithmetic of the torso; the last layer, the targets and the loss are always fp32. auto is
    bf16 on a GPU that has it, and fp32 on a CPU."""
    torch_threads: Annotated[Whole, Field(ge=0, le=1024)] = 0
    """CPU threads of the learner; 0 uses every core, or OMP_NUM_THREADS. A different number of
    threads changes the rounding."""
    deterministic: bool = False
    """On CUDA: the same weights for the same seed, more slowly. On CPU that always holds."""
    compile: Annotated[Compilation, BeforeValidator(switch)] = "auto"
    """Compile acting in training and the update with torch.compile; on a GPU they become CUDA
    graphs. auto is on where there is a GPU, Triton and a C compiler. On a CPU it costs half a
    minute and gains nothing."""
