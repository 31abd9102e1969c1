"""Threads that share a model or a bank."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from conftest import random_states

from captum_rdr import RelaxedDecisionRegion
from captum_rdr.bank import bits


def test_eight_threads_attribute_on_one_model(net, images):
    """They wait for each other, and the model and random states are left alone."""
    rdrs = [
        RelaxedDecisionRegion(net, net[layer]).fit(images, show_progress=False)
        for layer in (2, 6)
    ]
    modes = [module.training for module in net.modules()]
    expected = [[rdr.attribute(x[None], 4, 3)[0] for x in images] for rdr in rdrs]
    state = torch.get_rng_state()

    def ask(number):
        rdr, x = rdrs[number % 2], images[number // 2]
        mask, _ = rdr.attribute(x[None], 4, 3)
        return mask.equal(expected[number % 2][number // 2])

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(2 * len(images))))
    assert [module.training for module in net.modules()] == modes
    assert not any(module._forward_hooks for module in net.modules())
    assert torch.get_rng_state().equal(state)


def test_a_thread_that_only_runs_the_model_is_neither_recorded_nor_cut_short(
    net, images
):
    net.eval()
    rdr = RelaxedDecisionRegion(net, net[2]).fit(images, show_progress=False)
    expected, outputs = rdr.bank.rows.clone(), net(images[:3]).detach()
    stop, wrong = threading.Event(), []

    def infer():
        with torch.no_grad():
            while not stop.is_set():
                if not net(images[:3]).equal(outputs):
                    wrong.append(1)

    thread = threading.Thread(target=infer)
    thread.start()
    try:
        for _ in range(5):
            rdr.fit(images.split(9), show_progress=False)
            assert rdr.bank.rows.equal(expected)
    finally:
        stop.set()
        thread.join()
    assert not wrong


def test_a_thread_that_fails_lets_the_next_one_in(net, images):
    rdr = RelaxedDecisionRegion(net, net[2]).fit(images, show_progress=False)

    def fail():
        with pytest.raises(RuntimeError):
            rdr.attribute(torch.randn(2, 5, 3, 3))

    with ThreadPoolExecutor(1) as pool:
        pool.submit(fail).result()
    assert len(rdr.attribute(images[:2], 4, 3)[1]) == 2


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("n", [1, 2, 700])
def test_distances_do_not_depend_on_the_number_of_threads(threads, n):
    states = random_states(n, 12_800)
    rows, before = bits.pack(states), torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        found = bits.hamming(rows[:5], rows)
    finally:
        torch.set_num_threads(before)
    one, other = states[:5].float(), states.float()
    expected = one @ (1 - other).T + (1 - one) @ other.T
    assert found.equal(expected.int())
