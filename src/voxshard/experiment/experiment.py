"""An experiment: one config file, from corpus to report, as the command lines of its stages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow.parquet as pq

from voxshard import files
from voxshard.config import Settings, dump_config, load_yaml, validated
from voxshard.encoders import registry
from voxshard.encoders.weight_files import find
from voxshard.errors import ConfigError, IdentityError, MissingWeightsError
from voxshard.experiment.local import Job
from voxshard.experiment.schema import PRETRAINED, ExperimentConfig, Training
from voxshard.learning.network_config import NetworkConfig
from voxshard.learning.train_config import EvaluateConfig, GridConfig, TrainConfig
from voxshard.learning.training_inputs import is_trained_from
from voxshard.locations import as_path, parse
from voxshard.progress import STEP_VARIABLE
from voxshard.runtime import apptainer, binds, runtime
from voxshard.runtime.apptainer import Container
from voxshard.runtime.binds import RequiredPath
from voxshard.stages.extract import ExtractConfig
from voxshard.stages.merge import MergeConfig
from voxshard.stages.prepare import PrepareConfig
from voxshard.stages.publish import PublishConfig, published_record
from voxshard.stages.report import ReportConfig
from voxshard.store.runs import Run, file_name


class Experiment:
    """The paths and command lines that follow from a config."""

    def __init__(self, config: ExperimentConfig, images: Container | None = None) -> None:
        """
        Parameters
        ----------
        images : how they are run on the site.
        """
        self.config, self.images = config, images or Container()
        self.path = config.out
        self.manifest = self.path / "manifest.parquet"
        self.report = self.path / "report.html"
        self.jobs = self.path / "jobs"
        self.runs = self.path / "runs"
        self.resolved = self.path / "config.yaml"

    def features(self, name: str) -> Path:
        """Return the folder of one feature set."""
        return self.path / "features" / name

    def classifiers(self) -> list[TrainConfig]:
        """Return the trainings of classifiers, with features as folders.

        Raises
        ------
        ConfigError : what is wrong with one of them.
        """
        found: list[TrainConfig] = []
        for name, section in (self.config.train.grids() if self.config.train else {}).items():
            sets = section.features or [(feature,) for feature in self.config.extract]
            content = {
                **section.model_dump(),
                "features": [tuple(map(self.features, names)) for names in sets],
                "out": self.runs,
                "name": name,
            }
            where = f"train.also.{name}" if name else "train"
            found += validated(GridConfig, content, where=where).expand()
        return found

    def networks(self, name: str) -> list[NetworkConfig]:
        """Return the trainings of one entry of `networks`."""
        section = self.config.networks[name]
        features = None if section.features is None else self.features(section.features)
        manifest = self.manifest if features is None else None
        return section.expand(name, self.runs, manifest=manifest, features=features)

    def trainings(self) -> list[tuple[Training, str]]:
        """Return every training with its runtime: classifiers first, then networks.

        Raises
        ------
        ConfigError : what is wrong with one of them.
        """
        found: list[tuple[Training, str]] = [(training, self.config.runtime) for training in self.classifiers()]
        for name, section in self.config.networks.items():
            found += [(training, section.runtime or self.config.runtime) for training in self.networks(name)]
        return found

    def check_columns(self) -> None:
        """Check that the columns to learn are in the manifest, before hours of extraction.

        Raises
        ------
        ConfigError : a label or a column of folds that does not exist.
        """
        wanted: dict[str, str] = {}
        for also, train in (self.config.train.grids() if self.config.train else {}).items():
            where = f"train.also.{also}" if also else "train"
            wanted |= {f"{where}.label: {name}": name for name in train.label}
            if train.folds:
                wanted[f"{where}.folds: {train.folds}"] = train.folds
        for section, network in self.config.networks.items():
            wanted |= {f"networks.{section}.label: {name}": name for name in network.label}
        there = files.with_retries(self.manifest, lambda: pq.read_schema(self.manifest)).names if wanted else []
        missing = [where for where, name in wanted.items() if name not in there]
        if missing:
            raise ConfigError(f"{', '.join(missing)}: not in {self.manifest}; its columns: {', '.join(there)}")

    def resolved_text(self) -> str:
        """Return the config as EXP/config.yaml contains it."""
        return dump_config(self.config)

    def runtime(self, name: str) -> str:
        """Return the runtime that has the framework of one feature set."""
        return self.config.extract[name].runtime or self.config.runtime

    def runtimes(self) -> list[str]:
        """Return every runtime in which a stage runs, once."""
        networks = [section.runtime or self.config.runtime for section in self.config.networks.values()]
        return list(dict.fromkeys([*map(self.runtime, self.config.extract), *networks, self.config.runtime]))

    def audio(self) -> list[RequiredPath]:
        """Return the corpus: the input of prepare, or the root that the manifest states."""
        if self.manifest.exists():
            of_site = apptainer.of_site(self.images)
            return binds.audio(self.manifest, [*of_site, *binds.needed(self.path, "out")])
        prepare = self.config.prepare
        root = prepare.root
        place = parse(root)
        if isinstance(place, Path) and place.is_file():  # a table: its audio is next to it
            root = str(place.absolute().parent)
        lists = [value.partition("=")[2] for value in prepare.split] + [prepare.labels or ""]
        lists = [path for path in lists if path and isinstance(parse(path), Path)]
        return [
            *binds.corpus(root, "prepare.root"),
            *(need for path in lists if Path(path).is_file() for need in binds.needed(path, "prepare")),
        ]

    def weights(self, name: str) -> list[RequiredPath]:
        """Return the weights folder of one encoder; None if it has no weights, or if an image contains them."""
        encoder = self.config.extract[name].encoder
        given = encoder.get("weights")
        if not registry.has_weights(encoder["name"]) and given is None:
            return []
        return self._located(encoder["name"], given, f"weights of {name}")

    @staticmethod
    def _located(encoder: str, given: str | None, what: str) -> list[RequiredPath]:
        try:
            place = find(encoder, given).absolute()
        except MissingWeightsError:
            return []
        return list(binds.weights(place, what))

    def named_paths(self, training: Training) -> list[RequiredPath]:
        """Return the weights to start from and the files that the config of a network names."""
        if isinstance(training, TrainConfig):
            return []
        found = binds.needed(training.labels_file, "labels_file") if training.labels_file else []
        if training.augment.background.folder:
            found += binds.needed(training.augment.background.folder, "augment.background.folder")
        if encoder := PRETRAINED.get(training.network):
            found += self._located(encoder, training.settings.get("weights"), f"weights of {training.out.name}")
        return found

    def _job(
        self,
        stage: str,
        name: str,
        file: Path,
        *options: str,
        where: str | None = None,
        needs: Callable[[], list[RequiredPath]] = list,
        environment: dict[str, str] | None = None,
    ) -> Job:
        """Return a stage with its config in a file, in its runtime; an image sees EXP and `needs`.

        Parameters
        ----------
        options : what only this process does, such as one task of several.
        """
        return self._command(name, [stage, "--config", str(file), *options], where, needs, environment)

    def _command(
        self,
        name: str,
        arguments: Sequence[str],
        where: str | None,
        needs: Callable[[], list[RequiredPath]],
        environment: dict[str, str] | None = None,
    ) -> Job:
        where = where or self.config.runtime
        is_in_image = runtime.image_of(where) is not None
        shown = [*binds.needed(self.path, "out"), *needs()] if is_in_image else []
        found = runtime.command(
            where,
            arguments,
            environment={STEP_VARIABLE: "1", **(environment or {})},
            needs=shown,
            site=self.images,
            kept=self.jobs,
        )
        return Job(name, found.words, found.environment, is_in_image)

    def _frozen(self, name: str, config: Settings) -> Path:
        """Write the config of a stage into EXP/jobs, unless its file already has that content."""
        path, text = self.jobs / f"{name}.yaml", dump_config(config)
        self.jobs.mkdir(parents=True, exist_ok=True)
        if not path.exists() or files.read_text(path) != text:
            files.publish_bytes(path, text.encode())
        return path

    def prepare_job(self) -> Job:
        values = {**self.config.prepare.model_dump(), "out": self.manifest}
        config = validated(PrepareConfig, values, where="prepare")
        return self._job("prepare", "prepare", self._frozen("prepare", config), needs=self.audio)

    def freeze(self) -> None:
        """Write the resolved config into the experiment's folder.

        Raises
        ------
        IdentityError : the folder was prepared from another corpus, or otherwise.
        """
        wanted = self.config.prepare.model_dump(mode="json")
        if self.manifest.exists() and self.resolved.exists():
            before = load_yaml(self.resolved)["prepare"]
            different = sorted(key for key in wanted | before if wanted.get(key) != before.get(key))
            if different:
                raise IdentityError(
                    f"{self.path} was prepared with other options ({', '.join(different)}); "
                    "give another `out`, or remove that folder"
                )
        self.path.mkdir(parents=True, exist_ok=True)
        files.publish_bytes(self.resolved, self.resolved_text().encode())

    def extractions(self, name: str) -> list[ExtractConfig]:
        """Return the extractions of one feature set, one per split, which run one after the other."""
        section = self.config.extract[name]
        values = {**section.options(), "manifest": self.manifest, "out": self.features(name)}
        splits = section.splits or (None,)
        return [validated(ExtractConfig, {**values, "split": split}, where=f"extract.{name}") for split in splits]

    def extract_jobs(self, name: str, *options: str) -> list[Job]:
        """Return the jobs of `extractions`, each with these options."""
        return [self.extract_job(name, config, *options) for config in self.extractions(name)]

    def extract_job(self, name: str, config: ExtractConfig, *options: str, part: str = "") -> Job:
        """Return one extraction of a feature set.

        Parameters
        ----------
        part : added to the name of the job, where several processes do it.
        """
        split = config.split
        if split is not None and (safe := file_name(split)) != split:  # splits may be called anything
            split = f"{safe}-{files.digest_of(split)[:8]}"
        title = "-".join(filter(None, ["extract", name, split]))
        return self._extract_job(name, title + part, self._frozen(title, config), *options)

    def probe_job(self, name: str, config_file: Path) -> Job:
        """Return an extraction of a few recordings of a feature set, with a config for itself."""
        return self._extract_job(name, "probe", config_file)

    def _extract_job(self, name: str, title: str, file: Path, *options: str) -> Job:
        return self._job("extract", title, file, *options, where=self.runtime(name), needs=lambda: self._inputs(name))

    def _inputs(self, name: str) -> list[RequiredPath]:
        """Return the inputs of an extraction."""
        return [*self.audio(), *self.weights(name)]

    def merge_job(self, name: str) -> Job:
        title = f"merge-{name}"
        config = validated(MergeConfig, {"features": self.features(name)}, where="merge")
        return self._job("merge", title, self._frozen(title, config))

    def repair_job(self, name: str, *options: str) -> Job:
        """Return a job that retries the failed recordings of a feature set with the options of its last extraction."""
        return self._command(f"repair-{name}", ["retry", str(self.features(name)), "--failed", *options],
                             self.runtime(name), lambda: self._inputs(name))  # fmt: skip

    def training_file(self, training: Training) -> Path:
        """Return the file with the config of one training."""
        return self.jobs / f"train-{training.out.name}.yaml"

    def freeze_training(self, training: Training) -> Path:
        """Write the config of one training, unless its file already has that content."""
        return self._frozen(self.training_file(training).stem, training)

    def is_trained(self, training: Training) -> bool:
        """Whether a run was trained with this config from the current content of its inputs."""
        path = self.training_file(training)
        frozen = None
        if path.exists() and not Run(as_path(training.out)).inputs_file.exists():
            frozen = load_yaml(path)
        return is_trained_from(Run(as_path(training.out)), training, frozen)

    def is_evaluated(self, training: Training) -> bool:
        """Whether a run has a table for each column; training it again removes them."""
        columns = self.config.evaluate.group_by
        return all(any((as_path(training.out) / "tables").glob(f"by-{file_name(column)}-*.csv")) for column in columns)

    def train_job(self, training: TrainConfig) -> Job:
        file = self.freeze_training(training)
        return self._job("train", f"train-{training.out.name}", file, environment={"OMP_NUM_THREADS": "1"})

    def network_job(self, name: str, training: NetworkConfig) -> Job:
        """Return one training of an entry of `networks`."""
        file = self.freeze_training(training)
        return self._job("train", f"network-{training.out.name}", file, where=self.config.networks[name].runtime,
                         needs=lambda: [*self.audio(), *self.named_paths(training)])  # fmt: skip

    def evaluate_job(self, training: Training, where: str) -> Job:
        """Tables by group for one run, in its runtime. A network reads its recordings again only where
        its stored trials lack a column, as those of earlier versions may."""
        title = f"evaluate-{training.out.name}"
        columns = self.config.evaluate.group_by
        config = validated(EvaluateConfig, {"run": training.out, "group_by": columns}, where="evaluate")
        reads_audio = isinstance(training, NetworkConfig) and training.manifest is not None
        needs = self.audio if reads_audio else list[RequiredPath]
        return self._job("evaluate", title, self._frozen(title, config), where=where, needs=needs)

    def report_job(self) -> Job:
        config = ReportConfig(paths=(self.path,), out=self.report, title=self.config.report.title)
        return self._job("report", "report", self._frozen("report", config))

    def publish_job(self) -> Job:
        """Return a job that uploads what is missing; it may replace what this experiment published before."""
        url = self.config.publish
        assert url is not None
        replaces = (published_record(self.path) or {}).get("url") == str(url)
        config = PublishConfig(path=self.path, url=url, replace=replaces)
        return self._job("publish", "publish", self._frozen("publish", config))

    def is_published(self) -> bool:
        """Whether the report at the URL, which names everything else, equals the local one."""
        record = published_record(self.path)
        if record is None or not self.report.exists():
            return False
        return record == {"url": str(self.config.publish), "report": files.sha256_of(self.report)}
