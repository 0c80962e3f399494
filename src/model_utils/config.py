"""The configuration of a run, from YAML files and the command line.

`keys.py` declares the keys. Values come from these, and later ones are stronger: `default_config.yaml`, the recipe, the
platform's profile (`default_config_cpu.yaml`, ...) and the profile's own values for the recipe, the file that
`--config_path` names, the options of the command line. The strongest statement of a platform or a recipe chooses it.

A YAML file has values in its first document. `default_config.yaml` and the profiles have recipes in a later one:
values under the name of each recipe.
"""
import argparse
import dataclasses
import difflib
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import yaml

from src.errors import UserError, first_line
from src.log import logger
from src.model_utils.keys import ALIASES, EVAL, EXPORT, INFER, KEYS, TRAIN, Key, Keys
from src.model_utils.model_zoo import NO_EFFECT, OBSOLETE, is_of_model_zoo, translate_file, translate_option

BASE_FILE = Path(__file__).resolve().parents[2] / "default_config.yaml"
PROFILES = {platform: BASE_FILE.with_name(f"default_config_{platform.lower()}.yaml") for platform in ("GPU", "CPU")}
METAVARS = {bool: "BOOL", int: "INT", float: "FLOAT", str: "TEXT"}

# What --help says.
PURPOSES = {
    TRAIN: "Train MobileNetV2: from scratch, from a checkpoint, or the classifier on a frozen backbone.",
    EVAL: "Score a checkpoint, a MINDIR or an ONNX file on a folder of images.",
    EXPORT: "Write a checkpoint as a file for deployment, load it back and compare.",
    INFER: "Classify images with a checkpoint, a MINDIR or an ONNX file, or serve a page to try one on.",
}
DEFAULTS = "Values in brackets are those of default_config.yaml. Other platforms and recipes have some others."
OTHER_KEYS = "The keys of other commands are accepted, too, and have no effect here. docs/parameters.md has all keys."
HELP_COLUMN = 34  # where the help texts of options begin


@dataclass(frozen=True)
class Config(Keys):
    """The checked values of a run. They cannot be set; `adopt` and `replace` give copies."""

    chosen: frozenset[str] = field(default=frozenset(), repr=False, compare=False)  # the keys that the user set

    def adopt(self, values: Mapping[str, Any], *keys: str, where: object = None) -> "Config":
        """A copy with `values` for those of `keys` that the user did not set.

        Args:
            values: by key.
            keys: to adopt, where there are values for them.
            where: a file that the values were read from. They are then checked as those of a YAML file are.

        Raises:
            UserError: a value of a file is of the wrong type or out of bounds.
        """
        adopted = {key: values[key] for key in keys if key in values and key not in self.chosen}
        if where is not None:
            adopted = _check_all(adopted, f"{where}, its configuration")
        return dataclasses.replace(self, **adopted)

    def with_recipe(self, recipe: str) -> "Config":
        """A copy with the values of another recipe for the keys that the user did not set."""
        size = ["--image_size", str(self.image_size)] if "image_size" in self.chosen else []
        present, other = (get_config(["--platform", self.platform, "--recipe", name, *size]).as_dict()
                          for name in (self.recipe, recipe))
        return self.replace({key: value for key, value in other.items()
                             if value != present[key] and key not in self.chosen})

    def replace(self, values: Mapping[str, Any]) -> "Config":
        """A copy with other values for known keys."""
        if unknown := values.keys() - KEYS.keys():
            raise AttributeError(f"no such configuration key: {min(unknown)}")
        return dataclasses.replace(self, **values)

    def as_dict(self) -> dict[str, Any]:
        """All keys and values, in the order of their declaration."""
        return {name: getattr(self, name) for name in KEYS}


