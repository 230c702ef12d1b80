"""Writes the pages that follow from the code: settings, commands, presets, the Python API.

`docs/conf.py` calls `write_pages` when Sphinx begins. So each fact stays in the code alone.
"""

import contextlib
import importlib
import inspect
import io
import re
from pathlib import Path

from pydantic.fields import FieldInfo

import rlarcade
from rlarcade.__main__ import VERBS
from rlarcade.config import TrainConfig, preset_names
from rlarcade.config.run import RunSettings
from rlarcade.config.training import PARTS

FOLDER = Path(__file__).parent / "generated"


def write_pages() -> None:
    """Writes all pages anew. A page that is as it was keeps its time, so Sphinx skips it."""
    FOLDER.mkdir(exist_ok=True)
    pages = {"settings.md": _settings(), "commands.md": _commands(), "api.md": _api()}
    pages |= {f"preset-{name}.md": _preset(name) for name in preset_names()}
    for name, text in pages.items():
        path = FOLDER / name
        if not path.exists() or path.read_text("utf-8") != text:
            path.write_text(text, "utf-8")


# Settings


def _settings() -> str:
    lines = [
        "# Every setting",
        "",
        "A setting, or hyperparameter, is a flag of `rlarcade train` (`learning_rate` is",
        "`--learning-rate`), a key of a preset file, and an argument of",
        "[`TrainConfig`](#rlarcade.TrainConfig). Periods and budgets are in agent steps, summed",
        "over",
        "all environments. The default is that of the code; a [preset](../presets.md) may have",
        "another value.",
        "`rlarcade train … --print-config` shows the values of a run.",
        "",
    ]
    whole = {name: TrainConfig.model_fields[name] for name in ("game", "protocol", "seed")}
    lines += _table("What is played", whole)
    for name, part in PARTS.items():
        lines += _table(
            f"{name.capitalize()}: {TrainConfig.model_fields[name].description}", part.model_fields
        )
    lines += _table("The run: what cannot change what is learned", RunSettings.model_fields)
    return "\n".join(lines)


def _table(heading: str, fields: dict[str, FieldInfo]) -> list[str]:
    lines = [
        f"## {heading.rstrip('.')}",
        "",
        "| setting | default | what it does |",
        "|---|---|---|",
    ]
    for name, field in fields.items():
        told = " ".join((field.description or "").split()).replace("|", "\\|")
        lines.append(f"| `{name}` | {_default(field)} | {told} |")
    return [*lines, ""]


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value is None:
        return "unset"
    if isinstance(value, tuple):
        return "`[" + ", ".join(map(str, value)) + "]`"
    name = getattr(value, "name", value)  # a protocol
    return f"`{str(name).lower() if isinstance(name, bool) else name}`"


# Commands


def _commands() -> str:
    lines = [
        "# Every command",
        "",
        "The whole command line: `python -m rlarcade.VERB …` and `rlarcade VERB …` are the same.",
        "Below is what",
        "`--help` prints of every command, with all flags.",
        "",
        "```text",
        *(f"{name:<10} {text}" for name, text in VERBS.items()),
        "```",
        "",
    ]
    for verb in VERBS:
        lines += _command(verb)
    return "\n".join([*lines, _COMPLETION])


_COMPLETION = """\
## Completed by Tab

```bash
mkdir -p ~/.local/share/bash-completion/completions ~/.zfunc ~/.config/fish/completions
rlarcade --completion bash > ~/.local/share/bash-completion/completions/rlarcade
rlarcade --completion zsh > ~/.zfunc/_rlarcade  # a folder of your $fpath
rlarcade --completion fish > ~/.config/fish/completions/rlarcade.fish
```

The next shell completes commands, subcommands, flags, and the choices of flags. Where no word fits
it completes names of files, such as a checkpoint's. Write the script anew after an update of
rlarcade.
"""


def _command(*words: str) -> list[str]:
    """Returns a command's section, and those of its subcommands."""
    text = _help(*words)
    lines = [f"{'#' * (len(words) + 1)} {' '.join(words)}", "", "```text", text, "```", ""]
    usage = " ".join(text.partition("\n\n")[0].split())
    subcommands = re.search(r"\[-h\] \{([a-z, ]+)\}", usage)
    for word in subcommands.group(1).replace(" ", "").split(",") if subcommands else ():
        lines += _command(*words, word)
    return lines


def _help(verb: str, *words: str) -> str:
    main = importlib.import_module(f"rlarcade.{verb}").main
    told = io.StringIO()
    with contextlib.redirect_stdout(told):
        main([*words, "--help"])
    return told.getvalue().strip()


# Presets


def _preset(name: str) -> str:
    """Returns the file of a preset, as it is shipped."""
    path = Path(__file__).parents[1] / "configs" / f"{name}.toml"
    return f"```toml\n{path.read_text('utf-8').strip()}\n```\n"


# Python


def _api() -> str:
    lines = ["# The Python API", "", "Everything that `import rlarcade` offers.", ""]
    groups: dict[str, list[str]] = {"Classes": [], "Functions": [], "Errors": []}
    for name in rlarcade.__all__:
        found = getattr(rlarcade, name)
        if inspect.isclass(found) and issubclass(found, Exception):
            groups["Errors"].append(name)
        else:
            groups["Classes" if inspect.isclass(found) else "Functions"].append(name)
    for heading, names in groups.items():
        lines += [f"## {heading}", ""]
        for name in names:
            kind = "autofunction" if heading == "Functions" else "autoclass"
            lines += [f"### {name}", "", "```{eval-rst}", f".. {kind}:: rlarcade.{name}"]
            if heading == "Classes":
                lines.append("   :members:")
            lines += ["```", ""]
    return "\n".join(lines)
