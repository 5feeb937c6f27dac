"""`voxshard completion`: the shell script that completes commands, options, names and paths."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from voxshard.cli.options import echo


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print the script that completes `voxshard` in SHELL.

    \b
      bash  voxshard completion bash >> ~/.bashrc
      zsh   voxshard completion zsh >> ~/.zshrc
      fish  voxshard completion fish > ~/.config/fish/completions/voxshard.fish
    """
    from voxshard.cli import cli

    found = get_completion_class(shell)
    assert found is not None
    echo(found(cli, {}, "voxshard", "_VOXSHARD_COMPLETE").source())
