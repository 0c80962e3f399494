"""The configuration: types, other names, layers, and errors that name file, line and key."""
import dataclasses
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, assert_one_clear_line, run_script

from src.errors import UserError
from src.model_utils.config import BASE_FILE, Config, get_config
from src.model_utils.keys import ALIASES, COMMANDS, EVAL, KEYS, TRAIN

VALUES, RECIPES = yaml.safe_load_all(BASE_FILE.read_text(encoding="utf-8"))

Write = Callable[[str], Path]


def profile(name: str) -> tuple[dict, dict]:
    """What a profile states, and what it has of its own for each recipe."""
    values, *recipes = yaml.safe_load_all((ROOT / f"default_config_{name}.yaml").read_text(encoding="utf-8"))
    return values, recipes[0] if recipes else {}


@pytest.fixture
def yaml_file(tmp_path: Path) -> Write:
    def write(text: str) -> Path:
        path = tmp_path / "mine.yaml"
        path.write_text(text, encoding="utf-8")
        return path
    return write


def refusal(*argv: object) -> str:
    """The text of the error that a command line ends in; one line."""
    with pytest.raises(UserError) as error:
        get_config([str(word) for word in argv])
    text = str(error.value)
    assert "\n" not in text
    return text


# ---- layers

def test_base_values_are_the_declared_defaults() -> None:
    assert {name: key.default for name, key in KEYS.items()} == VALUES
    assert {name: type(value) for name, value in VALUES.items()} == \
        {name: type(key.default) for name, key in KEYS.items()}
    assert get_config([]).as_dict() == VALUES


