"""The house has one direction: a module imports only from rooms before its own."""

import ast
from pathlib import Path

import rlarcade

PACKAGE = Path(rlarcade.__file__).parent
ROOMS = [
    {
        "errors",
        "foreign",
        "checked",
        "seeding",
        "files",
        "json_text",
        "locks",
        "machine",
        "text",
        "numbers",
        "interrupts",
        "outputs",
        "shown",
        "toml_files",
    },
    {"games"},
    {"config"},
    {"zoo", "search_names"},
    {"checkpoint"},
    {"registry", "learning"},
    {"playing"},
    {"cluster"},
    {"evaluation"},
    {"promotion", "runs"},
    {"serving"},
    {"reports"},
    {"cards"},
    {"command_line"},
    {"console"},
    {"progress"},
    {"train_flags", "play_commands", "sweeps"},
    {
        "train",
        "evaluate",
        "compare",
        "watch",
        "export",
        "promote",
        "serve",
        "rollout",
        "play",
        "predict",
        "sweep",
        "__main__",
    },
]
# whatever a room holds, those may use that lie in the lowest one themselves
SHARED = ROOMS[0] - {"interrupts"}
LEVEL = {name: level for level, names in enumerate(ROOMS) for name in names}


def imported_rooms(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("rlarcade"):
            parts = (node.module or "").split(".")
            yield from [parts[1]] if len(parts) > 1 else [alias.name for alias in node.names]


def test_every_module_imports_only_from_rooms_before_its_own():
    wrong = []
    for path in sorted(PACKAGE.rglob("*.py")):
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if room == "__init__":
            continue
        assert room in LEVEL, f"give {room} a place in ROOMS"
        for imported in imported_rooms(path):
            same_room = imported == room or imported in SHARED
            if not same_room and LEVEL[imported] >= LEVEL[room]:
                wrong.append(f"{path.relative_to(PACKAGE)} -> {imported}")
    assert not wrong, wrong
