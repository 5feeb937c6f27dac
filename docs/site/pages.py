"""Pages of the site that are made from the code, or are elsewhere in the repository (a hook of MkDocs)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

from voxshard.cli.setting_list import Setting, settings_of
from voxshard.encoders import registry
from voxshard.encoders.base import EncoderSettings
from voxshard.learning import train_config
from voxshard.learning.network_config import SET_KEYS, NetworkOptions
from voxshard.networks.settings import FAMILIES, SUMMARIES, NetworkSettings

ROOT = Path(__file__).parents[2]
OUTSIDE = {"changelog.md": "CHANGELOG.md", "security.md": "SECURITY.md"}
"""Pages at the top of the repository, where GitHub looks for them."""


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are no files in `docs`."""
    made = {
        "reference/encoders.md": encoders(),
        "reference/classifiers.md": classifiers(),
        "reference/networks.md": networks(),
    }
    for place, source in OUTSIDE.items():
        made[place] = (ROOT / source).read_text().replace("](docs/", "](")
    for place, content in made.items():
        files.append(File.generated(config, place, content=content))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Let links to the pages at the top of the repository lead to their copies."""
    for place, source in OUTSIDE.items():
        markdown = markdown.replace(f"](../{source}", f"]({place}")
    return markdown


def on_page_content(html: str, **_: Any) -> str:
    """Keep options in one piece (browsers break after the hyphens of `--set`), and wrap long lines without columns."""

    def marked(code: re.Match[str]) -> str:
        return re.sub(r"(?<![\w-])--?[a-z][\w-]*", r'<span class="option">\g<0></span>', code[0])

    def wrapped(block: re.Match[str]) -> str:
        has_columns = re.search(r"\S {3,}\S", re.sub(r"<[^>]*>", "", block[0]))
        return block[0] if has_columns else block[0].replace("<pre>", '<pre class="wrap">', 1)

    html = re.sub(r"<pre>.*?</pre>", wrapped, html, flags=re.S)
    return re.sub(r"<code>[^<]*</code>", marked, html)


def encoders() -> str:
    """Return the page on the settings of all encoders."""
    common = list(settings_of(EncoderSettings, common=EncoderSettings))
    parts = ["# Encoder settings\n\nSettings go to `voxshard extract --encoder NAME --set KEY=VALUE`.\n"]
    parts += ["## All encoders\n", *_table(common)]
    for name, spec in registry.available().items():
        if spec.is_supported:
            own = settings_of(registry.settings_model(name), common=EncoderSettings)
            parts += [f"## {name}\n\n{spec.summary}\n", *_table(item for item in own if item not in common)]
    return "\n".join(parts)


def classifiers() -> str:
    """Return the page on the settings of all classifiers."""
    common = list(settings_of(train_config.TrainingSettings, common=train_config.TrainingSettings))
    parts = ["# Classifier settings\n\nSettings go to `voxshard train --classifier NAME --set KEY=VALUE`.\n"]
    parts += ["## All classifiers\n", *_table(common)]
    for name, about in train_config.available().items():
        own = settings_of(train_config.settings_model(name), common=train_config.TrainingSettings)
        parts += [f"## {name}\n\n{about}\n", *_table(item for item in own if item not in common)]
    return "\n".join(parts)


def networks() -> str:
    """Return the page on the settings of all networks and of their training."""
    common = list(settings_of(NetworkSettings, common=NetworkSettings))
    parts = ["# Network settings\n\nSettings go to `voxshard train --network NAME --set KEY=VALUE`.\n"]
    parts += ["## All networks\n", *_table(common)]
    parts += ["## Training\n", *_table(settings_of(NetworkOptions, common=NetworkOptions, only=SET_KEYS))]
    for name, about in SUMMARIES.items():
        own = settings_of(FAMILIES[name], common=NetworkSettings)
        parts += [f"## {name}\n\n{about}\n", *_table(item for item in own if item not in common)]
    return "\n".join(parts)


def _table(settings: Iterable[Setting]) -> Iterator[str]:
    rows = [tuple(cell.replace("|", "\\|") for cell in setting) for setting in settings]
    if not rows:
        yield "It has no settings.\n"
        return
    yield "| key | values | default | |\n| --- | --- | --- | --- |"
    yield from (f"| `{key}` | {kind} | {default} | {about} |" for key, kind, default, about in rows)
    yield ""
