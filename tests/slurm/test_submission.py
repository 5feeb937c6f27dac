"""Every job is submitted once and is found again, whatever SLURM answers and whatever the user's variables say."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from support import scheduler_stand_in
from support.earlier_runs import cluster as draft_of
from support.earlier_runs import config, prepared
from support.trees import Notes
from voxshard.errors import ConfigError, SchedulerError
from voxshard.experiment.experiment import Experiment
from voxshard.experiment.schema import load
from voxshard.progress import Silent
from voxshard.slurm import environment, queue, site, submit
from voxshard.slurm.record import Submission
from voxshard.slurm.scripts import Array
from voxshard.slurm.submit import Cluster

pytest.importorskip("submitit", reason="jobs are written with submitit: pip install 'voxshard[slurm]'")

TIMED_OUT = "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation"
BANNER = """echo "-----------------------------------------"
echo "  This system is monitored | 3 notices | see https://example.org"
echo "--> host check ... 17 ok"
echo 2026"""


@pytest.fixture
def scheduler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The stand-in's folder; nothing here waits for long."""
    folder = scheduler_stand_in.impatient(tmp_path / "bin", monkeypatch, patience_s=0.5, retry_every_s=0.03)
    (folder / "state").write_text("PENDING")
    return folder


@pytest.fixture
def cluster(tmp_path: Path, scheduler: Path) -> Cluster:
    """An experiment of one extraction, prepared and not yet submitted."""
    found = draft_of(tmp_path, "exp", "mfcc", 4)
    prepared(found.experiment, [100.0] * 8)
    submit.write_submission(found)
    return found


def drafts(cluster: Cluster) -> Mapping[str, list[Array]]:
    return cluster.render_arrays(cluster.missing_tasks())


def replace_sbatch(scheduler: Path, lines: str) -> None:
    """Put other lines in the place of sbatch; the stand-in stays as `real-sbatch`."""
    (scheduler / "sbatch").rename(scheduler / "real-sbatch")
    scheduler_stand_in.write(scheduler, "sbatch", 'case " $* " in *" --test-only "*) exit 0;; esac\n' + lines)


def in_queue(scheduler: Path) -> list[int]:
    """Jobs that were taken and not cancelled."""
    path = scheduler / "queue"
    cancelled = (scheduler / "cancelled").read_text().split() if (scheduler / "cancelled").exists() else []
    taken = [line.partition("\x1f")[0] for line in path.read_text().splitlines()] if path.exists() else []
    return [int(job) for job in taken if job not in cancelled]


def recorded(cluster: Cluster) -> list[int]:
    return sorted(cluster.record.job_ids())


@pytest.mark.parametrize("message", [TIMED_OUT, "sbatch: error: Unable to contact slurm controller (connect failure)"])
@pytest.mark.parametrize("call", ["1", "2", "*"])
def test_a_job_that_was_taken_without_an_answer_is_adopted(
    cluster: Cluster, scheduler: Path, message: str, call: str
) -> None:
    replace_sbatch(scheduler, f"""job=$({{folder}}/real-sbatch "$@")
case $job in {call}) echo "{message}" >&2; exit 1;; esac
echo $job""")  # fmt: skip
    jobs = cluster.submit(drafts(cluster), "test", Silent())
    assert jobs == {"prepare": [1], "extract-one": [2], "merge-one": [3], "report": [4]}
    assert in_queue(scheduler) == recorded(cluster) == [1, 2, 3, 4]


def test_a_job_that_was_not_taken_is_submitted_again(
    cluster: Cluster, scheduler: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue, "PATIENCE_S", 120.0)
    replace_sbatch(scheduler, f"""[ -e {{folder}}/tried ] && exec {{folder}}/real-sbatch "$@"
touch {{folder}}/tried; echo "{TIMED_OUT}" >&2; exit 1""")  # fmt: skip
    cluster.submit(drafts(cluster), "test", Silent())
    assert in_queue(scheduler) == recorded(cluster) == [1, 2, 3, 4]


