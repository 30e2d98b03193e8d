from pathlib import Path

import pytest

from nuriwake.core.errors import UserError
from nuriwake.core.serial import from_plain, to_plain
from nuriwake.engine.config import DataConfig, RunConfig, differences, override, read_overrides, seconds

BASE = RunConfig(DataConfig(Path("data")))


@pytest.mark.parametrize(
    ("text", "value"),
    [("90s", 90), ("10m", 600), ("1h30m", 5400), ("1.5m", 90), (45, 45), ("45", 45), ("1h", 3600), ("2m 5s", 125)],
)
def test_durations(text, value):
    assert seconds(text) == value


@pytest.mark.parametrize("text", ["", "ten", "0s", "-5m", "5x", "1.2.3s", 0])
def test_what_is_no_duration(text):
    with pytest.raises(UserError, match="expected a duration"):
        seconds(text)


def test_overrides_nested_and_dotted_are_the_same():
    nested = override(BASE, {"optim": {"learning_rate": "3e-4"}, "budget": "10m"})
    dotted = override(BASE, {"optim.learning_rate": 3e-4, "budget": "10m"})
    assert nested == dotted
    assert nested.optim.learning_rate == 3e-4
    assert nested.optim.clip == BASE.optim.clip
    assert nested.budget_seconds == 600


def test_a_new_length_replaces_the_old_one():
    assert override(override(BASE, {"epochs": 3}), {"budget": "5m"}).epochs is None


def test_two_lengths_are_refused():
    with pytest.raises(UserError, match="epochs or budget, not both"):
        override(BASE, {"epochs": 3, "budget": "5m"})


def test_a_dotted_option_leaves_the_others_alone():
    first = override(BASE, {"model.options": {"output_stride": 8}})
    more = override(first, {"model.options.rates": [1, 2, 3], "model.options.dropout": 0.2})
    assert more.model.options == {"output_stride": 8, "rates": [1, 2, 3], "dropout": 0.2}
    assert override(more, {"model.options": {"dropout": 0.1}}).model.options == {"dropout": 0.1}


def test_loss_terms_are_replaced_as_a_whole():
    first = override(BASE, {"loss.terms": {"dice": 1.0, "focal": 2.0}})
    assert override(first, {"loss": {"terms": {"bce": 1.0}}}).loss.terms == {"bce": 1.0}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"optim.learning_rat": 1e-3}, r"no field 'optim\.learning_rat'. Did you mean 'learning_rate'"),
        ({"optim": {"learningrate": 1e-3}}, r"Did you mean 'learning_rate'"),
        ({"batch_sise": 4}, "Did you mean 'batch_size'"),
        ({"batch_size": "many"}, "batch_size: expected a whole number"),
        ({"batch_size": 0}, "batch_size: expected a number at least 1"),
        ({"augmentation.balance": 2.0}, r"augmentation\.balance: expected a number from 0 to 1"),
        ({"seed": -1}, "seed: expected a number at least 0"),
        ({"optim.clip": -1.0}, r"optim\.clip: expected a number at least 0"),
        ({"optim.momentum": 1.5}, r"optim\.momentum: expected a number from 0 to 1"),
        ({"schedule.minimum": 2.0}, r"schedule\.minimum: expected a number from 0 to 1"),
        ({"schedule.power": -1.0}, r"schedule\.power: expected a number at least 0"),
        ({"loss.auxiliary_weight": -0.4}, r"loss\.auxiliary_weight: expected a number at least 0"),
        ({"precision": "fp8"}, "precision"),
        ({"schedule.name": "cosin"}, "Did you mean 'cosine'"),
        ({"epochs": 0}, "epochs: expected a number at least 1"),
    ],
)
def test_mistakes_are_named(values, message):
    with pytest.raises(UserError, match=message):
        override(BASE, values)


def test_there_and_back_through_plain_values():
    config = override(BASE, {"optim.freeze": ["backbone"], "augmentation.scale": [0.5, 2], "budget": 90})
    assert from_plain(RunConfig, to_plain(config)) == config
    assert differences(config, from_plain(RunConfig, to_plain(config))) == {}


def test_yaml_files(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("optim:\n  learning_rate: 3e-4\nepochs: 4\n")
    assert override(BASE, read_overrides(file)).epochs == 4
    file.write_text("- 1\n")
    with pytest.raises(UserError, match="expected a mapping"):
        read_overrides(file)
    file.write_text("a: [")
    with pytest.raises(UserError, match="cannot be read"):
        read_overrides(file)
    file.write_bytes("licence: 自分".encode("shift-jis"))
    with pytest.raises(UserError, match="save it as UTF-8"):
        read_overrides(file)
