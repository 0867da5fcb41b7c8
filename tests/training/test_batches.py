"""Which samples a step sees: every one once an epoch, in an order that depends on nothing but the seed."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from skipdit.training.batches import batch_indices

sizes = st.integers(1, 12)


def order(steps: int, **sizes) -> torch.Tensor:
    return torch.cat([batch_indices(step, **sizes) for step in range(steps)])


@given(dataset_size=sizes, batch_size=sizes, seed=st.integers(0, 3))
def test_every_epoch_visits_every_sample_once(dataset_size, batch_size, seed):
    epochs = 3
    steps = -(-epochs * dataset_size // batch_size)
    visited = order(steps, dataset_size=dataset_size, batch_size=batch_size, seed=seed)
    for epoch in visited[: epochs * dataset_size].split(dataset_size):
        assert epoch.sort().values.tolist() == list(range(dataset_size))


@given(dataset_size=sizes, batch_size=sizes)
def test_the_batch_size_does_not_change_the_order(dataset_size, batch_size):
    one_by_one = order(3 * batch_size, dataset_size=dataset_size, batch_size=1, seed=0)
    assert torch.equal(order(3, dataset_size=dataset_size, batch_size=batch_size, seed=0), one_by_one)


def test_epochs_and_seeds_have_orders_of_their_own():
    epochs = [
        batch_indices(step, dataset_size=100, batch_size=100, seed=seed) for step in range(2) for seed in range(2)
    ]
    assert len({tuple(epoch.tolist()) for epoch in epochs}) == 4
