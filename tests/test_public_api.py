import subprocess
import sys

import rlarcade


def test_every_public_name_can_be_imported_and_is_documented():
    assert rlarcade.__all__ == list(rlarcade._HOMES)
    for name in rlarcade.__all__:
        assert getattr(rlarcade, name).__doc__, name


def test_no_public_name_equals_a_submodule():
    from pathlib import Path

    modules = {path.stem for path in Path(rlarcade.__file__).parent.iterdir()}
    assert not modules & set(rlarcade.__all__)


def test_an_unknown_name_is_an_attribute_error():
    import pytest

    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = rlarcade.nonsense


def test_importing_the_package_loads_neither_torch_nor_the_emulator():
    code = (
        "import sys, rlarcade; dir(rlarcade); "
        "sys.exit(any(m in sys.modules for m in ('torch', 'ale_py', 'numpy')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_training_loads_none_of_the_libraries_it_does_not_need():
    code = (
        "import sys, rlarcade.train; "
        "print([m for m in ('scipy', 'matplotlib', 'sqlalchemy', 'imageio_ffmpeg', 'cv2') "
        "if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert out.stdout.strip() == "[]"


def test_commands_that_mostly_ask_or_wait_import_torch_only_for_games():
    code = (
        "import sys, rlarcade.promote, rlarcade.rollout, rlarcade.play, rlarcade.sweep; "
        "sys.exit(any(m in sys.modules for m in ('torch', 'scipy')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_sweep_that_names_its_preset_needs_no_torch_to_plan_its_runs(tmp_path):
    file = tmp_path / "sweep.toml"
    file.write_text('[settings]\npreset = "quick"\n[grid]\ngame = ["Pong"]\nseed = [1, 2]\n')
    code = (
        "import sys, pathlib; from rlarcade.sweeps.file import read_sweep; "
        "_, runs = read_sweep(pathlib.Path(sys.argv[1]), None, jobs=None); "
        "print(len(runs), 'torch' in sys.modules)"
    )
    out = subprocess.run(
        [sys.executable, "-c", code, file], check=True, capture_output=True, text=True
    )
    assert out.stdout.strip() == "2 False"
