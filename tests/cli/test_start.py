"""What happens before a command does anything."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from voxshard import files
from voxshard.cli import COMMANDS, main

HEAVY = r"\| +(torch|tensorflow|librosa|sklearn|matplotlib|transformers)$"


def test_help_imports_neither_framework_nor_anything_heavy() -> None:
    command = [sys.executable, "-X", "importtime", "-m", "voxshard", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "Usage: voxshard" in done.stdout
    assert not re.search(HEAVY, done.stderr, re.M)


def test_reading_the_settings_of_encoders_that_compute_with_scipy_does_not_import_it() -> None:
    code = (
        "import sys; from voxshard.encoders.registry import settings_model\n"
        "for name in ('mfcc', 'logmel', 'lfcc', 'cqt', 'ge2e', 'vggish', 'hf'): settings_model(name)\n"
        "sys.exit('scipy' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", COMMANDS)
def test_no_commands_help_imports_a_framework(name: str) -> None:
    code = (
        "import sys; from voxshard.cli import main\n"
        f"try: main([{name!r}, '--help'])\nexcept SystemExit: pass\n"
        "sys.exit('torch' in sys.modules or 'tensorflow' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["extract", "nowhere.parquet", "--encoder", "mfcc", "--out", "x"], 2, "'nowhere.parquet' does not exist"),
        (["help"], 2, "No such command 'help'; did you mean --help?"),
        (["version"], 2, "No such command 'version'; did you mean --version?"),
        (["run", "."], 2, ".: a folder; expected a config, a YAML file"),
        (["init", "nowhere", "--out", "x.json"], 2, "nowhere: no such file or folder"),
        (["init", ".", "--out", "x.json"], 2, "--out x.json: this writes .yaml, not .json"),
        (
            ["train", ".", "--label", "a", "--folds", "a", "--classifier", "knn", "--out", "r"],
            2,
            "folds: a is the label: each fold would test a class",
        ),
        (["prepare", "folders", "here", "--out", "m"], 2, "FORMAT: no such corpus format; formats: folder"),
        (["prepare", "/tmp", "--out", "m"], 2, "; of a folder of recordings: `voxshard prepare folder /tmp`"),
        (["extract", __file__, "--encoder", "mfcc", "--out", "f", "--device", "gpu"], 2, "device: expected auto, cpu"),
        (["nonsense"], 2, "No such command 'nonsense'"),
        (["extrac"], 2, "No such command 'extrac'; did you mean extract?"),
        (["encoders", "mfc"], 2, "vggish, openl3; did you mean mfcc?"),
    ],
)
def test_what_is_wrong_ends_with_one_message_and_the_code_of_its_kind(
    capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, message: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == code
    shown = capsys.readouterr()
    assert message in shown.err.replace("\n", " ")
    assert "Traceback" not in shown.err


def test_what_the_system_refuses_is_one_line_about_the_file_that_was_asked_for(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(1600), 16000)
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as caught:
        main(["prepare", "folder", str(tmp_path), "--out", str(tmp_path / "file" / "m.parquet")])
    assert caught.value.code == 4
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"voxshard: {tmp_path / 'file'}")
    assert last.endswith("; check the path, its permissions and the disk, and run the same command again")


def test_a_temporary_file_goes_by_the_name_it_was_to_get(tmp_path: Path) -> None:
    target = tmp_path / "m.parquet"
    assert files.without_temporary(str(files.temp_path_for(target))) == str(target)
    assert files.without_temporary("other.tmp") == "other.tmp"
