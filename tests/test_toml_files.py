"""Files of settings from outside: errors name the file, and what is wrong in it."""

import pytest
from pydantic import BaseModel

from rlarcade.errors import ConfigError
from rlarcade.toml_files import errors_of, read_toml, read_toml_as


class Size(BaseModel, extra="forbid"):
    width: int
    height: int = 2


def test_a_file_becomes_a_model(tmp_path):
    path = tmp_path / "size.toml"
    path.write_text("width = 3\n")
    assert read_toml_as(Size, path, "size") == Size(width=3, height=2)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("width = 3\nheigth = 4\n", "unknown setting 'heigth'. Did you mean 'height'?"),
        ("height = 4\n", "'width' is missing."),
        ("width = 'x'\n", "'width' must be a whole number, not 'x'."),
    ],
)
def test_an_error_in_a_file_names_the_file(tmp_path, text, said):
    path = tmp_path / "size.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as told:
        read_toml_as(Size, path, "size")
    assert str(told.value) == f"size {path}: {said}"


def test_only_errors_of_settings_get_the_name_of_the_file():
    with pytest.raises(KeyError, match="^'x'$"), errors_of("size s.toml"):
        raise KeyError("x")


def test_values_inside_each_other_are_read_up_to_one_hundred_levels(tmp_path):
    path = tmp_path / "size.toml"
    path.write_text("# ))]]}} \nx = " + "[" * 99 + "'[' ,1" + "]" * 99)
    assert "x" in read_toml(path, "size")
    path.write_text("# ]]} \nx = " + "[" * 101 + "1" + "]" * 101)
    with pytest.raises(ConfigError, match=r"size\.toml is nested too deeply"):
        read_toml(path, "size")
