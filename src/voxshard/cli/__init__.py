"""The `voxshard` command. Each subcommand is a module, imported only when it is called."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any, NoReturn

import click

from voxshard import __version__
from voxshard.cli import bug_report
from voxshard.cli.options import echo_info
from voxshard.config import did_you_mean
from voxshard.cpus import check_address_space
from voxshard.errors import ConfigError, EnvironmentProblemError, VoxshardError
from voxshard.locations import with_urls

# Command -> (module in this package that defines `command`, one line for the overview), in the order of the workflow.
COMMANDS = {
    "demo": ("demo", "Make a small corpus, and run a complete experiment on it."),
    "init": ("init", "Write a commented config for a corpus."),
    "prepare": ("prepare", "Describe a corpus: one row per utterance, with labels and splits."),
    "extract": ("extract", "Embed every utterance of a manifest; resumes where it stopped."),
    "merge": ("merge", "Join the shards into one feature set, every row accounted for."),
    "verify": ("verify", "Check every shard and merged file against its checksum and plan."),
    "export": ("export", "Write a feature set as npy, json, npz, parquet or tsv."),
    "ingest": ("ingest", "Make a feature set from features computed elsewhere."),
    "train": ("train", "Fit a classifier on features."),
    "evaluate": ("evaluate", "Score a trained run on a split or another feature set."),
    "score": ("score", "Score any score file with the official ASVspoof 5 Track 1 metrics."),
    "report": ("report", "Write one HTML file with the results of runs or experiments."),
    "publish": ("publish", "Upload a file, feature set, run or experiment to a bucket."),
    "cache": ("cache", "List or remove what was downloaded from buckets."),
    "run": ("run", "Run every stage of a config on this machine."),
    "submit": ("submit", "Submit every stage of a config as SLURM jobs."),
    "status": ("status", "Show how far a run is, what is slow, what failed, and what to type next."),
    "retry": ("retry", "Compute or resubmit what is missing; with --failed also what failed."),
    "cancel": ("cancel", "End the jobs of a submitted experiment, and no others."),
    "logs": ("logs", "Print the logs of a submitted experiment's jobs."),
    "doctor": ("doctor", "Check this machine or cluster, and print a remedy for each problem."),
    "encoders": ("encoders", "List encoders and their settings."),
    "classifiers": ("classifiers", "List classifiers and their settings."),
    "networks": ("networks", "List networks and their settings."),
    "weights": ("weights", "List, fetch, verify and convert pretrained weights."),
    "completion": ("completion", "Print the script that completes commands in bash, zsh or fish."),
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"voxshard.cli.{COMMANDS[name][0]}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as exc:
            raise click.UsageError(
                exc.message.rstrip(".") + did_you_mean(args[0], [*COMMANDS, "--help", "--version"]), ctx
            ) from exc

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="voxshard")
def cli() -> None:
    """Embeddings of large audio corpora, and classifiers trained on them.

    A corpus goes through prepare, extract, merge, train, evaluate and report; `voxshard run CONFIG` does them all.
    """


def main(arguments: list[str] | None = None) -> Any:
    """Run a command line; errors become one message on stderr and the exit code of their kind (see errors.py).

    An exception that is none of ours and no fault of the machine is a bug in voxshard: one line, exit code 1, and a
    file with the traceback (see `voxshard.cli.bug_report`).
    """
    try:
        given = sys.argv[1:] if arguments is None else arguments
        for argument in given:
            _check_argument(argument)
        check_address_space()  # before a command is imported, and with it NumPy
        cli.main(given, prog_name="voxshard", standalone_mode=False)
    except VoxshardError as exc:
        _end(str(exc), exc.exit_code)
    except click.ClickException as exc:
        exc.show()
        sys.exit(ConfigError.exit_code)
    except (click.Abort, KeyboardInterrupt):
        _end("interrupted; what is finished is kept", 130)
    except BrokenPipeError:
        sys.exit(141)
    except Exception as exc:  # noqa: BLE001  the last resort: nothing that a user does may end in a traceback
        message = bug_report.of_the_machine(exc)
        if message is not None:
            _end(message, EnvironmentProblemError.exit_code)
        _end(bug_report.write(exc, given), VoxshardError.exit_code)


def _check_argument(argument: str) -> None:
    """Refuse what no operating system hands over, and no path can be: NUL, and halves of surrogate pairs."""
    try:
        is_text = b"\0" not in os.fsencode(argument)
    except UnicodeEncodeError:
        is_text = False
    if not is_text:
        raise ConfigError(f"{argument!r}: an argument cannot contain a NUL character or half of a surrogate pair")


def _end(message: str, code: int) -> NoReturn:
    echo_info(f"voxshard: {with_urls(message)}")
    sys.exit(code)