def get_config(argv: Sequence[str] | None = None) -> Config:
    """The configuration for a command line (default: this process's).

    Raises:
        UserError: an unreadable or malformed file, an unknown key, a value of the wrong type or out of bounds; the
            text names file, line and key.
    """
    base = _read_file(BASE_FILE)
    defaults = {**{name: key.default for name, key in KEYS.items()}, **base.values}
    options, unknown = _parse_command_line(defaults, argv)
    config_path = options.pop("config_path", None)
    chosen = _chosen_values(_find(Path(config_path))) if config_path else {}
    platform = options.get("platform") or chosen.get("platform") or defaults["platform"]
    profile = _read_file(PROFILES[platform]) if platform in PROFILES else NO_PROFILE
    recipe = {**defaults, **profile.values, **chosen, **options}["recipe"]
    if recipe != KEYS["recipe"].default and recipe not in base.recipes:
        raise UserError(f"{BASE_FILE}: has no recipe {recipe}")
    user = {**chosen, **options}
    values = {**defaults, **base.recipe(recipe), **profile.values, **profile.recipe(recipe), **user}
    if "image_size" in user and "train_image_size" not in user:
        values["train_image_size"] = defaults["train_image_size"]  # that of a recipe is meant for its image_size
    config = Config(**values, chosen=frozenset(user))
    if unknown and not config.enable_modelarts:
        _refuse(unknown)
    for word in unknown:
        if word.startswith("--"):  # its value may be a secret
            logger.info(f"{word.partition('=')[0]}: not an option of this program, passed over")
    return config


def _chosen_values(path: Path) -> dict[str, Any]:
    """The values of the user's file. The files that are read anyway say no more than which platform is meant."""
    values = _read_file(path).values
    if path.samefile(BASE_FILE):
        return {}
    if any(path.samefile(profile) for profile in PROFILES.values()):
        return {"platform": values["platform"]}
    return values


# ---- values

def _check_all(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Values under their keys' own names, checked."""
    resolved = {_resolve(str(name), where): value for name, value in values.items()}
    return {name: KEYS[name].check(name, value, where) for name, value in resolved.items()}


def _resolve(name: str, where: str) -> str:
    """The key that `name` means."""
    resolved = ALIASES.get(name, name)
    if resolved not in KEYS:
        near = difflib.get_close_matches(name, [*KEYS, *ALIASES], n=1)
        hint = f"did you mean {near[0]}?" if near else "a command's --help and docs/parameters.md list the keys"
        raise UserError(f"{where}: unknown key {name}; {hint}")
    return resolved


# ---- the command line

class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"command line: {message}; --help lists the options")


class _HelpFormatter(argparse.HelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=HELP_COLUMN)


def _parse_command_line(base: Mapping[str, Any], argv: Sequence[str] | None) -> tuple[dict[str, Any], list[str]]:
    """The options that were given, under their keys' names, checked; and the words that are no options.

    Args:
        base: the values of the base file, which `--help` shows.
        argv: the command line.
    """
    program = Path(sys.argv[0]).name
    parser = _Parser(usage="%(prog)s [--config_path FILE] [--KEY VALUE ...]", allow_abbrev=False,
                     description=f"{PURPOSES.get(program, 'All keys.')} {DEFAULTS}", epilog=OTHER_KEYS,
                     formatter_class=_HelpFormatter, argument_default=argparse.SUPPRESS)
    parser.add_argument("--config_path", metavar="FILE", help="YAML file with values. It is stronger than the profile.")
    groups = {key.group: parser.add_argument_group(key.group) for key in KEYS.values()}
    for name, key in KEYS.items():
        is_own = program in key.commands or program not in PURPOSES
        _add_option(groups[key.group], name, key, _help(key, base[name]) if is_own else argparse.SUPPRESS)
    for name in sorted(OBSOLETE):
        parser.add_argument(f"--{name}", metavar="TEXT", nargs="?", help=argparse.SUPPRESS)
    given, unknown = parser.parse_known_args(argv)
    options = vars(given)
    for name in sorted(OBSOLETE & options.keys()):
        _translate_option(options, name)
    for name in KEYS.keys() & options.keys():
        values = {KEYS[name].check(name, value, "command line") for value in options[name]}
        if len(values) > 1:
            raise UserError(f"command line: --{name} is given {len(options[name])} times, with different values")
        options[name] = values.pop()
    return options, unknown


