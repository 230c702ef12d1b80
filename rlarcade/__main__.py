"""`rlarcade VERB …` is `python -m rlarcade.VERB …`."""

import difflib
import importlib
import sys
from collections.abc import Sequence

from rlarcade.interrupts import until_ready
from rlarcade.text import quoted

VERBS = {
    "train": "train an agent; the same command resumes it",
    "evaluate": "play whole games with checkpoints and report raw scores",
    "compare": "match a candidate against the champion: promote or reject",
    "watch": "show a checkpoint's or a recorded game, and confirm recorded scores",
    "predict": "an agent's actions for stored observations or recorded games",
    "export": "write a checkpoint as an ONNX file, or as a card to share",
    "promote": "register versions, and promote them through a gate, or roll back",
    "serve": "serve each game's champion over HTTP and WebSocket",
    "rollout": "hand a server's games over to another version, step by step",
    "play": "play games with the agents of a server",
    "sweep": "train many agents side by side; the same command goes on",
}


def main() -> int:
    """Hands over to the verb's module; returns its exit code."""
    until_ready()
    from rlarcade.console import run_command  # here, since its libraries take a second to load

    return run_command(_hand_over, sys.argv[1:])


def _hand_over(arguments: Sequence[str]) -> int:
    from rlarcade.command_line import EPILOGUE
    from rlarcade.console import EXIT_OK, deliver, say
    from rlarcade.errors import ConfigError

    verb = arguments[0] if arguments else "--help"
    if verb in ("-h", "--help"):
        say("usage: rlarcade VERB …   (rlarcade VERB --help tells more)")
        say()
        for name, help_text in VERBS.items():
            say(f"  {name:<10} {help_text}")
        say()
        say(EPILOGUE)
        return EXIT_OK
    if verb == "--completion":
        deliver(sys.stdout, _completion(arguments[1:]))
        return EXIT_OK
    if verb == "--version":
        import rlarcade

        say(f"rlarcade {rlarcade.__version__}")
        return EXIT_OK
    if verb not in VERBS:
        near = difflib.get_close_matches(verb, VERBS, n=1)
        hint = f"Did you mean {near[0]}?" if near else f"Choose one of {', '.join(VERBS)}."
        raise ConfigError(f"unknown verb {quoted(verb)}. {hint}")
    code: int = importlib.import_module(f"rlarcade.{verb}").main(arguments[1:])
    return code


def _completion(shells: Sequence[str]) -> str:
    """Returns the script for a shell to complete the words of all commands."""
    from rlarcade.command_line import SHELLS, completion_script
    from rlarcade.errors import ConfigError
    from rlarcade.train_flags import every_flag

    if len(shells) != 1:
        raise ConfigError(f"--completion takes a shell: {', '.join(SHELLS)}.")
    modules = {verb: importlib.import_module(f"rlarcade.{verb}") for verb in VERBS}
    flags = {v: every_flag() if v == "train" else module.FLAGS for v, module in modules.items()}
    return completion_script(shells[0], flags)


if __name__ == "__main__":
    sys.exit(main())
