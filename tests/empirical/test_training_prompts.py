"""Training prompts: tensors answer as the tasks do, pools hold what tasks answer, and prompts are as they are said."""

from collections import Counter
from itertools import islice, product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from construct.errors import TaskError
from construct.prompts import Example, Layout, Prompt
from construct.suites import build_suite
from construct.tasks import Format, SumTask, TableTask, TaskSet
from empirical.training.pools import TaskTensors, task_tensors
from empirical.training.prompts import Sampler
from tests.construct.strategies import task_sets


def _sampler(task_set: TaskSet, examples: int, *, mixed: float = 0.0, label_noise: float = 0.0) -> Sampler:
    layout = Layout(len(task_set.alphabet), task_set.inputs, examples)
    return Sampler(task_tensors(task_set), layout, mixed, label_noise)


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _tensors(task_set: TaskSet) -> TaskTensors | None:
    """The tensors; None for the sets of which no input has an answer by every task."""
    try:
        return task_tensors(task_set)
    except TaskError:
        answered = (
            all(task.answer(inputs) is not None for task in task_set.tasks)
            for inputs in product(range(len(task_set.alphabet)), repeat=task_set.inputs)
        )
        assert not any(answered)
        return None


@settings(max_examples=40)
@given(task_set=task_sets(most_inputs=3), seed=st.integers(0, 100))
def test_tensors_answer_as_the_tasks_do(task_set: TaskSet, seed: int) -> None:
    tensors = _tensors(task_set)
    if tensors is None:
        return
    inputs = torch.randint(len(task_set.alphabet), (5, 7, task_set.inputs), generator=_generator(seed))
    found = tensors.all_answers(inputs)
    for place in product(range(5), range(7)):
        answers = [task.answer(inputs[place].tolist()) for task in task_set.tasks]
        assert found[place].tolist() == [-1 if answer is None else answer for answer in answers]


@settings(max_examples=40)
@given(task_set=task_sets(most_inputs=3), seed=st.integers(0, 100))
def test_a_pool_holds_what_its_tasks_answer(task_set: TaskSet, seed: int) -> None:
    tensors = _tensors(task_set)
    if tensors is None:
        return
    sampler = Sampler(tensors, Layout(len(task_set.alphabet), task_set.inputs, 4))
    for pool in range(len(task_set.tasks) + 1):
        drawn = sampler.inputs(torch.full((11,), pool), _generator(seed))
        answers = tensors.all_answers(drawn)
        assert (answers >= 0).all() if pool == len(task_set.tasks) else (answers[..., pool] >= 0).all()


def test_every_input_of_a_pool_is_drawn() -> None:
    # One table with every row, one with three rows on two positions, and a sum without some totals.
    tasks = (
        TableTask("first", (0,), {(token,): token for token in range(3)}),
        TableTask("pairs", (0, 2), {(0, 1): 2, (1, 1): 0, (2, 2): 1}),
        SumTask("sum", (0, 1), {0: 0, 1: 1, 2: 2}, {0: 0, 1: 1, 4: 2}),
    )
    task_set = TaskSet("parts", ("a", "b", "c"), 3, Format(), tasks)
    sampler = _sampler(task_set, 19)
    for pool, kept in enumerate([*([task] for task in tasks), tasks]):
        drawn = sampler.inputs(torch.full((400,), pool), _generator()).flatten(0, 1).tolist()
        # No task reads token 0 at position 2, where it is therefore not drawn.
        expected = {
            inputs
            for inputs in product(range(3), range(3), (1, 2))
            if all(task.answer(inputs) is not None for task in kept)
        }
        assert set(map(tuple, drawn)) == expected


@pytest.mark.parametrize("suite", ["retrieval", "lookup", "plus", "country", "letters", "copy_add", "add_translate"])
def test_a_prompt_reads_back_as_examples_of_one_task(suite: str) -> None:
    task_set = build_suite(suite)
    sampler = _sampler(task_set, 5)
    ids = sampler.draw(13, _generator())
    n = task_set.inputs
    assert ids.shape == (13, sampler.layout.positions + 1)
    for row in ids.tolist():
        blocks = [row[1 + start : 1 + start + n + 2] for start in range(0, 6 * (n + 2), n + 2)]
        *examples, last = [Example(tuple(block[:n]), block[n + 1]) for block in blocks]
        assert sampler.layout.ids(Prompt(tuple(examples), last.inputs)) == row[:-1]
        explained = [all(task.answer(one.inputs) == one.answer for one in (*examples, last)) for task in task_set.tasks]
        assert any(explained)


