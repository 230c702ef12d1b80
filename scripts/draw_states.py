"""Draws the states of a submission, from the table that the code itself goes by.

python scripts/draw_states.py  # the diagram in docs/promoting.md
"""

from rlarcade.registry.states import TRANSITIONS


def diagram() -> str:
    """Returns the states and where each can go, as a Mermaid diagram."""
    lines = ["stateDiagram-v2", "    [*] --> submitted"]
    for state, following in TRANSITIONS.items():
        lines += [f"    {state} --> {after}" for after in following or ("[*]",)]
    return "\n".join(lines)


if __name__ == "__main__":
    print(diagram())
