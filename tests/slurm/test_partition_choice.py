"""A dry run on snellius: an encoder goes to a GPU partition only if it uses a GPU."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from support import scheduler_stand_in
from voxshard.cli import submit

CODE = """
from voxshard.encoders.base import Encoder, describe


class OnCpu(Encoder):
    needs_gpu = False

    def __init__(self, name, settings, known_hashes):
        self.info = describe(
            name=name, settings=settings, code_version=1, libraries=("numpy",), sample_rate=16000, dim=1,
            granularity="utterance", batch_policy="single", needs_gpu=self.needs_gpu,
        )

    def encode(self, features, lengths):
        return [{"embedding": features[0, :1]}]


class OnGpu(OnCpu):
    needs_gpu = True
"""


@pytest.fixture
def partitions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, set[str]]:
    """Step of each extraction -> the partitions of its jobs in the dry run."""
    pytest.importorskip("submitit", reason="jobs are written with submitit: pip install 'voxshard[slurm]'")
    site = tmp_path / "site"
    facts = site / "theirs-1.0.dist-info"
    facts.mkdir(parents=True)
    (site / "their_encoders.py").write_text(CODE)
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text(
        "[voxshard.encoders]\non-cpu = their_encoders:OnCpu\non-gpu = their_encoders:OnGpu\n"
    )
    monkeypatch.syspath_prepend(site)
    monkeypatch.delitem(sys.modules, "their_encoders", raising=False)
    monkeypatch.setenv("PATH", str(scheduler_stand_in.put_into(tmp_path / "bin")), prepend=":")
    monkeypatch.chdir(tmp_path)
    config = {
        "out": str(tmp_path / "exp"),
        "prepare": {"format": "folder", "root": str(tmp_path)},
        "extract": {name: {"encoder": name} for name in ("egemaps", "on-cpu", "on-gpu", "hf")},
    }
    (tmp_path / "config.yaml").write_text(json.dumps(config))
    arguments = [str(tmp_path / "config.yaml"), "--site", "snellius", "--dry-run", "--set", "site.account=none"]
    result = CliRunner().invoke(submit.command, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    found: dict[str, set[str]] = {}
    for script in result.output.split("#!/bin/bash")[1:]:
        name = re.search(r"--job-name=exp:(\S+)", script)
        partition = re.search(r"--partition=(\S+)", script)
        assert name
        assert partition
        found.setdefault(name[1], set()).add(partition[1])
    return found


def test_encoders_without_a_gpu_go_to_cpu_partitions_and_those_with_one_to_gpu_partitions(
    partitions: dict[str, set[str]],
) -> None:
    for name in ("egemaps", "on-cpu"):
        assert partitions[f"extract-{name}"] == {"rome", "genoa"}
    for name in ("on-gpu", "hf"):
        assert partitions[f"extract-{name}"] == {"gpu_a100"}
    assert partitions["prepare"] == {"rome"}
