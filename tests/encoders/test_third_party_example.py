"""The example of docs/third-party-encoders.md, installed the way a package would be."""

from __future__ import annotations

import pickle
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from voxshard.cli import main
from voxshard.encoders import registry
from voxshard.encoders.base import Encoder
from voxshard.errors import ConfigError
from voxshard.testing import EncoderConformance

DOCUMENT = Path(__file__).parents[2] / "docs/third-party-encoders.md"


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = DOCUMENT.read_text()
    code = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    point = re.findall(r'```toml\n\[project\.entry-points\."(.*?)"\]\n(.*?)```', text, flags=re.DOTALL)
    assert len(point) == 1
    (tmp_path / "my_encoders.py").write_text(code[0])
    facts = tmp_path / "my_encoders-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: my-encoders\nVersion: 1.0\n")
    group, entries = point[0]
    (facts / "entry_points.txt").write_text(f"[{group}]\n{entries}".replace('"', ""))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_encoders", raising=False)


@pytest.mark.usefixtures("installed")
class TestTheExample(EncoderConformance):
    @pytest.fixture
    def encoder(self, installed: None) -> Encoder:
        encoder = registry.create("bands", {"num_bands": 10})
        encoder.load("cpu")
        return encoder

    def test_it_is_listed_with_its_package_and_its_settings(self, capsys: pytest.CaptureFixture[str]) -> None:
        main(["encoders"])
        assert "bands       from another package          from my-encoders" in capsys.readouterr().out
        main(["encoders", "bands"])
        assert "--set num_bands=   integer, default 8" in capsys.readouterr().out

    def test_its_settings_are_validated_like_any(self) -> None:
        with pytest.raises(
            ConfigError, match=r"^settings of bands: 1 problem\n  bands: unknown key; valid keys: accept_truncated, "
        ):
            registry.create("bands", {"bands": 3})

    def test_its_settings_are_part_of_the_fingerprint(self) -> None:
        prints = {registry.create("bands", {"num_bands": number}).info.fingerprint for number in (8, 10)}
        assert len(prints) == 2

    def test_its_embedding_is_what_its_lines_say(self, encoder: Encoder) -> None:
        quiet, loud = (np.float32(level) * np.ones(4000, np.float32) for level in (0.0, 0.5))
        features = [pickle.loads(pickle.dumps(encoder.preparer))(item) for item in (quiet, loud)]  # noqa: S301
        outputs = encoder.encode(np.stack(features), np.array([len(item) for item in features]))
        np.testing.assert_allclose(outputs[0]["embedding"], np.log(1e-6), rtol=1e-6)