def _translate_option(options: dict[str, Any], name: str) -> None:
    """Put the key that an option of MindSpore's model zoo means in its place, if it means one."""
    key, value = translate_option(name, options.pop(name), "command line")
    if name not in NO_EFFECT:
        options.setdefault(key, []).append(value)
    meaning = "without effect here" if name in NO_EFFECT else f"read as --{key} {value}"
    logger.info(f"--{name}: an option of MindSpore's model zoo (docs/migration.md), {meaning}")


def _add_option(parser: argparse._ActionsContainer, name: str, key: Key, help_text: str) -> None:
    """An option for a key, and hidden ones for its aliases."""
    # A switch may stand alone: --run_eval is --run_eval True.
    alone: dict[str, Any] = {"nargs": "?", "const": True} if isinstance(key.default, bool) else {}
    metavar = f"{{{','.join(key.choices)}}}" if key.choices else METAVARS[type(key.default)]
    for option, text in ((name, help_text), *((alias, argparse.SUPPRESS) for alias in key.aliases)):
        parser.add_argument(f"--{option}", dest=name, action="append", metavar=metavar, help=text, **alone)


def _help(key: Key, value: object) -> str:
    """The help text of a key, with its aliases and its value."""
    aliases = f" Also {', '.join(f'--{alias}' for alias in key.aliases)}." if key.aliases else ""
    shown = "" if value == "" else f" [{value}]"
    return f"{key.help}{aliases}{shown}".replace("%", "%%")


def _refuse(unknown: Sequence[str]) -> None:
    name = unknown[0].lstrip("-").split("=")[0]
    if not unknown[0].startswith("--") and name in KEYS:
        raise UserError(f"command line: {unknown[0]!r} is not an option; did you mean --{unknown[0]}?")
    if not unknown[0].startswith("-"):
        raise UserError(f"command line: {unknown[0]!r} is not an option; options are --key value")
    _resolve(name, "command line")


# ---- files

def _find(path: Path) -> Path:
    """A file from here, else from the repository: a platform may start a command anywhere."""
    beside = BASE_FILE.parent / path
    return beside if beside.exists() and not path.exists() else path


@dataclass(frozen=True)
class _File:
    """What a YAML file states: checked values, and for the names of recipes what they set, not checked yet."""

    path: Path
    values: dict[str, Any]
    recipes: dict[str, Any]

    def recipe(self, name: str) -> dict[str, Any]:
        """The checked values of a recipe; empty if the file has none of that name."""
        values = self.recipes.get(name, {})
        if not isinstance(values, dict):
            raise UserError(f"{self.path}, recipe {name}: expected lines of the form 'key: value'")
        return _check_all(values, f"{self.path}, recipe {name}")


NO_PROFILE = _File(BASE_FILE, {}, {})  # Ascend's is the base file itself


def _read_file(path: Path) -> _File:
    """Values in the first document, recipes in a later one. Files of earlier versions have help texts and rules there,
    too, and nothing reads these.
    """
    first, *others = _read_documents(path) or [[]]
    if is_of_model_zoo(name for name, _, _ in first):
        first, remark = translate_file(first, path, Path(sys.argv[0]).name)
        logger.info(remark)
    values: dict[str, Any] = {}
    for name, value, line in first:
        where = f"{path}, line {line}"
        key = _resolve(name, where)
        checked = KEYS[key].check(key, value, where)
        if values.setdefault(key, checked) != checked:
            raise UserError(f"{where}: {name} contradicts an earlier line; both mean {key}")
    return _File(path, values, {name: value for document in others for name, value, _ in document})


def _read_documents(path: Path) -> list[list[tuple[str, Any, int]]]:
    """Each YAML document of a file as (key, value, line) triples."""
    try:
        return list(_parse_documents(path, path.read_text(encoding="utf-8")))
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


def _parse_documents(path: Path, text: str) -> Iterator[list[tuple[str, Any, int]]]:
    loader = yaml.SafeLoader(text)
    while loader.check_node():
        node = loader.get_node()
        if not isinstance(node, yaml.MappingNode):
            raise UserError(f"{path}, line {node.start_mark.line + 1}: expected lines of the form 'key: value'")
        yield [(str(key.value), loader.construct_object(value, deep=True), key.start_mark.line + 1)
               for key, value in node.value]
