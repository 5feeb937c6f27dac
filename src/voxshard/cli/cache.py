"""`voxshard cache`: manage the copies of data from buckets."""

from __future__ import annotations

import click

from voxshard.cli.options import echo, echo_info
from voxshard.locations import cache_entries, cache_root, clear_cache
from voxshard.progress import counted


@click.group()
def command() -> None:
    """List or remove copies of data from buckets in $VOXSHARD_CACHE (default ~/.cache/voxshard).

    Recordings are read in place and are never in the cache.
    """


@command.command("list")
def list_command() -> None:
    """Print size, number of files and URL of every copy."""
    entries = cache_entries()
    for entry in entries:
        echo(f"{entry.num_bytes / 1e6:>12,.1f} MB {entry.num_files:>7,}  {entry.url}")
    total = sum(entry.num_bytes for entry in entries)
    echo_info(f"{cache_root()}: {counted(len(entries), 'copy', 'copies')}, {total / 1e6:,.1f} MB")


@command.command("clear")
@click.argument("urls", nargs=-1, metavar="[URL]...")
def clear_command(urls: tuple[str, ...]) -> None:
    """Remove the copies of these URLs; without a URL, the complete cache, with the remains of interrupted uploads.

    Nothing may be using the cache at that time.
    """
    removed = clear_cache(urls)
    echo_info(
        f"{cache_root()}: {counted(len(removed), 'copy', 'copies')} removed, "
        f"{sum(item.num_bytes for item in removed) / 1e6:,.1f} MB"
    )
