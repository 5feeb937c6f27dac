"""Settings: YAML 1.2 in, frozen models out, every problem of a file in one error."""

from __future__ import annotations

import difflib
import io
import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pydantic
from pydantic import BaseModel, ConfigDict
from ruamel.yaml import YAML
from ruamel.yaml.constructor import SafeConstructor
from ruamel.yaml.error import YAMLError

from voxshard import files
from voxshard.errors import ConfigError
from voxshard.progress import counted


class Settings(BaseModel):
    """Base class of all settings: frozen, keyword-only, no unknown keys, field docstrings as descriptions."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True)


SettingsT = TypeVar("SettingsT", bound=BaseModel)


MAX_YAML_BYTES = 4 << 20
MAX_YAML_DEPTH = 40
MAX_YAML_VALUES = 100_000
MAX_YAML_NUMBER = 1e18
"""Bounds of what is read as settings, far above any config: a file of a few bytes can describe gigabytes by aliases."""


class _Constructor(SafeConstructor):
    """YAML 1.2 core schema: texts, numbers, booleans, null, sequences and mappings; a date remains text."""


_Constructor.add_constructor("tag:yaml.org,2002:timestamp", SafeConstructor.construct_yaml_str)


def parse_yaml(text: str, *, where: str) -> Any:
    """Read one YAML 1.2 document: `no`, `12:00:00` and `2024-01-31` are text, `1e-3` is a number.

    Parameters
    ----------
    where : names the source in errors.

    Raises
    ------
    ConfigError : not YAML, larger or deeper than the bounds, or a value that no setting takes.
    """
    if len(text) > MAX_YAML_BYTES:
        raise ConfigError(f"{where}: {len(text):,} characters; settings have at most {MAX_YAML_BYTES:,}")
    reader = YAML(typ="safe", pure=True)
    reader.Constructor = _Constructor
    try:
        content = reader.load(text)
    except YAMLError as exc:
        raise ConfigError(f"{where}: not valid YAML: {exc}") from exc
    except RecursionError as exc:
        raise _too_deep(where) from exc
    except MemoryError:
        raise
    except Exception as exc:
        raise ConfigError(f"{where}: not valid YAML: {type(exc).__name__}: {exc}") from exc
    _check_plain(content, where)
    return content


def _too_deep(where: str) -> ConfigError:
    return ConfigError(f"{where}: nested more than {MAX_YAML_DEPTH} levels deep, or in itself")


def _check_plain(content: Any, where: str) -> None:
    """Check that a value is plain YAML; a value that aliases repeat counts each time, as a copy of it would."""
    waiting = [(content, 0)]
    num_values = 0
    while waiting:
        value, depth = waiting.pop()
        num_values += 1
        if num_values > MAX_YAML_VALUES:
            raise ConfigError(
                f"{where}: more than {MAX_YAML_VALUES:,} values (aliases count as often as they are used)"
            )
        if depth > MAX_YAML_DEPTH:
            raise _too_deep(where)
        if type(value) is dict:
            waiting += [(item, depth + 1) for pair in value.items() for item in pair]
        elif isinstance(value, list):
            waiting += [(item, depth + 1) for item in value]
        elif isinstance(value, str):
            _check_text(value, where)
        elif isinstance(value, int | float):
            if not abs(value) < MAX_YAML_NUMBER:
                raise ConfigError(f"{where}: {value!r:.80}: numbers are finite and below 1e18")
        elif value is not None:
            raise ConfigError(
                f"{where}: {value!r:.80} is a {type(value).__name__}; settings are texts, numbers, true or false, null,"
                " lists and mappings"
            )


def _check_text(text: str, where: str) -> None:
    if "\0" in text:
        raise ConfigError(f"{where}: {text!r:.80}: a setting cannot contain a NUL character")
    try:
        text.encode()
    except UnicodeEncodeError as exc:
        raise ConfigError(f"{where}: {text!r:.80}: not text: half of a surrogate pair") from exc


def dump_yaml(content: Any) -> str:
    """Return a mapping as YAML 1.2 text, with its keys in order."""
    writer = YAML(typ="safe", pure=True)
    writer.default_flow_style = False
    writer.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    writer.width = 120
    stream = io.StringIO()
    writer.dump(content, stream)
    return stream.getvalue()


def dump_config(config: BaseModel) -> str:
    """Return settings as the text of a config file; `load_yaml` returns the same values in any environment."""
    return dump_yaml(_replaced(config.model_dump(mode="json"), lambda text: text.replace("$", "$$")))


def load_yaml(path: Path, *, where: str | None = None) -> dict[str, Any]:
    """Read a config file: a mapping, with `$NAME` and `${NAME}` in its texts taken from the environment, and `$$` as a
    plain `$`.

    Parameters
    ----------
    where : its name in errors; None: the path.
    """
    where = where or str(path)

    def read() -> str:
        with open(path, encoding="utf-8") as stream:
            return stream.read(MAX_YAML_BYTES + 1)

    try:
        text = files.with_retries(path, read)
    except FileNotFoundError as exc:
        raise ConfigError(f"{where}: no such config file") from exc
    except IsADirectoryError as exc:
        raise ConfigError(f"{where}: a folder; expected a config, a YAML file") from exc
    except UnicodeDecodeError as exc:
        raise ConfigError(f"{where}: not a text file; expected a config, a YAML file") from exc
    except (OSError, ValueError) as exc:
        raise ConfigError(f"{where}: cannot be read: {exc}") from exc
    content = parse_yaml(text, where=where)
    if not isinstance(content, dict):
        raise ConfigError(f"{where}: a config file is a mapping of keys to values, this is {type(content).__name__}")
    return expanded(content, where=where)


def expanded(content: Mapping[str, Any], *, where: str) -> dict[str, Any]:
    """Return settings with `$NAME` and `${NAME}` in their texts replaced by values of the environment, `$$` by `$`.

    Raises
    ------
    ConfigError : variables that are not set.
    """
    missing: set[str] = set()

    def value_of(match: re.Match[str]) -> str:
        if match[0] == "$$":
            return "$"
        name = match[1] or match[3]
        found = os.environ.get(name, match[2])
        if found is None:
            missing.add(name)
            return match[0]
        return found

    found = _replaced(dict(content), lambda text: _VARIABLE.sub(value_of, text))
    if missing:
        names = ", ".join(f"${name}" for name in sorted(missing))
        raise ConfigError(f"{where}: {names} not set in the environment; export it, or write the value itself")
    return found  # type: ignore[no-any-return]


_VARIABLE = re.compile(r"\$(?:\$|\{(\w+)(?::-([^}]*))?\}|(\w+))")


def _replaced(value: Any, replace: Callable[[str], str]) -> Any:
    """Return a value with every text in it replaced; keys of mappings stay."""
    if isinstance(value, str):
        return replace(value)
    if isinstance(value, dict):
        return {key: _replaced(item, replace) for key, item in value.items()}
    if isinstance(value, list):
        return [_replaced(item, replace) for item in value]
    return value


def parse_assignments(assignments: Iterable[str]) -> dict[str, Any]:
    """Parse `--set key=value` options: dotted keys, YAML values.

    Returns
    -------
    nested dict: ``["layer=[0,3]", "a.b=1"]`` gives ``{"layer": [0, 3], "a": {"b": 1}}``.

    Raises
    ------
    ConfigError : an option without `=`, or one key given twice.
    """
    result: dict[str, Any] = {}
    seen: set[str] = set()
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not key:
            raise ConfigError(f"--set {assignment}: expected key=value")
        if key in seen:
            raise ConfigError(f"--set {key}: given twice; give each key once")
        seen.add(key)
        node = result
        *parents, leaf = key.split(".")
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise ConfigError(f"--set {key}: {parent} is a value, not a section")
        node[leaf] = parse_yaml(text, where=f"--set {key}") if text else None
    return result


def merged(base: Mapping[str, Any], override: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with its keys replaced by those of `override`, section by section."""
    result = dict(base)
    for key, value in override.items():
        below = result.get(key)
        result[key] = merged(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return result


def validated(
    model: type[SettingsT], content: Mapping[str, Any], *, where: str, names: Mapping[str, str] | None = None
) -> SettingsT:
    """Build a settings model, or raise one error with all problems of its content.

    Parameters
    ----------
    names : key -> what the user gives it as, such as `--out`; a key that is not in it is named as it is.

    Raises
    ------
    ConfigError : one line per problem: the key's path, what is wrong, and the valid keys or choices.
    """
    try:
        return model.model_validate(dict(content))
    except pydantic.ValidationError as exc:
        raise problems_error(where, [_explain(model, problem, names or {}) for problem in exc.errors()]) from exc


def problems_error(where: str, lines: Sequence[str]) -> ConfigError:
    """Return one error for all problems of a config, a command line or a call, with one line per problem."""
    return ConfigError(f"{where}: {counted(len(lines), 'problem')}\n" + "\n".join(f"  {line}" for line in lines))


def as_list(value: Any) -> Any:
    """Return a single text, number or path as a list of one, and any other value unchanged."""
    return [value] if isinstance(value, str | int | os.PathLike) else value


def check_one_line(value: Any, where: str = "") -> None:
    """Check that no text in a value, or key of a mapping, has a line break or another control character.

    A job script states one option per line: what contains a line break would become another line of it.

    Raises
    ------
    ValueError : names the key.
    """
    if isinstance(value, str):
        found = next((char for char in value if unicodedata.category(char) in ("Cc", "Zl", "Zp")), None)
        if found is not None:
            raise ValueError(
                f"{where or 'value'}: contains {found!r}, and it becomes part of job scripts; write it on one line, "
                "without control characters (after `KEY: |` YAML keeps the line break)"
            )
    elif isinstance(value, Mapping):
        for key, item in value.items():
            check_one_line(str(key), f"a key of {where}" if where else "a key")
            check_one_line(item, f"{where}.{key}" if where else str(key))
    elif isinstance(value, list | tuple):
        for item in value:
            check_one_line(item, where)


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """Return `; did you mean X?` if the value resembles one of the choices, else an empty text."""
    spellings = {choice.lower(): choice for choice in choices}
    close = difflib.get_close_matches(name.lower(), spellings, 1)
    return f"; did you mean {spellings[close[0]]}?" if close else ""


def _explain(model: type[BaseModel], problem: Any, names: Mapping[str, str]) -> str:
    keys = [str(part) for part in problem["loc"]]
    path = ".".join([names.get(key, key) for key in keys[:1]] + keys[1:])
    if problem["type"] == "extra_forbidden":
        owner = _model_at(model, problem["loc"][:-1])
        valid = f"; valid keys: {', '.join(sorted(owner.model_fields))}" if owner else ""
        meant = did_you_mean(str(problem["loc"][-1]), owner.model_fields) if owner else ""
        return f"{path}: unknown key{valid}{meant}"
    if problem["type"] == "missing":
        return f"{path}: required"
    message = problem["msg"].removeprefix("Value error, ")
    if isinstance(problem["input"], Mapping):  # about several keys, which the message names
        return f"{path}: {message}" if path else message
    got = repr(problem["input"])
    return f"{path}: {message} (got {got if len(got) <= 120 else got[:117] + '...'})"


def _model_at(model: type[BaseModel], location: Iterable[Any]) -> type[BaseModel] | None:
    """Return the settings model that contains the keys at `location`, if the path of fields is plain enough."""
    current: Any = model
    for part in location:
        if isinstance(current, type) and issubclass(current, BaseModel) and part in current.model_fields:
            current = current.model_fields[part].annotation
        candidates = [current, *_arguments(current)]
        models = [item for item in candidates if isinstance(item, type) and issubclass(item, BaseModel)]
        if len(models) != 1:
            return None
        current = models[0]
    return current if isinstance(current, type) and issubclass(current, BaseModel) else None


def _arguments(annotation: Any) -> Iterable[Any]:
    for item in getattr(annotation, "__args__", ()):
        yield item
        yield from _arguments(item)
