"""Settings: frozen and validated. There is one way to say each thing.

There are two groups. `TrainConfig` holds every setting that may change the learned weights,
composed of parts. It is resolved once and stored in the run folder; a resumed run uses the stored
values. `RunSettings` holds the rest: where the run lies, how often it is saved and evaluated.
Periods and budgets are in agent steps summed over all environments.

Precedence: defaults < preset < flags. Presets are TOML files of settings.
"""

from rlarcade.config.parts import (
    ExplorationSettings,
    MachineSettings,
    MemorySettings,
    NetworkSettings,
    OptimizerSettings,
    ScheduleSettings,
    TargetSettings,
)
from rlarcade.config.presets import (
    described_preset,
    giving_way,
    load_preset,
    preset_names,
    shipped_config,
)
from rlarcade.config.run import (
    FIELDS,
    RunSettings,
    Settings,
    check_names,
    make_settings,
    whole_numbers,
)
from rlarcade.config.training import PARTS, TrainConfig
from rlarcade.config.values import (
    Compilation,
    DevicePreference,
    Precision,
    check_device,
    whole_number,
)

__all__ = [
    "FIELDS",
    "PARTS",
    "Compilation",
    "DevicePreference",
    "ExplorationSettings",
    "MachineSettings",
    "MemorySettings",
    "NetworkSettings",
    "OptimizerSettings",
    "Precision",
    "RunSettings",
    "ScheduleSettings",
    "Settings",
    "TargetSettings",
    "TrainConfig",
    "check_device",
    "check_names",
    "described_preset",
    "giving_way",
    "load_preset",
    "make_settings",
    "preset_names",
    "shipped_config",
    "whole_number",
    "whole_numbers",
]