def test_every_task_has_its_share_of_the_prompts() -> None:
    sampler = _sampler(build_suite("retrieval", tasks=3, alphabet_size=61, inputs=3), 4)
    ids = sampler.draw(3000, _generator())
    blocks = ids[:, 1:].reshape(3000, 5, 5)
    of_task = [(blocks[..., task] == blocks[..., 4]).all(1).float().mean().item() for task in range(3)]
    assert of_task == pytest.approx([1 / 3] * 3, abs=4 * (2 / 9 / 3000) ** 0.5)  # four standard deviations


def test_mixed_prompts_have_the_share_asked_for_and_uniform_weights() -> None:
    sampler = _sampler(build_suite("retrieval", tasks=2, alphabet_size=61, inputs=2), 19, mixed=0.5)
    count = 4000
    blocks = sampler.draw(count, _generator())[:, 1:].reshape(count, 20, 4)
    first = (blocks[..., 0] == blocks[..., 3]) & (blocks[..., 1] != blocks[..., 3])
    second = (blocks[..., 1] == blocks[..., 3]) & (blocks[..., 0] != blocks[..., 3])
    several = first.any(1) & second.any(1)
    # A uniform weight w shows one task alone in 20 examples with probability 2 E[w^20] = 2/21, of the mixed half.
    expected = 0.5 * (1 - 2 / 21)
    assert several.float().mean().item() == pytest.approx(expected, abs=4 * (0.25 / count) ** 0.5 + 0.01)
    shares = first[several].float().mean(1)
    assert shares.mean().item() == pytest.approx(0.5, abs=0.03)
    # A uniform weight has uniform counts, here 1 .. 19: their variance is (19^2 - 1)/12. A weight of 1/2 has 20/4.
    assert shares.var().item() == pytest.approx((19**2 - 1) / 12 / 400, abs=0.01)


def test_label_noise_replaces_that_share_of_answers() -> None:
    task_set = build_suite("plus", tasks=1, alphabet_size=50)
    blocks = _sampler(task_set, 30, label_noise=0.3).draw(500, _generator())[:, 1:].reshape(500, 31, 3)
    wrong = (blocks[..., 2] != blocks[..., 0] + 1).float().mean().item()
    assert wrong == pytest.approx(0.3 * 49 / 50, abs=4 * (0.21 / 15_500) ** 0.5)


@pytest.mark.parametrize("mixed", [0.0, 1.0])
def test_inputs_of_one_token_do_not_come_twice_in_a_prompt(mixed: float) -> None:
    task_set = build_suite("plus", tasks=3, alphabet_size=23)
    inputs = _sampler(task_set, 19, mixed=mixed).draw(40, _generator())[:, 1::3]
    assert inputs.shape == (40, 20)
    assert all(len(set(row)) == 20 for row in inputs.tolist())


def test_where_they_are_too_few_they_come_again() -> None:
    inputs = _sampler(build_suite("plus", tasks=3, alphabet_size=23), 20).draw(40, _generator())[:, 1::3]
    assert inputs.shape == (40, 21)
    assert any(len(set(row)) < 21 for row in inputs.tolist())


def test_the_generator_decides_the_prompts() -> None:
    sampler = _sampler(build_suite("retrieval"), 7, mixed=0.5, label_noise=0.1)
    generator = _generator(3)
    first, second = sampler.draw(9, generator), sampler.draw(9, generator)
    again = _generator(3)
    assert torch.equal(sampler.draw(9, again), first)
    state = again.get_state()
    assert torch.equal(sampler.draw(9, again), second)
    assert torch.equal(sampler.draw(9, _generator().set_state(state)), second)
    assert not torch.equal(first, second)


def test_tasks_without_a_common_input_are_refused() -> None:
    tasks = (TableTask("a", (0,), {(0,): 1}), TableTask("b", (0,), {(1,): 0}))
    with pytest.raises(TaskError, match="no input has an answer by every task of 'apart'"):
        task_tensors(TaskSet("apart", ("x", "y"), 1, Format(), tasks))


def test_a_table_that_cannot_be_numbered_is_refused() -> None:
    alphabet = tuple(map(str, range(64)))
    wide = TableTask("wide", tuple(range(11)), {(0,) * 11: 1})
    with pytest.raises(TaskError, match="'wide' reads 11 of 64 tokens"):
        task_tensors(TaskSet("wide", alphabet, 11, Format(), (wide,)))


def test_tokens_of_a_position_are_drawn_alike() -> None:
    ids = _sampler(build_suite("retrieval", tasks=2, alphabet_size=7, inputs=2), 9).draw(700, _generator())
    counts = Counter(islice(ids[:, 1::4].flatten().tolist(), 7000))
    assert sorted(counts) == list(range(7))
    assert all(count == pytest.approx(1000, abs=4 * (7000 * 6 / 49) ** 0.5) for count in counts.values())
