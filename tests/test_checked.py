"""What pydantic finds wrong is told in plain words, in one line."""

import json
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from rlarcade.checked import Checked, reason, validated
from rlarcade.config import TrainConfig
from rlarcade.errors import ConfigError


class Colour(Enum):
    RED = "red"


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")

    learning_rate: float = 0.1
    pairs: int = 3


class Model(Checked):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    whole: int = 1
    strict: Annotated[int, Field(strict=True)] = 1
    number: Annotated[float, Field(gt=0, lt=1)] = 0.5
    count: Annotated[int, Field(ge=1, le=9)] = 1
    maybe: int | None = None
    perhaps: Inner | None = None
    several: list[Inner] | None = None
    named: dict[str, Inner] | None = None
    switch: bool = False
    text: Annotated[str, Field(min_length=2, max_length=3)] = "ab"
    name: Annotated[str, Field(pattern="^[a-z]+$")] = "a"
    kind: Literal["a", "b"] = "a"
    colour: Colour = Colour.RED
    parts: list[int] = Field([1], min_length=1, max_length=2)
    pair: tuple[int, int] = (1, 2)
    some: frozenset[int] = frozenset()
    table: dict[str, int] = Field({})
    inner: Inner = Inner()
    path: Path | None = None
    nothing: None = None
    identity: UUID = UUID(int=0)
    either: int | list[int] = 1

    @model_validator(mode="after")
    def _not_seven(self) -> "Model":
        if self.whole == 7:
            raise ValueError("seven is taken. Use eight")
        return self


WORDS = [
    ({"whole": "x"}, "'whole' must be a whole number, not 'x'."),
    ({"whole": 1.5}, "'whole' must be a whole number, not 1.5."),
    ({"whole": None}, "'whole' must be a whole number, not None."),
    (
        {"whole": "9" * 5_000},
        f"'whole' must be a whole number of fewer digits, not '{'9' * 39}…{'9' * 38}'.",
    ),
    ({"strict": "1"}, "'strict' must be a whole number, not '1'."),
    ({"number": "x"}, "'number' must be a number, not 'x'."),
    ({"number": []}, "'number' must be a number, not []."),
    ({"number": 0}, "'number' must be above 0, not 0."),
    ({"number": 1.0}, "'number' must be below 1, not 1.0."),
    ({"number": float("inf")}, "'number' must be a finite number, not inf."),
    ({"count": 0}, "'count' must be at least 1, not 0."),
    ({"count": 10}, "'count' must be at most 9, not 10."),
    ({"maybe": "x"}, "'maybe' must be a whole number, not 'x'."),
    ({"switch": "perhaps"}, "'switch' must be true or false, not 'perhaps'."),
    ({"switch": []}, "'switch' must be true or false, not []."),
    ({"text": 3}, "'text' must be text, not 3."),
    ({"text": b"\xff\xff"}, "'text' must be text, not b'\\xff\\xff'."),
    ({"text": "a"}, "'text' must have at least 2 characters, not 'a'."),
    ({"text": "abcd"}, "'text' must have at most 3 characters, not 'abcd'."),
    ({"name": "A\x1b"}, "'name' must be text of the form ^[a-z]+$, not 'A\\x1b'."),
    ({"kind": "c"}, "'kind' must be 'a' or 'b', not 'c'."),
    ({"colour": "blue"}, "'colour' must be 'red', not 'blue'."),
    ({"parts": 3}, "'parts' must be a list, not 3."),
    ({"parts": []}, "'parts' must have at least 1 part, not []."),
    ({"parts": [1, 2, 3]}, "'parts' must have at most 2 parts, not [1, 2, 3]."),
    ({"parts": [1, "x"]}, "'parts.1' must be a whole number, not 'x'."),
    ({"pair": 3}, "'pair' must be a list, not 3."),
    ({"pair": [1]}, "'pair.1' is missing."),
    ({"some": 3}, "'some' must be a list, not 3."),
    ({"table": 3}, "'table' must be a table, not 3."),
    ({"table": {"x": "y"}}, "'table.x' must be a whole number, not 'y'."),
    ({"path": 3}, "'path' must be a path, not 3."),
    ({"nothing": 3}, "'nothing' must be left out, not 3."),
    ({"whole": 7}, "seven is taken. Use eight."),
    ({"inner": {"pairs": "x"}}, "'inner.pairs' must be a whole number, not 'x'."),
    ({"inner": {"pair": 1}}, "unknown setting 'inner.pair'. Did you mean 'pairs'?"),
    ({"inner": {"lr": 1}}, "unknown setting 'inner.lr'. Did you mean 'learning_rate'?"),
    ({"perhaps": {"pair": 1}}, "unknown setting 'perhaps.pair'. Did you mean 'pairs'?"),
    ({"several": [{}, {"pair": 1}]}, "unknown setting 'several.1.pair'. Did you mean 'pairs'?"),
    (
        {"named": {"pairs": {"pair": 1}}},
        "unknown setting 'named.pairs.pair'. Did you mean 'pairs'?",
    ),
    ({"knid": "a"}, "unknown setting 'knid'. Did you mean 'kind'?"),
    ({"z" * 5_000: 1}, f"unknown setting '{'z' * 39}…{'z' * 38}'."),
]


