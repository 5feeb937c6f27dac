"""Settings from YAML that is odd, hostile or huge."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from voxshard.config import load_yaml, parse_yaml
from voxshard.errors import ConfigError

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]\n" for level in range(1, 10)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOMB, "more than 100,000 values (aliases count as often as they are used)"),
        ("[" * 5000, "nested more than 40 levels deep, or in itself"),
        ("[" * 100 + "]" * 100, "nested more than 40 levels deep, or in itself"),
        ("a: &a [*a]", "nested more than 40 levels deep, or in itself"),
        ('out: "x\\0y"', "'x\\x00y': a setting cannot contain a NUL character"),
        ('out: "\\ud800"', "half of a surrogate pair"),
        ("a: !!binary aGVsbG8=", "b'hello' is a bytes; settings are texts, numbers, true or false, null, lists"),
        ("a: !!set {x}", "{'x'} is a set; settings are"),
        ("a: !!python/object:os.system x", "not valid YAML: could not determine a constructor"),
        ("a: !!bool maybe", "not valid YAML: KeyError: 'maybe'"),
        ("a: " + "9" * 5000, "not valid YAML: ValueError: Exceeds the limit"),
        ("a: .nan", "nan: numbers are finite and below 1e18"),
        ("a: -.inf", "-inf: numbers are finite and below 1e18"),
        ("a: " + "9" * 30, "numbers are finite and below 1e18"),
        ("x" * (5 << 20), "5,242,880 characters; settings have at most 4,194,304"),
    ],
)
def test_what_is_no_plain_setting_is_refused_by_name(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=rf"^here: .*{re.escape(message)}"):
        parse_yaml(text, where="here")


@pytest.mark.parametrize("text", ["2024-01-31", "!!timestamp 2024-01-31", "12:00:00", "no", "2001-12-14t21:59:43.1Z"])
def test_dates_times_and_no_stay_text(text: str) -> None:
    assert parse_yaml(f"a: {text}", where="here") == {"a": text.removeprefix("!!timestamp ")}


def test_a_config_file_without_end_is_not_read_to_its_end() -> None:
    with pytest.raises(ConfigError, match=r"^/dev/zero: 4,194,305 characters; settings have at most"):
        load_yaml(Path("/dev/zero"))
