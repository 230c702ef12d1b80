"""The configuration of training: every setting that may change the learned weights."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

from pydantic import BaseModel, Field, SerializationInfo, model_serializer, model_validator

from rlarcade.checked import validated
from rlarcade.config.parts import (
    ExplorationSettings,
    MachineSettings,
    MemorySettings,
    NetworkSettings,
    OptimizerSettings,
    Part,
    ScheduleSettings,
    TargetSettings,
)
from rlarcade.config.values import AnyProtocol, SettingsGroup, Whole

PARTS: dict[str, type[Part]] = {
    "schedule": ScheduleSettings,
    "network": NetworkSettings,
    "target": TargetSettings,
    "memory": MemorySettings,
    "optimizer": OptimizerSettings,
    "exploration": ExplorationSettings,
    "machine": MachineSettings,
}
"""The parts of `TrainConfig`, in the order in which commands show them."""
PART_OF = {name: part for part, kind in PARTS.items() for name in kind.attributes()}
"""The part of each setting, by the setting's name."""


class TrainConfig(SettingsGroup):
    """Everything that may change the learned weights, composed of parts.

    Files, flags and `TrainConfig(...)` give the settings by their names alone, whatever part they
    belong to. A whole part may be given, too:

        TrainConfig(game="Pong", learning_rate=1e-3, network=NetworkSettings(head="quantile"))

    A setting is read from its part, `config.optimizer.learning_rate`, or by its name,
    `config["learning_rate"]`.
    """

    game: str
    """Any spelling of a game's name, such as SpaceInvaders."""
    protocol: AnyProtocol = "v5"
    """How the game is played: sticky actions, action set, starts."""
    seed: Annotated[Whole, Field(ge=0, lt=2**32)] = 0
    """Seed of all random numbers."""
    schedule: ScheduleSettings = ScheduleSettings()
    """Length and pace."""
    network: NetworkSettings = NetworkSettings()
    """Torso and head."""
    target: TargetSettings = TargetSettings()
    """What is learned."""
    memory: MemorySettings = MemorySettings()
    """From which transitions."""
    optimizer: OptimizerSettings = OptimizerSettings()
    """Loss and step size."""
    exploration: ExplorationSettings = ExplorationSettings()
    """Random actions."""
    machine: MachineSettings = MachineSettings()
    """Device and arithmetic."""

    setting_names: ClassVar[tuple[str, ...]] = ("game", "protocol", "seed", *PART_OF)
    """Names of all settings, in the order in which commands show them."""

    @classmethod
    def from_preset(cls, preset: str, **settings: Any) -> Self:
        """Returns the configuration of a preset, with changes.

            TrainConfig.from_preset("quick", game="Pong", seed=1)

        Settings of the preset that belong to the run (`save_interval`, `minutes` …) are not used:
        a configuration has its length in `total_timesteps`.

        Args:
            preset: a shipped preset, or the path of a TOML file.
            **settings: settings that replace those of the preset.

        Raises:
            ConfigError: there is no such preset, or a setting cannot be used.
        """
        # They need the names of all settings.
        from rlarcade.config.presets import giving_way, load_preset

        values = giving_way(load_preset(preset)[1], settings)
        known = {name: value for name, value in values.items() if name in cls.setting_names}
        return validated(cls, known | settings)

    @model_validator(mode="before")
    @classmethod
    def _composed(cls, values: Any) -> Any:
        """Sorts settings, given by their names, into the parts."""
        if not isinstance(values, Mapping):
            return values
        composed: dict[str, Any] = {}
        flat: dict[str, dict[str, Any]] = {}
        for name, value in values.items():
            if name in PARTS and isinstance(value, BaseModel | Mapping):
                composed[name] = value
            elif name in PART_OF:
                flat.setdefault(PART_OF[name], {})[name] = value
            else:
                composed[name] = value
        for part, given in flat.items():
            known = composed.get(part, {})
            known = known.flat() if isinstance(known, Part) else dict(known)
            # An error of the part is this configuration's error, at the setting's own name.
            composed[part] = PARTS[part].model_validate(known | given)
        return composed

    @model_serializer(mode="plain")
    def _flat(self, info: SerializationInfo) -> dict[str, Any]:
        """Writes the settings by their names, as manifests and run folders have them."""
        own = {"game": self.game, "seed": self.seed}
        protocol = self.protocol
        if isinstance(protocol, BaseModel):
            own["protocol"] = protocol.model_dump(mode=info.mode)
        else:
            own["protocol"] = protocol
        for part in PARTS:
            own |= getattr(self, part).model_dump(mode=info.mode, by_alias=True)
        return own

    def flat(self) -> dict[str, Any]:
        """Returns the values of all settings by their names."""
        return {name: self[name] for name in self.setting_names}

    def __getitem__(self, name: str) -> Any:
        """Returns a setting by its name.

        Raises:
            KeyError: there is no such setting.
        """
        if name in PART_OF:
            part: Part = getattr(self, PART_OF[name])
            return getattr(part, part.attributes()[name])
        if name in self.setting_names:
            return getattr(self, name)
        raise KeyError(name)

    if not TYPE_CHECKING:  # type checkers see the parts; research code may use the short way

        def __getattr__(self, name: str) -> Any:
            if name in PART_OF and name not in PARTS:
                return self[name]
            return super().__getattr__(name)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Returns a copy with other values, which are not validated.

        Args:
            update: values by the names of the settings, or whole parts.
            deep: copy the parts, too.
        """
        changes: dict[str, Any] = {}
        for name, value in (update or {}).items():
            part = PART_OF.get(name)
            if part is None or isinstance(value, Part):
                changes[name] = value
                continue
            now: Part = changes.get(part, getattr(self, part))
            changes[part] = now.model_copy(update={now.attributes()[name]: value})
        return super().model_copy(update=changes, deep=deep)

    @property
    def given(self) -> frozenset[str]:
        """Names of the settings that were given, not taken from the defaults."""
        found = {name for name in self.model_fields_set if name not in PARTS}
        for part in PARTS:
            group: Part = getattr(self, part)
            found |= {n for n, one in group.attributes().items() if one in group.model_fields_set}
        return frozenset(found)

    # Rules that concern several parts

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        _check_replay(self)
        _check_composition(self)
        return self

    @property
    def rollout_size(self) -> int:
        """Agent steps in a rollout of all lanes."""
        return self.schedule.num_envs * self.memory.rollout_steps

    @property
    def rollout_batches(self) -> int:
        """Whole batches in a rollout, and updates in an epoch over it."""
        return self.rollout_size // self.schedule.batch_size

    @property
    def warm_up(self) -> int:
        """Agent steps before the first update is due."""
        return self.schedule.learning_starts if self.memory.kind == "replay" else 0

    @property
    def replay_ratio(self) -> float:
        """Sampled transitions per agent step."""
        batch = self.schedule.batch_size
        if self.memory.kind == "none":
            return self.memory.num_epochs * self.rollout_batches * batch / self.rollout_size
        return batch * self.schedule.gradient_steps / self.schedule.train_freq

    def unused(self) -> tuple[str, ...]:
        """Returns the settings that this composition of parts does not use."""
        names = {name for part in PARTS for name in getattr(self, part).unused()}
        if self.network.head != "expected":
            names.add("loss")
        if self.memory.kind == "none":
            names.update(_OF_REPLAY)
        else:
            names.add("q_lambda")
        if self.memory.kind == "none" or self.target.n_steps_final is None:
            names.add("n_steps_duration")
        return tuple(name for name in self.setting_names if name in names)


_OF_REPLAY = (
    "learning_starts",
    "train_freq",
    "gradient_steps",
    "target_update_interval",
    "target_tau",
    "n_steps",
    "n_steps_final",
)


def _check_replay(config: TrainConfig) -> None:
    size, starts = config.memory.buffer_size, config.schedule.learning_starts
    if size is None or config.memory.kind == "none":
        return
    if starts > size:
        raise ValueError(
            f"learning_starts ({starts:,}) exceeds buffer_size ({size:,}): replay would lose its "
            "first transitions before learning starts. Lower learning_starts or raise buffer_size"
        )
    num_envs, window = config.schedule.num_envs, config.target.n_steps + 4
    if size < num_envs * (window + 1):
        raise ValueError(
            f"buffer_size ({size:,}) is too small for num_envs ({num_envs}) games with a window of "
            f"{window} frames each. Raise buffer_size to at least {num_envs * (window + 1):,}, or "
            "lower num_envs"
        )


def _check_composition(config: TrainConfig) -> None:
    """Refuses parts that do not go together, with the reason."""
    if config.target.munchausen and config.network.head in ("categorical", "gauss"):
        raise ValueError(
            f"munchausen does not go with the {config.network.head} head: its log-policy shifts "
            "each action's returns off the fixed atoms. Use head implicit, quantile or expected"
        )
    if config.memory.kind == "none":
        for name, wanted, why in (
            ("prioritized", False, "there is no replay to draw from"),
            ("double", False, "there is no target network"),
            ("munchausen", False, "there is no target network"),
            ("acting_network", "online", "there is no target network"),
            ("head", "expected", "Q(λ) targets are expected returns"),
        ):
            if config[name] != wanted:
                raise ValueError(
                    f"memory none does not go with {name} = {str(config[name]).lower()}: "
                    f"{why}. Use {name} = {str(wanted).lower()}, or memory replay"
                )
        if config.schedule.batch_size > config.rollout_size:
            raise ValueError(
                f"batch_size ({config.schedule.batch_size:,}) exceeds the rollout: num_envs × "
                f"rollout_steps = {config.rollout_size:,} transitions. Lower batch_size or raise "
                "rollout_steps"
            )