@pytest.mark.parametrize(("values", "said"), WORDS)
def test_a_wrong_value_is_told_with_what_it_must_be(values, said):
    with pytest.raises(ConfigError) as told:
        validated(Model, values)
    assert str(told.value) == said
    with pytest.raises(ConfigError) as told:
        Model(**values)
    assert str(told.value) == said


def test_a_value_of_a_model_is_named_as_whoever_gives_it_knows_it():
    with pytest.raises(ConfigError) as told:
        validated(Model, {"inner": 3})
    assert str(told.value) == "'inner' must be a table, not 3."
    with pytest.raises(ConfigError) as told:
        Model(inner=3)
    assert str(told.value) == "'inner' must be of type Inner, not 3."


@pytest.mark.parametrize("values", [{"identity": "x"}, {"either": "x"}, {"either": {}}])
def test_what_nobody_has_foreseen_is_one_line_too(values):
    with pytest.raises(ConfigError) as told:
        Model(**values)
    said = str(told.value)
    assert next(iter(values)) in said
    assert said.isprintable()
    for leak in ("pydantic", "http", "Input", "validation error", "[type="):
        assert leak not in said


def test_a_setting_cannot_be_changed_afterwards():
    value = Model()
    with pytest.raises(ConfigError) as told:
        value.whole = 3
    assert str(told.value) == "'whole' cannot be changed afterwards. Make a new Model with it."
    assert value == Model()


def refused(text: str) -> Any:
    with pytest.raises(ValidationError) as told:
        Model.model_validate_json(text)
    return told.value


def test_a_document_is_told_without_what_only_settings_have():
    assert reason(refused("[]")) == "it must be a table, not []."
    assert reason(refused('{"zzz": 1}')) == "'zzz' is unknown."
    assert reason(refused('{"pair": [1]}')) == "'pair.1' is missing."
    said = reason(refused("{\n"))
    assert said.startswith("it is not JSON (")
    assert said.isprintable()
    assert reason(refused(json.dumps({"count": 10}))) == "'count' must be at most 9, not 10."


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"total_timesteps": True}, "'total_timesteps' must be a whole number, not True"),
        ({"buffer_size": True}, "'buffer_size' must be a whole number, not True"),
        ({"max_grad_norm": True}, "'max_grad_norm' must be a number, not True"),
        ({"double": "yes"}, "'double' must be true or false, not 'yes'"),
        ({"double": 1}, "'double' must be true or false, not 1"),
    ],
)
def test_nothing_is_made_of_text_or_truth(values, message):
    with pytest.raises(ConfigError, match=message):
        TrainConfig(game="pong", **values)


def test_whole_numbers_may_be_written_with_a_point_and_settings_without_a_value_stay_so():
    config = TrainConfig(game="pong", total_timesteps=1e6, buffer_size=None, learning_rate=1)
    assert (config.total_timesteps, config.learning_rate) == (1_000_000, 1.0)
