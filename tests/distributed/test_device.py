"""What is asked of MindSpore for Ascend and GPU, whose cards these tests do not have: calls are recorded."""
from collections.abc import Iterator

import mindspore as ms
import pytest
from mindspore.device_context import ascend, gpu

from src.distributed import device
from src.distributed.world import ALONE
from src.errors import UserError
from src.model_utils.config import get_config

Calls = list[tuple[str, object]]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[Calls]:
    """Calls of `setup_device`, by name; nothing is done."""
    found: Calls = []
    monkeypatch.setattr(ms, "set_device", lambda platform, _: found.append(("device", platform)))
    monkeypatch.setattr(ms, "set_context", lambda **values: found.extend(values.items()))
    for name, module, formats in (("ascend", ascend, "hf32"), ("gpu", gpu, "tf32")):
        for operator in ("conv", "matmul"):
            function = f"{operator}_allow_{formats}"
            monkeypatch.setattr(module.op_precision, function,
                                lambda value, key=f"{name} {function}": found.append((key, value)))
    yield found


def asked(calls: Calls, *options: str) -> dict[str, object]:
    calls.clear()
    assert device.setup_device(get_config(options)) is ALONE
    return dict(calls)


@pytest.mark.parametrize(("platform", "off"), [
    ("Ascend", {"ascend conv_allow_hf32", "ascend matmul_allow_hf32"}),
    ("GPU", {"gpu conv_allow_tf32", "gpu matmul_allow_tf32"}),
])
def test_float32_is_float32_throughout(calls: Calls, platform: str, off: set[str]) -> None:
    found = asked(calls, "--platform", platform, "--amp_level", "O0")
    assert {name: value for name, value in found.items() if "allow" in name} == dict.fromkeys(off, False)
    assert not [name for name in asked(calls, "--platform", platform, "--amp_level", "O2") if "allow" in name]


def test_cards_compile_at_the_level_that_is_asked_for(calls: Calls) -> None:
    assert asked(calls, "--platform", "Ascend", "--amp_level", "O3")["jit_config"] == {"jit_level": "O1"}
    assert asked(calls, "--platform", "GPU", "--amp_level", "O2", "--jit_level", "O0")["jit_config"] == {
        "jit_level": "O0"}
    assert "jit_config" not in asked(calls, "--platform", "CPU")


def test_the_mode_is_pynative_only_for_a_training_that_sends_batches_ahead(calls: Calls) -> None:
    """Other commands ignore the key, as it may stand in a file that they read, too."""
    options = ("--platform", "Ascend", "--device_prefetch", "True")
    assert asked(calls, *options)["mode"] == ms.GRAPH_MODE
    device.setup_device(get_config(options), device_prefetch=True)
    assert dict(calls)["mode"] == ms.PYNATIVE_MODE


@pytest.mark.parametrize(("options", "mentions"), [
    (("--platform", "GPU"), "to Ascend only"), (("--platform", "Ascend", "--jit_level", "O2"), "jit_level O2")])
def test_what_cannot_send_batches_ahead_is_refused(calls: Calls, options: tuple[str, ...], mentions: str) -> None:
    with pytest.raises(UserError, match=mentions):
        device.setup_device(get_config(options), device_prefetch=True)
    assert calls == []


def test_a_dry_run_needs_no_card(calls: Calls) -> None:
    found = asked(calls, "--platform", "Ascend", "--amp_level", "O3", "--dry_run", "True")
    assert found["device"] == "CPU"
    assert "jit_config" not in found


@pytest.mark.parametrize(("options", "level"), [
    (("--platform", "Ascend"), "O3"), (("--platform", "GPU"), "O2"), (("--platform", "CPU"), "O0"),
    (("--platform", "Ascend", "--recipe", "best"), "O2"), (("--platform", "CPU", "--recipe", "best"), "O0"),
])
def test_precision_of_the_profiles(options: tuple, level: str) -> None:
    """The ancestor's: float16 on Ascend (`keep_batchnorm_fp32=False`), batch norm in float32 on GPU."""
    assert get_config(options).amp_level == level
