"""What starts a program in an image: the exec line, what it is shown, what passes, and what people get wrong."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest
import soundfile

from support.container_stand_in import StandIn, write_image
from voxshard import __version__
from voxshard.errors import BackendUnavailableError, ConfigError, EnvironmentProblemError, StorageFullError
from voxshard.experiment.experiment import Experiment
from voxshard.experiment.local import Job
from voxshard.experiment.schema import ExperimentConfig
from voxshard.learning.network_config import NetworkConfig
from voxshard.manifest import Manifest
from voxshard.runtime import apptainer as launcher
from voxshard.runtime import binds, image_command, images, runtime
from voxshard.runtime.apptainer import Container
from voxshard.runtime.binds import RequiredPath


@pytest.fixture
def apptainer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    """A node with apptainer and without a GPU, and a current folder of its own."""
    made = StandIn(tmp_path / "programs")
    monkeypatch.setenv("PATH", str(made.path.parent))
    for name in ("TMPDIR", "HF_HOME", "VOXSHARD_WEIGHTS", "APPTAINER_TMPDIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(image_command, "DEVICES", tmp_path / "dev")
    (tmp_path / "dev").mkdir()
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    monkeypatch.setenv("PWD", str(tmp_path / "cwd"))
    return made


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return write_image(tmp_path / "voxshard.sif")


def words_of(image: Path, needs: Sequence[RequiredPath] = (), **site: object) -> list[str]:
    return runtime.command(f"image:{image}", ["merge", "x"], needs=needs, site=Container(**site)).words  # type: ignore[arg-type]


def shown(words: Sequence[str]) -> list[str]:
    return [value for option, value in pairwise(words) if option == "--bind"]


def test_the_whole_line(apptainer: StandIn, image: Path, tmp_path: Path) -> None:
    cwd = tmp_path / "cwd"
    assert words_of(image, options=["--containall"]) == [
        "apptainer", "exec", "--cleanenv", "--no-home", "--pwd", str(cwd), "--scratch", "/voxshard-cache",
        "--bind", str(cwd), "--containall", str(image), "python", "-m", "voxshard", "merge", "x",
    ]  # fmt: skip


def test_a_gpu_flag_is_passed_where_there_is_a_gpu(apptainer: StandIn, image: Path, tmp_path: Path) -> None:
    assert not {"--nv", "--rocm"} & {*words_of(image), *words_of(image, gpu_flag="--nv")}
    (tmp_path / "dev" / "kfd").touch()
    assert "--rocm" in words_of(image)
    (tmp_path / "dev" / "nvidia3").touch()
    assert "--nv" in words_of(image)
    assert "--nvccli" in words_of(image, gpu_flag="--nvccli")


def test_compiled_code_is_kept_in_the_experiment(apptainer: StandIn, image: Path, tmp_path: Path) -> None:
    (tmp_path / "exp").mkdir()
    found = runtime.command(f"image:{image}", [], kept=Path("../exp/jobs"))
    (cache,) = (tmp_path / "exp" / "jobs" / "cache").iterdir()
    assert str(cache) in shown(found.words)
    assert found.environment["APPTAINERENV_NUMBA_CACHE_DIR"] == str(cache)
    assert found.environment["APPTAINERENV_CUDA_CACHE_PATH"] == f"{cache}/cuda"
    assert "--scratch" not in found.words


def test_a_linked_folder_is_shown_by_both_names_and_none_twice(apptainer: StandIn, image: Path, tmp_path: Path) -> None:
    real = tmp_path / "gpfs" / "project"
    (real / "exp").mkdir(parents=True)
    (tmp_path / "projects").mkdir()
    link = tmp_path / "projects" / "ours"
    link.symlink_to(real)
    needs = [
        RequiredPath(link / "exp", "out"),
        RequiredPath(real / "exp", "out"),
        RequiredPath(link, "prepare.root"),
        RequiredPath(link, "again"),
    ]
    assert sorted(shown(words_of(image, needs))) == sorted(map(str, (tmp_path / "cwd", real, link)))


def test_what_a_folder_shows_is_not_bound_again(apptainer: StandIn, image: Path, tmp_path: Path) -> None:
    (tmp_path / "data" / "below").mkdir(parents=True)
    needs = [
        RequiredPath(tmp_path / "data" / "below", "a"),
        RequiredPath(tmp_path / "data", "b"),
        RequiredPath(tmp_path / "data", "c"),
    ]
    assert shown(words_of(image, needs, binds=[str(tmp_path)])) == [str(tmp_path)]


@pytest.mark.parametrize("place", ["/", "/usr", "/opt"])
def test_what_would_hide_the_image_is_refused(apptainer: StandIn, image: Path, place: str) -> None:
    with pytest.raises(EnvironmentProblemError) as caught:
        words_of(image, [RequiredPath(Path(place), "prepare.root")])
    assert str(caught.value) == (
        f"{place} (prepare.root): to bind it would hide the image's own files; name a folder below it"
    )


def test_a_missing_bind_is_named(apptainer: StandIn, image: Path) -> None:
    with pytest.raises(EnvironmentProblemError) as caught:
        words_of(image, binds=["/nowhere/scratch"])
    node = os.uname().nodename
    assert str(caught.value) == (
        f"/nowhere/scratch (container.binds): does not exist on {node}, so it cannot be shown to an image"
    )


def test_odd_names_are_bound_too(apptainer: StandIn, image: Path, tmp_path: Path) -> None:
    odd = tmp_path / 'a, b:"c"'
    odd.mkdir()
    words = words_of(image, [RequiredPath(odd, "out")])
    assert words[words.index("--mount") + 1] == (
        f'type=bind,"source={tmp_path}/a, b:""c""","destination={tmp_path}/a, b:""c"""'
    )


