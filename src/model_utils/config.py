"""The configuration of a run: YAML files and the command line, checked against one description.

`default_config.yaml` is the base. It has four YAML documents: the values (whose types are the types of the keys), the
help texts, the allowed values, and the recipes. On top of it come, the later the stronger: the recipe, the platform's
profile (`default_config_cpu.yaml`, ...) and what its second document has for the recipe, the file that `--config_path`
names, and the options of the command line. The strongest of these that states a platform or a recipe chooses it.
"""
import argparse
import difflib
import functools
import math
import os
from collections.abc import Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any, NoReturn

import yaml

from src.errors import UserError, first_line

BASE_FILE = Path(__file__).resolve().parents[2] / "default_config.yaml"
PROFILES = {platform: BASE_FILE.with_name(f"default_config_{platform.lower()}.yaml") for platform in ("GPU", "CPU")}

# Other names for keys: those of this project's ancestor in MindSpore's model zoo and of its README.
ALIASES = {
    "run_distribute": "distribute",
    "device_target": "platform",
    "checkpoint": "pretrain_ckpt",
    "ckpt_file": "pretrain_ckpt",
    "model": "pretrain_ckpt",
    "image_height": "image_size",
    "image_width": "image_size",
}
BOOLEANS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
LARGEST = {int: 2 ** 63 - 1, float: 3.4e38}  # what libraries take of numbers: int64 and float32
TYPE_NAMES = {bool: "True or False", int: "a whole number", float: "a number", str: "a text"}


class Config:
    """The checked values of a run, as attributes. Locked: an unknown key raises, none can be set.

    Args:
        values: every key with its value.
        chosen: the keys that the user set, in a file or on the command line.
    """

    def __init__(self, values: dict[str, Any], chosen: Set[str] = frozenset()) -> None:
        object.__setattr__(self, "_values", dict(values))
        object.__setattr__(self, "_chosen", frozenset(chosen))

    def __getattr__(self, key: str) -> Any:  # noqa: ANN401 - each key has its own type
        try:
            return object.__getattribute__(self, "_values")[key]
        except KeyError:
            raise AttributeError(f"no such configuration key: {key}") from None

    def __setattr__(self, key: str, value: object) -> NoReturn:
        raise AttributeError(f"the configuration is locked: {key} cannot be set")

    def adopt(self, values: Mapping[str, Any], *keys: str, where: object = None) -> "Config":
        """A copy with `values` for those of `keys` that the user left alone.

        Args:
            values: by key.
            keys: to adopt, where there are values for them.
            where: a file that the values were read from, so that they are checked as those of a YAML file are.

        Raises:
            UserError: a value of a file is of the wrong type or out of bounds.
        """
        adopted = {key: values[key] for key in keys if key in values and key not in self._chosen}
        if where is not None:
            adopted = _description().check_all(adopted, f"{where}, its configuration")
        return Config({**self._values, **adopted}, self._chosen)

    def replace(self, values: Mapping[str, Any]) -> "Config":
        """A copy with other values for known keys."""
        if unknown := values.keys() - self._values.keys():
            raise AttributeError(f"no such configuration key: {min(unknown)}")
        return Config({**self._values, **values}, self._chosen)

    def as_dict(self) -> dict[str, Any]:
        """All keys and values, in the order of the base file."""
        return dict(self._values)


