"""Processes that load data: what goes wrong in them arrives as one sentence."""

import pytest
from torch.utils.data import DataLoader

from cache_schema.host.cli import InputError
from cache_schema.host.system import SystemTrouble
from train.data import workers


class Failing:
    """A data set with one bad sample."""

    def __init__(self, error):
        self.error = error

    def __len__(self):
        return 4

    def __getitem__(self, index):
        if index == 2:
            raise self.error
        return index


class Unshareable:
    """What cannot be handed over to another process."""

    def __reduce__(self):
        raise OSError(28, "No space left on device")


def load(dataset, **options):
    with workers.one_sentence():
        return list(DataLoader(dataset, worker_init_fn=workers.start, num_workers=1, **options))


@pytest.mark.parametrize("kind", [InputError, SystemTrouble])
def test_bad_input_is_the_sentence_that_it_was(kind):
    with pytest.raises(kind) as raised:
        load(Failing(kind("a: b is wrong; mend it")))
    assert str(raised.value) == "a: b is wrong; mend it"


@pytest.mark.parametrize("error", [MemoryError("no room"), OSError(24, "Too many open files")])
def test_an_error_of_the_system_is_a_sentence(error):
    with pytest.raises(SystemTrouble) as raised:
        load(Failing(error))
    assert str(error) in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "text",
    [
        "unable to allocate shared memory(shm) for file </torch_1_2>: No space left on device (28)",
        "Too many open files. Communication with the workers is no longer possible.",
        "received 0 items of ancdata",
    ],
)
def test_what_torch_says_of_limits_names_the_setting(text):
    with pytest.raises(SystemTrouble, match="data.num_workers=0"), workers.one_sentence():
        raise RuntimeError(text)


def test_a_batch_that_cannot_be_handed_over_is_not_waited_for():
    class Samples(list):
        pass

    with pytest.raises(SystemTrouble, match="has ended.*data.num_workers=0"):
        load(Samples([Unshareable()]), collate_fn=list)


def test_a_mistake_of_ours_stays_one():
    with pytest.raises(ZeroDivisionError):
        load(Failing(ZeroDivisionError("x")))
    with pytest.raises(RuntimeError, match="of the model"), workers.one_sentence():
        raise RuntimeError("of the model")