def test_a_job_that_appears_late_is_adopted_and_its_copies_are_cancelled(
    cluster: Cluster, scheduler: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The controller shows the first two only when it is asked after the third."""
    monkeypatch.setattr(queue, "PATIENCE_S", 120.0)
    replace_sbatch(scheduler, f"""{{folder}}/real-sbatch "$@" > {{folder}}/answer
[ "$(cat {{folder}}/answer)" -lt 3 ] && {{ echo "{TIMED_OUT}" >&2; exit 1; }}
[ "$(cat {{folder}}/answer)" -eq 3 ] && {{ touch {{folder}}/visible; echo "{TIMED_OUT}" >&2; exit 1; }}
cat {{folder}}/answer""")  # fmt: skip
    (scheduler / "squeue").rename(scheduler / "real-squeue")
    scheduler_stand_in.write(scheduler, "squeue", '[ -e {folder}/visible ] || exit 0; exec {folder}/real-squeue "$@"')
    jobs = cluster.submit(drafts(cluster), "test", Silent())
    assert jobs["prepare"] == [1]
    assert in_queue(scheduler) == recorded(cluster) == [1, 4, 5, 6]


def test_a_call_of_our_own_that_takes_too_long_is_the_same_case(
    cluster: Cluster, scheduler: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_sbatch(scheduler, '{folder}/real-sbatch "$@"\n[ "$(cat {folder}/last)" = 2 ] && exec sleep 600\nexit 0')
    monkeypatch.setattr(queue, "TIMEOUT_S", 2.0)
    cluster.submit(drafts(cluster), "test", Silent())
    assert in_queue(scheduler) == recorded(cluster) == [1, 2, 3, 4]


def test_a_controller_that_does_not_answer_is_one_plain_line(scheduler: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scheduler_stand_in.write(
        scheduler,
        "scontrol",
        'echo "slurm_load_ctl_conf error: Unable to contact slurm controller (connect failure)" >&2; exit 1',
    )
    message = (
        r"^SLURM does not answer \(scontrol: slurm_load_ctl_conf error: .*\); try again when `sinfo` lists the part"
    )
    with pytest.raises(SchedulerError, match=message) as caught:
        queue.call(["scontrol", "show", "config"], patience_s=0)
    assert caught.value.exit_code == 4


def test_commands_of_slurm_without_a_cluster_point_to_a_login_node(scheduler: Path) -> None:
    answer = "scontrol: error: DNS SRV lookup failed\nscontrol: fatal: Could not establish a configuration source"
    scheduler_stand_in.write(scheduler, "scontrol", f"echo '{answer}' >&2; exit 1")
    with pytest.raises(SchedulerError, match=r"^this machine has SLURM's commands and no cluster; .*\(scontrol: .*\)$"):
        queue.call(["scontrol", "show", "config"])


def test_on_giving_up_nothing_is_left_in_the_queue(cluster: Cluster, scheduler: Path) -> None:
    """The second job is taken, and squeue shows it only after the last answer that was waited for."""
    replace_sbatch(scheduler, f"""job=$({{folder}}/real-sbatch "$@")
[ $job = 1 ] && {{ echo 1; exit 0; }}
echo "{TIMED_OUT}" >&2; exit 1""")  # fmt: skip
    (scheduler / "squeue").rename(scheduler / "real-squeue")
    scheduler_stand_in.write(
        scheduler, "squeue", 'case " $* " in *" all "*) exit 0;; esac; exec {folder}/real-squeue "$@"'
    )
    with pytest.raises(SchedulerError, match="Socket timed out"):
        cluster.submit(drafts(cluster), "test", Silent())
    assert in_queue(scheduler) == recorded(cluster) == []


@pytest.mark.parametrize("cluster_name", ["", ";second"])
def test_what_a_site_prints_around_the_id_does_not_matter(cluster: Cluster, scheduler: Path, cluster_name: str) -> None:
    lines = BANNER.replace("echo 2026", "")
    replace_sbatch(scheduler, f'{lines}\necho "$({{folder}}/real-sbatch "$@"){cluster_name}"\n{lines}')
    cluster.submit(drafts(cluster), "test", Silent())
    assert in_queue(scheduler) == recorded(cluster) == [1, 2, 3, 4]


@pytest.mark.parametrize("answer", ["Submitted batch job $job", "", "2026\n$job"])
def test_an_answer_without_a_clear_id_is_looked_up(cluster: Cluster, scheduler: Path, answer: str) -> None:
    replace_sbatch(scheduler, f'job=$({{folder}}/real-sbatch "$@")\necho "{answer}"')
    cluster.submit(drafts(cluster), "test", Silent())
    assert in_queue(scheduler) == recorded(cluster) == [1, 2, 3, 4]


def test_a_refusal_names_the_key_to_set_and_leaves_nothing_in_the_queue(cluster: Cluster, scheduler: Path) -> None:
    message = "sbatch: error: AssocMaxSubmitJobLimit\nsbatch: error: Batch job submission failed: Job violates "
    message += "accounting/QOS policy (job submit limit, user's size and/or time limits)"
    replace_sbatch(scheduler, f"""job=$({{folder}}/real-sbatch "$@")
[ $job -lt 3 ] && {{ echo $job; exit 0; }}
sed -i '$d' {{folder}}/queue; echo "{message}" >&2; exit 1""")  # fmt: skip
    with pytest.raises(SchedulerError, match=r"AssocMaxSubmitJobLimit .*--set jobs\.merge-one\.tasks=N"):
        cluster.submit(drafts(cluster), "test", Silent())
    assert in_queue(scheduler) == []


LEAKED = {
    "SLURM_NTASKS": "3",
    "SLURM_MEM_PER_CPU": "100",
    "SLURM_NTASKS_PER_NODE": "3",
    "SLURM_THREADS_PER_CORE": "2",
    "SLURM_GPUS": "4",
    "SLURM_STEP_GRES": "gpu:4",
    "SRUN_CPUS_PER_TASK": "9",
    "SBATCH_PARTITION": "gpu_high",
    "SBATCH_TIMELIMIT": "1",
    "SBATCH_ARRAY_INX": "0-5",
    "SBATCH_JOB_NAME": "foo",
    "SBATCH_OUTPUT": "/dev/null",
    "SBATCH_WAIT": "1",
    "SBATCH_EXPORT": "NONE",
    "SQUEUE_STATES": "R",
    "SQUEUE_PARTITION": "none",
    "SCANCEL_STATE": "RUNNING",
    "SINFO_PARTITION": "none",
    "SCONTROL_ALL": "1",
}


def test_no_variable_of_the_user_reaches_slurms_commands(
    cluster: Cluster, scheduler: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in LEAKED.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SLURM_CONF", "/etc/slurm/slurm.conf")
    cluster.submit(drafts(cluster), "test", Silent())
    names = {line.partition("=")[0] for line in (scheduler / "environment").read_text().splitlines()}
    assert not names & set(LEAKED)
    assert "SLURM_CONF" in names
    assert environment.ignored() == sorted(name for name in LEAKED if name.startswith("SBATCH_"))


def test_what_slurm_set_for_one_job_does_not_reach_the_next() -> None:
    inside = {"SLURM_JOB_ID": "7", "CUDA_VISIBLE_DEVICES": "1", "TMPDIR": "/scratch/7", "SLURM_JWT": "key", "HOME": "/"}
    assert environment.for_commands(inside) == {"SLURM_JWT": "key", "HOME": "/"}
    outside = {"CUDA_VISIBLE_DEVICES": "1", "TMPDIR": "/scratch/me"}
    assert environment.for_commands(outside) == outside


def test_a_script_lets_no_variable_but_the_jobs_own_reach_srun() -> None:
    """E.g. of a login script, or exported by `module load`."""
    of_job = {"SLURM_JOB_ID": "7", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "0", "SLURM_RESTART_COUNT": "1",
              "SLURM_CONF": "/etc/slurm.conf", "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_CLUSTER_NAME": "c"}  # fmt: skip
    script = "\n".join(["set -u", *environment.SCRIPT_LINES, "env"])
    done = subprocess.run(["bash", "-c", script], env={**of_job, **LEAKED, "PATH": os.environ["PATH"]}, text=True,
                          capture_output=True, check=True)  # fmt: skip
    found = dict(line.partition("=")[::2] for line in done.stdout.splitlines())
    wanted = {name for name in LEAKED if name.startswith(("SQUEUE_", "SCANCEL_", "SINFO_", "SCONTROL_"))}
    assert {name for name in found if name.startswith("S") and name != "SHLVL"} == of_job.keys() | wanted


def test_who_pays_is_copied_into_the_script_and_the_record_unless_the_site_says_it(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    for option in ("ACCOUNT", "QOS", "RESERVATION", "CONSTRAINT"):
        monkeypatch.setenv(f"SBATCH_{option}", f"my-{option.lower()}")
    facts = environment.fill_in(site.load("test", {"sbatch": {"qos": "the-sites"}}))
    found = Cluster(cluster.experiment, facts, cluster.submission)
    (array,) = drafts(found)["merge-one"]
    lines = set(array.text.splitlines())
    assert {"#SBATCH --account=my-account", "#SBATCH --qos=the-sites", "#SBATCH --reservation=my-reservation",
            "#SBATCH --constraint=my-constraint"} <= lines  # fmt: skip
    submit.write_submission(found)
    for name in list(os.environ):
        if name.startswith("SBATCH_"):
            monkeypatch.delenv(name)
    (again,) = drafts(Cluster.of(cluster.experiment.path))["merge-one"]
    assert again.text == array.text
    stated = environment.fill_in(site.load("test", {"account": "the-sites"}), {"SBATCH_ACCOUNT": "mine"})
    assert stated.account == "the-sites"


@pytest.mark.parametrize("rewritten", ["comment", "script", "comment and script"])
def test_jobs_are_known_though_a_site_rewrites_them(cluster: Cluster, scheduler: Path, rewritten: str) -> None:
    cluster.submit(drafts(cluster), "test", Silent())
    lines = [line.split("\x1f") for line in (scheduler / "queue").read_text().splitlines()]
    for line in lines:
        line[3] = "billed to project 7" if "comment" in rewritten else line[3]
        line[6] = "/var/spool/slurm/job" if "script" in rewritten else line[6]
    other = ["9", "0", "PENDING", "ffffffffffff", "n1", "None", "/elsewhere/exp/jobs/merge-one/attempt-001-0.sh"]
    lines.append([*other, "exp:merge-one"])  # another experiment whose folder has the same name
    (scheduler / "queue").write_text("".join("\x1f".join(line) + "\n" for line in lines))
    assert [item.job for item in cluster.live()] == [1, 2, 3, 4]
    assert [item.job for item in cluster.live(["merge-one"])] == [3]
    with pytest.raises(SchedulerError, match="4 tasks of it are in the queue already"):
        submit.write_submission(cluster)


def test_lines_of_squeue_that_are_no_jobs_are_left_out(cluster: Cluster, scheduler: Path) -> None:
    cluster.submit(drafts(cluster), "test", Silent())
    (scheduler / "squeue").rename(scheduler / "real-squeue")
    scheduler_stand_in.write(scheduler, "squeue", f'{BANNER}\nexec {{folder}}/real-squeue "$@"')
    assert [item.job for item in cluster.live()] == [1, 2, 3, 4]


def test_a_submit_warns_if_it_cannot_see_its_jobs(cluster: Cluster, scheduler: Path) -> None:
    notes = Notes()
    cluster.submit(drafts(cluster), "test", notes)
    assert not [line for line in notes.lines if "warning" in line]
    (scheduler / "queue").unlink()
    (scheduler / "squeue").write_text("#!/bin/sh\n")
    cluster.submit(drafts(cluster), "test", notes)
    assert "squeue does not show job 5, 6, 7, 8, which was just submitted" in notes.lines[-1]


NOT_AVAILABLE = "allocation failure: Requested node configuration is not available"


@pytest.mark.parametrize("state", ["drained", "draining", "down*", "maint", "reserved"])
def test_drained_nodes_are_a_warning(cluster: Cluster, scheduler: Path, state: str) -> None:
    (scheduler / "sbatch").rename(scheduler / "real-sbatch")
    lines = (
        f'case " $* " in *" --test-only "*) echo "{NOT_AVAILABLE}" >&2; exit 1;; esac\nexec {{folder}}/real-sbatch "$@"'
    )
    scheduler_stand_in.write(scheduler, "sbatch", lines)
    with pytest.raises(SchedulerError, match=r"node configuration is not available .*nothing was submitted"):
        cluster.check(drafts(cluster), Silent())
    scheduler_stand_in.write(scheduler, "sinfo", f'echo "up {state}"; echo "up idle"')
    notes = Notes()
    cluster.check(drafts(cluster), notes)
    cluster.submit(drafts(cluster), "test", notes)
    assert recorded(cluster) == [1, 2, 3, 4]
    assert "its jobs wait until one is, see `sinfo`" in notes.lines[0]


def test_records_of_earlier_versions_are_read(cluster: Cluster) -> None:
    content = {"task": 0, "attempt": 1, "job": "7_0", "host": "n1", "partition": "p", "state": "done", "started": 0.0,
               "updated": 1.0}  # fmt: skip
    path = cluster.record.task_file("prepare", 0)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    record = cluster.record.task("prepare", 0)
    assert record is not None
    assert not record.to_requeue


def test_config_yaml_holds_values_however_they_were_given(
    tmp_path: Path, scheduler: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that another shell, and a job with `--export=NONE`, read the same."""
    monkeypatch.setenv("CORPUS", "/data/it's $5")
    monkeypatch.setenv("PROJECT", "proj-7")
    path = tmp_path / "config.yaml"
    path.write_text(
        json.dumps(config(tmp_path / "exp", "mfcc") | {"prepare": {"format": "folder", "root": "$CORPUS/a"}})
    )
    given = {"prepare": {"root": "$CORPUS/b", "label_from": r"(?P<x>\d)_.*\.wav$"}, "report": {"title": "${PROJECT}"}}
    experiment = Experiment(load(path, given))
    facts = site.load("test", {"account": "${PROJECT:-none}"})
    found = Cluster(experiment, facts, Submission("t", "c", "/", "python", 0.0))
    submit.write_submission(found)
    for name in ("CORPUS", "PROJECT"):
        monkeypatch.delenv(name)
    again = Cluster.of(experiment.path)
    assert again.experiment.config.prepare.root == "/data/it's $5/b"
    assert again.experiment.config.prepare.label_from == r"(?P<x>\d)_.*\.wav$"
    assert (again.experiment.config.report.title, again.site.account) == ("proj-7", "proj-7")
    with pytest.raises(ConfigError, match=r"--set: \$NOWHERE not set in the environment"):
        Cluster.of(experiment.path, {"prepare": {"root": "$NOWHERE"}})