class _Description:
    """What the base file says of each key: default (and so the type), help text, allowed values; and of the recipes."""

    def __init__(self) -> None:
        documents = ({key: value for key, value, _ in document} for document in _read_documents(BASE_FILE))
        self.defaults, self.help, self.allowed, self._recipes = documents

    def recipe(self, name: str) -> dict[str, Any]:
        """The checked values of a recipe."""
        return self.check_all(self._recipes[name], f"{BASE_FILE}, recipe {name}")

    def check_all(self, values: Mapping[str, Any], where: str) -> dict[str, Any]:
        """Values by their keys' own names, checked."""
        return {key: self.check(key, value, where)
                for key, value in ((self.resolve(name, where), value) for name, value in values.items())}

    def resolve(self, name: str, where: str) -> str:
        """The key that `name` stands for."""
        key = ALIASES.get(name, name)
        if key not in self.defaults:
            near = difflib.get_close_matches(name, [*self.defaults, *ALIASES], n=1)
            hint = f"; did you mean {near[0]}?" if near else "; python train.py --help lists them"
            raise UserError(f"{where}: unknown key {name}{hint}")
        return key

    def check(self, key: str, value: object, where: str) -> Any:  # noqa: ANN401 - each key has its own type
        """`value` in the key's type and within its allowed values."""
        try:
            typed = _convert(value, type(self.defaults[key]))
        except (TypeError, ValueError, OverflowError):
            wanted = TYPE_NAMES[type(self.defaults[key])]
            told = f"a {type(value).__name__}" if isinstance(value, dict | list) else repr(value)
            raise UserError(f"{where}: {key} must be {wanted}, not {told}") from None
        allowed = self.allowed.get(key)
        if isinstance(allowed, list):
            return self._choose(key, typed, allowed, where)
        for rule, bound in (allowed or {}).items():
            if not _RULES[rule][0](typed, bound):
                raise UserError(f"{where}: {key} must be {_RULES[rule][1]} {bound}, not {typed}")
        return typed

    @staticmethod
    def _choose(key: str, value: str, allowed: list[str], where: str) -> str:
        for choice in allowed:
            if value.lower() == choice.lower():
                return choice
        raise UserError(f"{where}: {key} must be one of {', '.join(allowed)}, not {value!r}")


@functools.cache
def _description() -> _Description:
    return _Description()


_RULES = {
    "min": (lambda value, bound: value >= bound, "at least"),
    "max": (lambda value, bound: value <= bound, "at most"),
    "below": (lambda value, bound: value < bound, "less than"),
    "multiple_of": (lambda value, bound: value % bound == 0, "a multiple of"),
}


def get_config(argv: Sequence[str] | None = None) -> Config:
    """The configuration for a command line (default: this process's).

    Raises:
        UserError: an unreadable or malformed file, an unknown key, a value of the wrong type or out of bounds; the
            text names file, line and key.
    """
    description = _description()
    options, unknown = _parse_command_line(description, argv)
    config_path = options.pop("config_path", None)
    chosen = _read_values(description, _find(Path(config_path))) if config_path else {}
    platform = options.get("platform") or chosen.get("platform") or description.defaults["platform"]
    profile = _read_values(description, PROFILES[platform]) if platform in PROFILES else {}
    recipe = {**description.defaults, **profile, **chosen, **options}["recipe"]
    config = Config({**description.defaults, **description.recipe(recipe), **profile,
                     **_profile_recipe(description, platform, recipe), **chosen, **options},
                    chosen.keys() | options.keys())
    if unknown and not config.enable_modelarts:
        _refuse(description, unknown)
    for word in unknown:
        if word.startswith("--"):  # its value may be a secret
            print(f"{word.partition('=')[0]}: not an option of this program, passed over")
    return config


def _profile_recipe(description: _Description, platform: str, name: str) -> dict[str, Any]:
    """What a platform's profile has of its own for a recipe, in its second document."""
    documents = list(_read_documents(PROFILES[platform])) if platform in PROFILES else []
    recipes = {recipe: values for document in documents[1:] for recipe, values, _ in document}
    return description.check_all(recipes.get(name, {}), f"{PROFILES.get(platform)}, recipe {name}")