def test_what_passes_and_what_does_not(apptainer: StandIn, image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    passes = {"SLURM_JOB_NODELIST": "gcn[1,3]", "CUDA_VISIBLE_DEVICES": "1", "HF_HUB_OFFLINE": "1", "VOXSHARD_X": "y"}
    stays = {"PYTHONPATH": "/host", "LD_PRELOAD": "", "LD_LIBRARY_PATH": "/host", "NUMBA_CACHE_DIR": "/host", "X": "y"}
    for name, value in {**passes, **stays, "OMP_NUM_THREADS": "8"}.items():
        monkeypatch.setenv(name, value)
    found = runtime.command(f"image:{image}", [], environment={"OMP_NUM_THREADS": "1"}).environment
    inside = {name.removeprefix("APPTAINERENV_"): value for name, value in found.items()}
    assert passes.items() <= inside.items()
    assert inside["OMP_NUM_THREADS"] == "1", "what a stage asks for comes before what we were given"
    assert inside["PYTHONNOUSERSITE"] == inside["PYTHONSAFEPATH"] == "1"
    assert inside["VOXSHARD_IMAGE_DIGEST"] == images.digest(image)
    assert not {*stays} - {"NUMBA_CACHE_DIR"} & {*inside}
    assert inside["NUMBA_CACHE_DIR"] == "/voxshard-cache"
    assert inside["CUDA_CACHE_PATH"] == "/voxshard-cache/cuda"


def test_folders_that_variables_name_are_shown(
    apptainer: StandIn, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "weights").mkdir()
    monkeypatch.setenv("VOXSHARD_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setenv("TMPDIR", "/nowhere/of-another-job")
    found = runtime.command(f"image:{image}", [])
    assert str(tmp_path / "weights") in shown(found.words)
    assert "APPTAINERENV_TMPDIR" not in found.environment


def test_singularity_is_taken_where_there_is_nothing_else(
    tmp_path: Path, apptainer: StandIn, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = StandIn(tmp_path / "ce", "singularity")
    monkeypatch.setenv("PATH", f"{other.path.parent}:{apptainer.path.parent}")
    assert words_of(image)[0] == "apptainer"
    monkeypatch.setenv("PATH", str(other.path.parent))
    found = runtime.command(f"image:{image}", [])
    assert found.words[0] == "singularity"
    assert found.environment["SINGULARITYENV_PYTHONNOUSERSITE"] == "1"
    other.path.unlink()
    other.path.symlink_to(apptainer.path)  # as Apptainer installs it
    assert "APPTAINERENV_PYTHONNOUSERSITE" in runtime.command(f"image:{image}", []).environment


def test_without_a_container_program(image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BackendUnavailableError) as caught:
        words_of(image, program="apptainer", module="apptainer/1.3")
    assert str(caught.value) == (
        f"images need apptainer, not on PATH on {os.uname().nodename}; `module load apptainer/1.3` "
        "(container.program of the site selects one)"
    )


def test_a_full_folder_for_temporary_files(
    apptainer: StandIn, image: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("APPTAINER_TMPDIR", str(tmp_path))
    monkeypatch.setattr(launcher, "MIN_FREE_BYTES", 1 << 62)
    with pytest.raises(StorageFullError, match=r"MB free on \S+, an image needs .* set TMPDIR to a folder with room"):
        words_of(image)


def test_what_is_no_image_is_refused(tmp_path: Path, apptainer: StandIn) -> None:
    remedy = "build it (`make image-pytorch`, `make image-tensorflow`), or copy it here (docs/images.md)"
    (tmp_path / "other.sif").write_bytes(b"\0" * 200)
    whole = write_image(tmp_path / "half.sif").read_bytes()
    (tmp_path / "half.sif").write_bytes(whole[:-1])
    (tmp_path / "folder").mkdir()
    for name, what in (
        ("none.sif", "no such file"),
        ("other.sif", "not a SIF file"),
        ("half.sif", f"{len(whole) - 1} of {len(whole)} bytes, an incomplete copy"),
        ("folder", "a folder, but no unpacked image"),
    ):
        with pytest.raises(BackendUnavailableError) as caught:
            words_of(tmp_path / name)
        assert str(caught.value) == f"image {tmp_path / name}: {what}; {remedy}"


@pytest.mark.parametrize("wrong", ["image", "image:", "here:x", "docker:x", ""])
def test_a_runtime_of_no_kind_is_refused(wrong: str) -> None:
    with pytest.raises(ConfigError, match=r"expected here, venv:PATH or image:PATH"):
        runtime.split(wrong)


def test_a_digest_is_computed_once_and_again_for_another_image(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = f"sha256:{hashlib.sha256(image.read_bytes()).hexdigest()}"
    assert images.digest(image) == wanted
    subprocess.run(["sha256sum", "--check", "--quiet", f"{image.name}.sha256"], cwd=image.parent, check=True)
    with monkeypatch.context() as patch:
        patch.setattr(image_command, "_sha256_of", None)
        assert images.digest(image) == wanted
    image.write_bytes(image.read_bytes() + b"more")
    other = bytearray(image.read_bytes())
    other[-1] ^= 1
    image.write_bytes(other)  # another build, as large
    os.utime(image, (0, 0))  # copied with its time, older than the note
    assert images.digest(image) == f"sha256:{hashlib.sha256(image.read_bytes()).hexdigest()}"


def test_a_digest_is_noted_elsewhere_where_the_images_folder_is_closed(
    image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish = image_command._publish

    def closed(path: Path, text: str) -> None:
        if path.parent == image.parent:
            raise PermissionError(13, "Permission denied", str(path))
        publish(path, text)

    monkeypatch.setattr(image_command, "_publish", closed)
    found = images.digest(image, tmp_path / "jobs")
    assert (tmp_path / "jobs" / "voxshard.sif.sha256").read_text().splitlines()[0] == f"{found[7:]}  voxshard.sif"
    monkeypatch.setattr(image_command, "_sha256_of", None)
    assert images.digest(image, tmp_path / "jobs") == found


def test_an_unpacked_image_is_known_by_its_labels(tmp_path: Path) -> None:
    labels = tmp_path / "image" / ".singularity.d" / "labels.json"
    labels.parent.mkdir(parents=True)
    labels.write_text('{"org.label-schema.build-date": "today"}')
    images.check(tmp_path / "image")
    assert images.digest(tmp_path / "image") == f"sha256:{hashlib.sha256(labels.read_bytes()).hexdigest()}"


def test_how_a_program_in_an_image_ended() -> None:
    job = Job("x", [], is_in_image=True)
    assert [job.exit_code(code) for code in (0, 3, 75, 255, 137, -9)] == [0, 3, 75, 4, -9, -9]
    assert Job("x", []).exit_code(255) == 255


def corpus_behind_links(tmp_path: Path, link: str) -> Path:
    """A corpus whose recordings are elsewhere, behind a link to a folder or links to files."""
    store, root = tmp_path / "store", tmp_path / "corpus"
    store.mkdir()
    root.mkdir()
    for name in ("a.wav", "b.wav"):
        soundfile.write(store / name, [0.0] * 160, 16000)
    if link == "folder":
        (root / "flac_T").symlink_to(store)
    else:
        (root / "flac_T").mkdir()
        for name in ("a.wav", "b.wav"):
            (root / "flac_T" / name).symlink_to(store / name)
    rows = [{"utterance_id": name, "path": f"flac_T/{name}"} for name in ("a.wav", "b.wav")]
    Manifest.from_rows(rows, root=root, corpus="folder").write(tmp_path / "manifest.parquet")
    return tmp_path / "manifest.parquet"


def test_linked_folders_of_a_corpus_are_shown(tmp_path: Path) -> None:
    manifest = corpus_behind_links(tmp_path, "folder")
    assert binds.folders(binds.audio(manifest, [])) == [tmp_path / "corpus", tmp_path / "store"]


def test_a_link_to_a_link_is_shown_at_every_step(tmp_path: Path) -> None:
    (tmp_path / "gpfs" / "flac_T").mkdir(parents=True)
    (tmp_path / "projects").symlink_to("gpfs")
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "flac_T").symlink_to(tmp_path / "projects" / "flac_T")
    real, between = tmp_path / "gpfs" / "flac_T", tmp_path / "projects" / "flac_T"
    found = binds.folders(binds.corpus(str(tmp_path / "corpus"), "prepare.root"))
    assert found == [tmp_path / "corpus", real, between]


def test_links_that_go_round_are_no_endless_loop(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    assert set(image_command.names_of(tmp_path / "a")) == {tmp_path / "a", tmp_path / "b"}


def test_linked_folders_are_shown_to_prepare_too(tmp_path: Path) -> None:
    corpus_behind_links(tmp_path, "folder")
    found = binds.folders(binds.corpus(str(tmp_path / "corpus"), "prepare.root"))
    assert found == [tmp_path / "corpus", tmp_path / "store"]
    assert binds.corpus("s3://bucket/corpus", "prepare.root") == []


def test_protocols_that_are_links_are_shown_to_prepare(tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "train.tsv").touch()
    for name in ("train.tsv", "gone.tsv"):
        (tmp_path / "corpus" / name).symlink_to(tmp_path / "store" / name)
    found = binds.folders(binds.corpus(str(tmp_path / "corpus"), "prepare.root"))
    assert found == [tmp_path / "corpus", tmp_path / "store" / "train.tsv"]
    for number in range(100):
        (tmp_path / "corpus" / f"{number}.wav").symlink_to(tmp_path / "store" / "train.tsv")
    assert binds.folders(binds.corpus(str(tmp_path / "corpus"), "prepare.root")) == [tmp_path / "corpus"]


def test_recordings_that_nothing_shows_are_named_before_anything_starts(tmp_path: Path) -> None:
    manifest = corpus_behind_links(tmp_path, "files")
    with pytest.raises(EnvironmentProblemError) as caught:
        binds.audio(manifest, [])
    assert str(caught.value) == (
        f"{tmp_path}/corpus/flac_T/a.wav is in {tmp_path}/store, which the image is not shown; "
        "--set site.container.binds=[FOLDER], or write it into the site's file"
    )
    shown = [RequiredPath(tmp_path / "store", "container.binds")]
    assert binds.folders(binds.audio(manifest, shown)) == [tmp_path / "corpus"]


def test_binds_of_the_site_show_recordings_too(apptainer: StandIn, image: Path, tmp_path: Path) -> None:
    (tmp_path / "exp").mkdir()
    corpus_behind_links(tmp_path, "files").rename(tmp_path / "exp" / "manifest.parquet")
    content = {
        "out": tmp_path / "exp", "runtime": f"image:{image}", "prepare": {"format": "folder", "root": "corpus"},
        "extract": {"one": {"encoder": "mfcc"}},
    }  # fmt: skip
    experiment = Experiment(ExperimentConfig.model_validate(content), Container(binds=(str(tmp_path / "store"),)))
    (job,) = experiment.extract_jobs("one")
    assert {str(tmp_path / "store"), str(tmp_path / "corpus")} <= {*shown(job.command)}


def test_weights_behind_links_are_shown(tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "3f").write_text("x")
    (tmp_path / "snapshot").mkdir()
    (tmp_path / "snapshot" / "model.safetensors").symlink_to(tmp_path / "blobs" / "3f")
    found = binds.folders(binds.weights(tmp_path / "snapshot", "weights of hf"))
    assert found == [tmp_path / "snapshot", tmp_path / "blobs" / "3f"]


CONFIG = """\
out: exp
runtime: image:voxshard.sif
prepare: {format: folder, root: corpus}
extract: {mfcc: {encoder: mfcc}}
"""


class Shell:
    """`voxshard` as a user at a terminal has it, with a stand-in for apptainer."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.apptainer = StandIn(folder / "programs")
        self.image = write_image(folder / "voxshard.sif")
        (folder / "corpus").mkdir()
        for number in range(8):
            soundfile.write(folder / "corpus" / f"{number}.wav", [0.1 * (number % 3)] * 8000, 16000)
        self.environment = {
            **os.environ,
            "PATH": f"{self.apptainer.path.parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(Path(__file__).parents[2] / "src"),
        }
        (folder / "config.yaml").write_text(CONFIG)

    def run(self, *words: str, check: int = 0) -> str:
        """`voxshard run`; what it states."""
        command = [sys.executable, "-m", "voxshard", "run", "config.yaml", *words]
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == check, done.stderr
        return done.stderr.strip()


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


def test_a_whole_experiment_runs_in_an_image_and_its_shards_say_so(shell: Shell) -> None:
    shell.run()
    check, *stages = [call["command"] for call in shell.apptainer.calls]
    assert check[:2] == ["python", "-c"]
    assert [words[3] for words in stages] == ["prepare", "extract", "merge", "report"]
    assert all(words[:3] == ["python", "-m", "voxshard"] for words in stages)
    summary = (shell.folder / "exp" / "features" / "mfcc" / "summary.json").read_text()
    assert images.digest(shell.image) in summary


def test_a_stage_with_a_runtime_of_its_own_keeps_it(apptainer: StandIn, image: Path, tmp_path: Path) -> None:
    content = {
        "out": tmp_path, "runtime": f"image:{image}", "prepare": {"format": "folder", "root": str(tmp_path)},
        "extract": {"one": {"encoder": "mfcc", "runtime": "here"}, "two": {"encoder": "mfcc"}},
    }  # fmt: skip
    experiment = Experiment(ExperimentConfig.model_validate(content))
    jobs = [experiment.prepare_job(), *experiment.extract_jobs("one"), *experiment.extract_jobs("two"),
            experiment.merge_job("one"), experiment.report_job()]  # fmt: skip
    assert [job.command[0] for job in jobs] == ["apptainer", sys.executable, *["apptainer"] * 3]
    assert [job.is_in_image for job in jobs] == [True, False, True, True, True]


def test_a_network_in_an_image_is_shown_its_recordings_in_training_and_in_evaluation(
    apptainer: StandIn, image: Path, tmp_path: Path
) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    networks = {"a": {"network": "vgg", "label": "digit"}}
    content = {"out": tmp_path / "exp", "prepare": {"format": "folder", "root": str(corpus)}, "networks": networks}
    (tmp_path / "exp").mkdir()
    experiment = Experiment(ExperimentConfig.model_validate({**content, "runtime": f"image:{image}"}))
    ((training, where),) = experiment.trainings()
    assert isinstance(training, NetworkConfig)
    for job in (experiment.network_job("a", training), experiment.evaluate_job(training, where)):
        assert str(corpus) in shown(job.command)
    assert str(corpus) not in shown(experiment.report_job().command)


@pytest.mark.parametrize(
    ("version", "words", "said"),
    [
        (
            "0.0.9",
            [],
            f"runtime image:voxshard.sif: holds voxshard 0.0.9, this is {__version__}; build the image again",
        ),
        ("99.0", [], f"runtime image:voxshard.sif: holds voxshard 99.0, this is {__version__}; build the image again"),
        ("", ["--set", "runtime=image:none.sif"], "none.sif: no such file; build it"),
        ("", ["--set", "site.container.program=none"], "images need none, not on PATH on"),
        ("", ["--set", "site.container.binds=[/nowhere]"], "/nowhere (container.binds): does not exist on"),
        ("", ["--set", "prepare.root=/nowhere"], "/nowhere (prepare.root): does not exist on"),
        (
            f"{__version__}\nunreadable CORPUS",
            [],
            "CORPUS (prepare.root); fix its permissions, or the site's container.options",
        ),
    ],
)
def test_a_mistake_is_one_line_before_anything_is_done(shell: Shell, version: str, words: list[str], said: str) -> None:
    corpus = str(shell.folder / "corpus")
    shell.environment["STAND_IN_VERSION"] = version.replace("CORPUS", corpus)
    told = shell.run(*words, check=4)
    assert len(told.splitlines()) == 1
    assert said.replace("CORPUS", corpus) in told
    assert not (shell.folder / "exp").exists()


def test_an_image_that_does_not_start_later_is_the_machines_fault(shell: Shell) -> None:
    shell.environment["STAND_IN_FAILS"] = "1"
    told = shell.run(check=4)
    assert told.splitlines() == [
        "FATAL:   container creation failed", "voxshard: prepare ended with exit code 4; see the lines above"
    ]  # fmt: skip