def test_an_edited_base_file_has_its_say(yaml_file: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it leaves out has the declared default; the platform's profile is stronger."""
    monkeypatch.setattr("src.model_utils.config.BASE_FILE", yaml_file("seed: 9\nbatch_size: 3\n"))
    assert get_config([]).as_dict() == {**VALUES, "seed": 9, "batch_size": 3}
    assert get_config(["--platform", "CPU"]).as_dict() == {**VALUES, "seed": 9, **profile("cpu")[0]}
    assert refusal("--recipe", "best").endswith("mine.yaml: has no recipe best")


EARLIER_FORM = """# values, help texts, allowed values, recipes
device_target: CPU
clip_norm: 0.5
---
seed: of the initial weights
clip_norm: largest norm
---
platform: [Ascend, GPU, CPU]
seed: {min: 0}
"""


def test_files_of_the_earlier_form_still_load(yaml_file: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """They have help texts and rules in further documents, and recipes in the last one."""
    config = get_config(["--config_path", str(yaml_file(EARLIER_FORM))])
    assert (config.platform, config.grad_clip_norm) == ("CPU", 0.5)
    monkeypatch.setattr("src.model_utils.config.BASE_FILE", yaml_file(EARLIER_FORM))
    assert get_config([]).grad_clip_norm == 0.5
    monkeypatch.setattr("src.model_utils.config.BASE_FILE",
                        yaml_file(EARLIER_FORM + "---\nplain: {}\nbest:\n  accumulate_steps: 3\n"))
    assert get_config([]).grad_accum_steps == 1
    assert get_config(["--recipe", "best"]).grad_accum_steps == 3


@pytest.mark.parametrize(("recipe", "says"), [
    ("3", "expected lines of the form 'key: value'"),
    ("{epochsize: 3}", "unknown key epochsize; did you mean epoch_size"),
    ("{epoch_size: many}", "epoch_size must be a whole number"), ("{1: 2}", "unknown key 1;")])
def test_a_wrong_recipe_names_file_and_recipe(recipe: str, says: str, yaml_file: Write,
                                              monkeypatch: pytest.MonkeyPatch) -> None:
    path = yaml_file(f"seed: 1\n---\nbest: {recipe}\n")
    monkeypatch.setattr("src.model_utils.config.BASE_FILE", path)
    assert refusal("--recipe", "best").startswith(f"{path}, recipe best: {says}")


@pytest.mark.parametrize("platform", ["gpu", "cpu"])
def test_platform_chooses_its_profile(platform: str) -> None:
    assert get_config(["--platform", platform.upper()]).as_dict() == {**VALUES, **profile(platform)[0]}


@pytest.mark.parametrize(("name", "platform"), [
    ("default_config.yaml", "Ascend"), ("default_config_gpu.yaml", "GPU"), ("default_config_cpu.yaml", "CPU")])
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_file_that_is_read_anyway_leaves_the_recipe_alone(name: str, platform: str, recipe: str) -> None:
    """As in `run_train.sh Ascend default_config.yaml ... --recipe best`."""
    named = get_config(["--config_path", name, "--recipe", recipe])
    assert named == get_config(["--platform", platform, "--recipe", recipe])
    assert "epoch_size" not in named.chosen


@pytest.mark.parametrize("name", ["gpu", "cpu", "boost"])
def test_profiles_state_only_what_differs(name: str) -> None:
    stated, recipes = profile(name)
    assert [key for key, value in stated.items() if value == VALUES[key]] == []
    assert recipes.keys() <= RECIPES.keys()
    for recipe, own in recipes.items():
        assert [key for key, value in own.items() if value == {**VALUES, **RECIPES[recipe], **stated}[key]] == []


def test_command_line_beats_file_beats_profile_beats_base(yaml_file: Write) -> None:
    path = yaml_file("platform: CPU\nbatch_size: 7\nepoch_size: 9\n")
    config = get_config(["--config_path", str(path), "--epoch_size", "3"])
    cpu, _ = profile("cpu")
    assert (config.epoch_size, config.batch_size, config.platform) == (3, 7, "CPU")
    assert config.lr_max == cpu["lr_max"]
    assert config.weight_decay == VALUES["weight_decay"]


def test_recipe_lies_between_base_and_profile(yaml_file: Write) -> None:
    best = RECIPES["best"]
    assert get_config(["--recipe", "best"]).as_dict() == {**VALUES, "recipe": "best", **best}
    cpu, own = profile("cpu")
    on_cpu = get_config(["--recipe", "best", "--platform", "CPU"])
    assert on_cpu.as_dict() == {**VALUES, "recipe": "best", **best, **cpu, **own["best"]}
    path = yaml_file("warmup_epochs: 7\nepoch_size: 9\n")
    config = get_config(["--recipe", "best", "--config_path", str(path), "--epoch_size", "3"])
    assert (config.epoch_size, config.warmup_epochs, config.ema_decay) == (3, 7, best["ema_decay"])


def test_strongest_statement_of_a_recipe_chooses_it(yaml_file: Write) -> None:
    path = str(yaml_file("recipe: best\n"))
    assert get_config(["--config_path", path]).ema_decay == RECIPES["best"]["ema_decay"]
    config = get_config(["--config_path", path, "--recipe", "plain"])
    assert config.as_dict() == VALUES


def test_the_training_size_of_a_recipe_is_left_out_where_the_user_sets_another_one(yaml_file: Write) -> None:
    finetune = ("--platform", "CPU", "--recipe", "finetune")
    assert get_config(finetune).train_image_size == RECIPES["finetune"]["train_image_size"]
    assert get_config([*finetune, "--image_size", "96"]).train_image_size == 0
    assert get_config([*finetune, "--image_size", "96", "--train_image_size", "64"]).train_image_size == 64
    path = str(yaml_file("image_size: 96\n"))
    assert get_config([*finetune, "--config_path", path]).train_image_size == 0


@pytest.mark.parametrize("options", [(), ("--image_size", "96"), ("--lr_max", "0.3", "--dropout", "0.0")])
def test_another_recipe_afterwards_is_as_if_it_had_been_chosen(options: tuple[str, ...]) -> None:
    argv = ["--platform", "CPU", *options]
    assert get_config(argv).with_recipe("finetune") == get_config([*argv, "--recipe", "finetune"])
    assert get_config(argv).replace({"dataset_path": "x"}).with_recipe("finetune").dataset_path == "x"


def test_the_plain_recipe_is_the_ancestor_s_run() -> None:
    assert RECIPES["plain"] == {}
    assert VALUES["recipe"] == "plain"
    wanted = {"epoch_size": 200, "batch_size": 256, "lr_base_batch": 2048, "lr_init": 0.0, "lr_max": 0.4, "lr_end": 0.0,
              "warmup_epochs": 4.0, "momentum": 0.9, "weight_decay": 4e-5, "norm_bias_decay": True, "label_smooth": 0.1,
              "dropout": 0.0, "ema_decay": 0.0}
    assert {key: VALUES[key] for key in wanted} == wanted


@pytest.mark.parametrize("recipe", sorted(RECIPES))
def test_recipes_state_only_what_differs_and_are_all_allowed(recipe: str) -> None:
    assert set(RECIPES) == set(KEYS["recipe"].choices)
    assert [key for key, value in RECIPES[recipe].items() if value == VALUES[key]] == []


def test_an_unknown_recipe_is_one_line_with_those_there_are() -> None:
    assert refusal("--recipe", "great") == "command line: recipe must be one of plain, best, finetune, not 'great'"


def test_platform_of_the_command_line_chooses_the_profile_below_a_file(yaml_file: Write) -> None:
    config = get_config(["--platform", "CPU", "--config_path", str(yaml_file("platform: GPU\nseed: 4\n"))])
    assert (config.platform, config.seed, config.amp_level) == ("CPU", 4, "O0")


def test_empty_file_changes_nothing(yaml_file: Write) -> None:
    assert get_config(["--config_path", str(yaml_file(""))]).as_dict() == VALUES


# ---- types and spellings

@pytest.mark.parametrize("word", ["True", "true", "YES", "on", "1"])
def test_booleans_in_any_usual_spelling(word: str, yaml_file: Write) -> None:
    assert get_config(["--filter_head", word]).filter_head is True
    assert get_config([f"--filter_head={word}"]).filter_head is True
    assert get_config(["--config_path", str(yaml_file(f"filter_head: {word}\n"))]).filter_head is True


@pytest.mark.parametrize("word", ["False", "false", "No", "off", "0"])
def test_false_in_any_usual_spelling(word: str, yaml_file: Write) -> None:
    assert get_config(["--run_eval", word]).run_eval is False
    assert get_config(["--config_path", str(yaml_file(f"run_eval: {word}\n"))]).run_eval is False


def test_a_switch_may_stand_alone() -> None:
    assert get_config(["--filter_head", "--epoch_size", "2"]).filter_head is True


def test_numbers_are_read_as_yaml_and_python_write_them(yaml_file: Write) -> None:
    assert get_config(["--warmup_epochs", "0.5"]).warmup_epochs == 0.5
    assert get_config(["--warmup_epochs", "2"]).warmup_epochs == 2.0
    assert get_config(["--weight_decay", "4e-5"]).weight_decay == 4e-5
    # YAML 1.1 reads 1e-4 as text and 8.0 as a fraction
    config = get_config(["--config_path", str(yaml_file("weight_decay: 1e-4\nepoch_size: 8.0\n"))])
    assert config.weight_decay == 1e-4
    assert config.epoch_size == 8
    assert isinstance(config.epoch_size, int)


def test_on_and_off_of_a_choice_are_words(yaml_file: Write) -> None:
    assert get_config(["--config_path", str(yaml_file("cpu_kernels: off\n"))]).cpu_kernels == "off"
    assert get_config(["--cpu_kernels", "ON"]).cpu_kernels == "on"


def test_choices_take_any_case() -> None:
    assert get_config(["--platform", "ascend"]).platform == "Ascend"


@pytest.mark.parametrize(("alias", "key"), sorted(ALIASES.items()))
def test_an_alias_sets_its_key(alias: str, key: str, yaml_file: Write) -> None:
    value = {"distribute": True, "platform": "CPU", "image_size": 96, "aug_repeats": 2, "grad_clip_norm": 0.5,
             "grad_accum_steps": 4}.get(key, "k.ckpt")
    assert getattr(get_config([f"--{alias}", str(value)]), key) == value
    assert getattr(get_config(["--config_path", str(yaml_file(f"{alias}: {value}\n"))]), key) == value


@pytest.mark.parametrize(("key", "value", "says"), [
    ("epoch_size", "many", "a whole number"), ("epoch_size", "1.5", "a whole number"), ("epoch_size", "", "a whole"),
    ("lr_max", "fast", "a number"), ("lr_max", "nan", "a number"), ("lr_max", "inf", "a number"),
    ("run_eval", "perhaps", "True or False"), ("run_eval", "2", "True or False"),
    ("platform", "TPU", "one of Ascend, GPU, CPU"), ("freeze_layer", "head", "one of none, backbone"),
    ("image_size", "100", "a multiple of 32"), ("image_size", "0", "at least 32"), ("batch_size", "0", "at least 1"),
    ("width_mult", "2", "at most 1.4"), ("dropout", "1", "less than 1"), ("seed", "-1", "at least 0"),
])
def test_wrong_values_on_the_command_line(key: str, value: str, says: str) -> None:
    text = refusal(f"--{key}={value}")
    assert text.startswith(f"command line: {key} must be {says}")
    assert value in text


@pytest.mark.parametrize(("line", "says"), [
    ("epoch_size: [1, 2]", "epoch_size must be a whole number"), ("epoch_size: true", "epoch_size must be a whole"),
    ("lr_max: yes", "lr_max must be a number"), ("lr_max:", "lr_max must be a number"),
    ("dataset_path: {a: 1}", "dataset_path must be a text"), ("run_eval: 3.5", "run_eval must be True or False"),
    ("epoch_size: 1.5", "epoch_size must be a whole number"), ("epoch_size: .inf", "epoch_size must be a whole"),
])
def test_wrong_values_in_a_file_name_file_and_line(line: str, says: str, yaml_file: Write) -> None:
    path = yaml_file(f"seed: 1\n{line}\n")
    assert refusal("--config_path", path).startswith(f"{path}, line 2: {says}")


# ---- unknown and contradicting keys

@pytest.mark.parametrize(("argument", "near"), [("--epochsize=3", "epoch_size"), ("--datset_path=x", "dataset_path"),
                                                ("--run_distribut", "run_distribute"), ("--lrmax=1", "lr_max")])
def test_unknown_options_are_refused_with_the_nearest(argument: str, near: str) -> None:
    name = argument.lstrip("-").partition("=")[0]
    assert refusal(argument) == f"command line: unknown key {name}; did you mean {near}?"


def test_unknown_option_like_no_other() -> None:
    assert "unknown key zzzz" in refusal("--zzzz", "1")
    assert "--help" in refusal("--zzzz", "1")


def test_abbreviations_are_unknown() -> None:
    assert "unknown key epoch;" in refusal("--epoch", "3")


@pytest.mark.parametrize(("argument", "says"), [("distribute=True", "did you mean --distribute=True?"),
                                                ("stray", "'stray' is not an option")])
def test_an_argument_without_dashes_is_refused(argument: str, says: str) -> None:
    assert says in refusal(argument)


def test_an_option_without_its_value() -> None:
    assert "epoch_size" in refusal("--epoch_size")


def test_unknown_key_in_a_file(yaml_file: Write) -> None:
    path = yaml_file("seed: 1\n\nepochsize: 3\n")
    assert refusal("--config_path", path) == f"{path}, line 3: unknown key epochsize; did you mean epoch_size?"


def test_lines_that_contradict_each_other_are_refused(yaml_file: Write) -> None:
    path = yaml_file("device_target: CPU\nplatform: GPU\n")
    assert refusal("--config_path", path) == (f"{path}, line 2: platform contradicts an earlier line; "
                                              "both mean platform")
    assert get_config(["--config_path", str(yaml_file("device_target: CPU\nplatform: cpu\n"))]).platform == "CPU"


def test_options_that_contradict_each_other_are_refused() -> None:
    assert "--image_size is given 2 times" in refusal("--image_height=96", "--image_width=128")
    assert get_config(["--image_height=96", "--image_width=96"]).image_size == 96


# ---- files that cannot be read

@pytest.mark.parametrize(("text", "line"), [("a: [1\nb: 2\n", "2"), ("seed: 1\n  x: 2\n", "2"), ("seed: 'x\n", "2"),
                                            ("seed: 1\n\tx: 2\n", "2"), ("seed: @\n", "1")])
def test_malformed_yaml_is_refused_with_its_line(text: str, line: str, yaml_file: Write) -> None:
    path = yaml_file(text)
    assert re.match(rf"{re.escape(str(path))}, line {line}: malformed YAML: .+", refusal("--config_path", path))


def test_a_file_that_is_no_mapping(yaml_file: Write) -> None:
    path = yaml_file("- 1\n- 2\n")
    assert refusal("--config_path", path) == f"{path}, line 1: expected lines of the form 'key: value'"


def test_yaml_that_calls_for_code_is_refused(yaml_file: Write) -> None:
    path = yaml_file("seed: !!python/object/apply:os.getpid []\n")
    assert refusal("--config_path", path).startswith(f"{path}, line 1: malformed YAML")


def test_missing_and_binary_files_are_refused(tmp_path: Path) -> None:
    missing = tmp_path / "none.yaml"
    assert refusal("--config_path", missing).startswith(f"{missing}: cannot read this configuration file: No such file")
    assert "Is a directory" in refusal("--config_path", tmp_path)
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00seed")
    assert "not a text file in UTF-8" in refusal("--config_path", tmp_path / "binary.yaml")


# ---- the object

def test_a_configuration_cannot_be_changed() -> None:
    config = get_config([])
    with pytest.raises(dataclasses.FrozenInstanceError, match="seed"):
        config.seed = 2
    with pytest.raises(AttributeError, match="sede"):
        config.sede  # type: ignore[attr-defined]  # noqa: B018 - mypy sees it, too, or calls the comment unused
    with pytest.raises(AttributeError, match="no such configuration key: sede"):
        config.replace({"sede": 2})
    config.as_dict()["seed"] = 99
    assert config.seed == VALUES["seed"]


def test_adopt_respects_what_the_user_chose(yaml_file: Write) -> None:
    config = get_config(["--image_size", "64", "--config_path", str(yaml_file("dropout: 0.3\n"))])
    adopted = config.adopt({"image_size": 96, "dropout": 0.5, "width_mult": 0.5, "seed": 8}, "image_size", "dropout",
                           "width_mult", "resume")
    assert (adopted.image_size, adopted.dropout, adopted.width_mult) == (64, 0.3, 0.5)
    assert adopted.seed == VALUES["seed"]  # not among the keys
    assert config.width_mult == VALUES["width_mult"]  # a copy
    assert isinstance(adopted, Config)


def test_adopted_values_of_a_file_are_checked() -> None:
    with pytest.raises(UserError, match=r"^k.json, its configuration: width_mult must be at most 1.4, not 9.0$"):
        get_config([]).adopt({"width_mult": 9}, "width_mult", where="k.json")


# ---- defaults and commands

@pytest.mark.parametrize("key", sorted(KEYS))
def test_defaults_keep_the_rules(key: str) -> None:
    assert getattr(get_config([f"--{key}={VALUES[key]}"]), key) == VALUES[key]


def test_importing_parses_nothing() -> None:
    code = "import sys; sys.argv = ['x', '--nonsense']; import train, eval, src.model_utils.config"
    run = run_script("-c", code)
    assert (run.returncode, run.stdout) == (0, "")


def help_of(program: str, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(sys, "argv", [program, "--help"])
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit, match="0"):
        get_config()
    return capsys.readouterr().out


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_lists_its_own_keys(command: str, capsys: pytest.CaptureFixture,
                                              monkeypatch: pytest.MonkeyPatch) -> None:
    listed = re.findall(r"^  --(\w+) ", help_of(f"/some/where/{command}", capsys, monkeypatch), re.MULTILINE)
    assert listed == ["config_path", *(name for name, key in KEYS.items() if command in key.commands)]


def test_help_is_grouped_and_shows_the_value_of_the_base_file_and_other_names(
        yaml_file: Write, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("src.model_utils.config.BASE_FILE", yaml_file("top_k: 77\n"))
    shown = help_of("infer.py", capsys, monkeypatch)
    groups = re.findall(r"^(\S.*):$", shown, re.MULTILINE)
    assert groups == ["options", *dict.fromkeys(key.group for key in KEYS.values() if "infer.py" in key.commands)]
    assert re.search(r"^  --top_k INT +\S.* \[77\]$", shown, re.MULTILINE)
    assert re.search(r"--images TEXT .*Also\s+--pictures\.\n", shown, re.DOTALL)


def test_help_of_any_other_program_lists_every_key(capsys: pytest.CaptureFixture,
                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    shown = help_of("other.py", capsys, monkeypatch)
    assert [name for name in KEYS if f"  --{name} " not in shown] == []


def test_help_of_a_started_command() -> None:
    run = run_script("eval.py", "--help")
    assert (run.returncode, run.stderr) == (0, "")
    assert "--confusion_matrix " in run.stdout
    assert "--epoch_size " not in run.stdout


@pytest.mark.parametrize("key", [name for name, key in KEYS.items() if key.commands == (TRAIN,)])
def test_every_command_accepts_the_keys_of_others(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [EVAL, f"--{key}={VALUES[key]}"])
    assert getattr(get_config(), key) == VALUES[key]


def test_a_wrong_option_of_a_command_is_one_line() -> None:
    assert_one_clear_line(run_script("eval.py", "--batchsize", "3"), "batchsize", "batch_size")