def _parse_command_line(description: _Description,
                        argv: Sequence[str] | None) -> tuple[dict[str, Any], list[str]]:
    """The options that were given, under their keys' names, checked; and the words that are no options."""
    parser = _Parser(description="MobileNetV2 under MindSpore. Options are the keys of default_config.yaml.",
                     allow_abbrev=False, argument_default=argparse.SUPPRESS)
    parser.add_argument("--config_path", help="YAML file whose values replace the profile's")
    names = {key: [f"--{key}"] for key in description.defaults}
    for alias, key in ALIASES.items():
        names[key].append(f"--{alias}")
    for key, flags in names.items():
        allowed = description.allowed.get(key)
        choices = f" ({', '.join(allowed)})" if isinstance(allowed, list) else ""
        # A switch may stand alone: --run_eval is --run_eval True.
        alone: dict[str, Any] = {"nargs": "?", "const": True} if isinstance(description.defaults[key], bool) else {}
        parser.add_argument(*flags, dest=key, action="append", metavar=key.upper(),
                            help=description.help[key] + choices, **alone)
    given, unknown = parser.parse_known_args(argv)
    options = vars(given)
    for key in description.defaults.keys() & options.keys():
        values = {description.check(key, value, "command line") for value in options[key]}
        if len(values) > 1:
            raise UserError(f"command line: --{key} is given {len(options[key])} times, with different values")
        options[key] = values.pop()
    return options, unknown


def _refuse(description: _Description, unknown: Sequence[str]) -> None:
    name = unknown[0].lstrip("-").split("=")[0]
    if not unknown[0].startswith("--") and name in description.defaults:
        raise UserError(f"command line: {unknown[0]!r} is not an option; did you mean --{unknown[0]}?")
    if not unknown[0].startswith("-"):
        raise UserError(f"command line: {unknown[0]!r} is not an option; options are --key value")
    description.resolve(name, "command line")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"command line: {message}; --help lists the options")


def _find(path: Path) -> Path:
    """A file from here, else from the repository: a platform may start a command anywhere."""
    beside = BASE_FILE.parent / path
    return beside if beside.exists() and not path.exists() else path


def _read_values(description: _Description, path: Path) -> dict[str, Any]:
    """The checked values of a profile or of a user's file."""
    documents = list(_read_documents(path))
    if not documents:
        return {}
    values: dict[str, Any] = {}
    for name, value, line in documents[0]:
        where = f"{path}, line {line}"
        key = description.resolve(name, where)
        checked = description.check(key, value, where)
        if values.setdefault(key, checked) != checked:
            raise UserError(f"{where}: {name} contradicts an earlier line; both mean {key}")
    return values


def _read_documents(path: Path) -> Iterator[list[tuple[str, Any, int]]]:
    """Each YAML document of a file as (key, value, line) triples."""
    try:
        loader = yaml.SafeLoader(path.read_text(encoding="utf-8"))
        while loader.check_node():
            node = loader.get_node()
            if not isinstance(node, yaml.MappingNode):
                raise UserError(f"{path}, line {node.start_mark.line + 1}: expected lines of the form 'key: value'")
            yield [(str(key.value), loader.construct_object(value, deep=True), key.start_mark.line + 1)
                   for key, value in node.value]
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{path}: cannot read this configuration file: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not a text file in UTF-8") from None
    except Exception as error:  # for values like `!!bool perhaps`, PyYAML raises what its own code runs into
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or first_line(error)
        raise UserError(f"{path}{line}: malformed YAML: {problem}") from None


def _convert(value: object, wanted: type) -> Any:  # noqa: ANN401 - as `wanted` says
    """`value` from YAML or the command line in the wanted type; ValueError or TypeError where that loses meaning."""
    if wanted is str:
        if isinstance(value, bool):  # YAML reads a bare on/off as a boolean, where a key means the word
            return "on" if value else "off"
        if isinstance(value, dict | list) or "\0" in str(value):
            raise TypeError
        os.fsencode(str(value))  # many of them are names of files
        return "" if value is None else str(value)
    if wanted is bool:
        return value if isinstance(value, bool) else BOOLEANS[_word(value)]
    if isinstance(value, bool):
        raise TypeError
    number = wanted(value)
    if not math.isfinite(number) or (isinstance(value, float) and number != value) or abs(number) > LARGEST[wanted]:
        raise ValueError
    return number


def _word(value: object) -> str:
    word = str(value).strip().lower()
    if word not in BOOLEANS:
        raise ValueError
    return word
