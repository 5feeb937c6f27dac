"""Where weights are looked for, and how they are identified."""

from __future__ import annotations

import errno
import hashlib
import os
import re
from pathlib import Path

import pytest

from voxshard import files
from voxshard.encoders.weight_files import hash_files, locate
from voxshard.errors import MissingWeightsError
from voxshard.weights.catalogue import known_sets


def test_a_path_comes_before_a_name_in_the_weights_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "store/hf/org/name").mkdir(parents=True)
    monkeypatch.setenv("VOXSHARD_WEIGHTS", str(tmp_path / "store"))
    monkeypatch.chdir(tmp_path)
    assert locate("hf", "org/name") == tmp_path / "store/hf/org/name"
    (tmp_path / "org/name").mkdir(parents=True)
    assert locate("hf", "org/name") == tmp_path / "org/name"


def test_nothing_given_is_the_encoders_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ecapa").mkdir()
    monkeypatch.setenv("VOXSHARD_WEIGHTS", str(tmp_path))
    assert locate("ecapa", None) == tmp_path / "ecapa"


def test_missing_weights_say_which_command_to_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VOXSHARD_WEIGHTS", raising=False)
    message = (
        "weights of ecapa not found (looked in nowhere: $VOXSHARD_WEIGHTS is not set); on a machine with internet run"
        " `voxshard weights fetch ecapa`, or give the folder with `--set weights=FOLDER`"
    )
    with pytest.raises(MissingWeightsError, match=f"^{re.escape(message)}$") as caught:
        locate("ecapa", None)
    assert caught.value.exit_code == 4


def test_a_link_to_weights_that_are_not_there_says_where_it_leads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VOXSHARD_WEIGHTS", str(tmp_path))
    (tmp_path / "ecapa").symlink_to("/gpfs/not-shown/ecapa")
    with pytest.raises(MissingWeightsError, match=r"\(looked in \S+/ecapa -> /gpfs/not-shown/ecapa\)"):
        locate("ecapa", None)


def test_weights_of_somebody_else_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> bool:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))  # root, as CI is, would read on

    monkeypatch.setattr(Path, "exists", refuse)
    with pytest.raises(MissingWeightsError, match=r"weights of ecapa: /theirs/ecapa cannot be read: Permission denied"):
        locate("ecapa", "/theirs/ecapa")


def test_half_a_download_is_named(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    message = (
        f"{tmp_path}: no b in this folder; vggish expects a, b; is it the folder of another model, or half a download?"
    )
    with pytest.raises(MissingWeightsError, match=f"^{re.escape(message)}"):
        locate("vggish", str(tmp_path), required=("a", "b"))


def test_a_file_of_known_size_and_time_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_bytes(b"one")
    (tmp_path / "b").write_bytes(b"two")
    first = hash_files(tmp_path, ["b", "a"], {})
    assert [item.name for item in first] == ["a", "b"]
    assert first[0].sha256 == hashlib.sha256(b"one").hexdigest()
    os.utime(tmp_path / "b", ns=(1, 1))
    read: list[str] = []
    original = files.sha256_of
    monkeypatch.setattr(files, "sha256_of", lambda path: read.append(path.name) or original(path))
    assert hash_files(tmp_path, ["a", "b"], {tmp_path: first})[0] == first[0]
    assert read == ["b"]


def test_every_digest_of_the_catalogue_is_one() -> None:
    digests = [source.sha256 for item in known_sets().values() for source in item.sources if source.sha256]
    assert digests
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in digests)


def test_an_encoder_of_own_exports_names_no_download_that_does_not_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VOXSHARD_WEIGHTS", raising=False)
    message = "; give an export with its encoder.json by `--set weights=FOLDER`; `voxshard weights list` has some"
    with pytest.raises(MissingWeightsError, match=f"{re.escape(message)}$"):
        locate("onnx", None)
