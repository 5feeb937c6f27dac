"""`submit` with `publish:`: the last job, on a partition of its own, uploads the experiment."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from support.bucket_corpora import folder_corpus
from support.object_stores import SECRETS, s3_store
from support.slurm_cluster import Experiment
from voxshard.locations import MARKER

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(3000)]


def test_the_last_job_publishes_the_experiment_on_the_partition_that_the_site_names(
    experiment: Callable[..., Experiment], tmp_path: Path
) -> None:
    with s3_store() as store:
        run = experiment(dict(store.environment))
        folder_corpus(tmp_path / "corpus")
        run.submit(
            {
                "prepare": {"format": "folder", "root": str(tmp_path / "corpus"),
                            "split_from": ["^train=train", "^test=test"], "label_from": "/(?P<label>blues|jazz)/"},
                "extract": {"mfcc": {"encoder": "mfcc", "workers": 1}},
                "train": {"label": "label", "classifier": "logistic", "replicates": 20},
                "publish": store.url("experiment"),
            },
            "--set", "site.stages.publish.partitions=gpu_high",
        )  # fmt: skip
        partitions = dict(line.split("|") for line in run.cluster.call("squeue", "-h", "-o", "%j|%P").splitlines())
        assert partitions["exp:publish"] == "gpu_high"
        assert {part for name, part in partitions.items() if name != "exp:publish"} == {"gpu_a100"}
        run.cluster.wait_until_empty()
        assert run.statuses()["publish"]["tasks"] == {"done": 1}, run.logs("publish")
        names = store.names("experiment")
        assert {"report.html", "features/mfcc/features.h5", "runs/mfcc-logistic-0/metrics.json", MARKER} <= set(names)
        assert store.read("experiment", "report.html") == (run.path / "report.html").read_bytes()
        assert f"{len(names) - 1} objects uploaded" in run.logs("publish")
        assert run.voxshard("retry", run.path).stderr.strip() == f"{run.path}: nothing is missing"
    secrets = [value.encode() for name, value in SECRETS.items() if name != "AWS_ACCESS_KEY_ID"]
    written = [path for path in run.path.rglob("*") if path.is_file()]
    assert [path for path in written if any(secret in path.read_bytes() for secret in secrets)] == []
