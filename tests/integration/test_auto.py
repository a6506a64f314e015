"""``import memomalloc.auto`` as a program's first line."""

from __future__ import annotations

from child_process import in_child_process


@in_child_process()
def test_the_outermost_module_is_planned_and_only_it() -> None:
    import torch

    import memomalloc.auto
    from memomalloc.runtime.models.outermost_calls import OutermostCall
    from models import conv_net, images
    from serving import assert_equal_bits, lies_in_an_arena

    module, twin = conv_net(), conv_net()
    with torch.inference_mode():
        expected = [twin(images(seed)) for seed in range(12)]
        for seed, result in enumerate(expected):
            output = module(images(seed))
            assert_equal_bits(output, result)
        assert lies_in_an_arena(output)
    assert isinstance(module._compiled_call_impl, OutermostCall)
    assert all(child._compiled_call_impl is None for child in module.children())
    stats = memomalloc.stats(module)
    assert stats.runs_replayed == 10
    assert stats.served_share == 1.0


@in_child_process()
def test_long_calls_are_replayed_from_the_third_one_on() -> None:
    import torch

    import memomalloc.auto

    model = torch.nn.Sequential(*(torch.nn.Conv2d(16, 16, 3, padding=1) for _ in range(6)))
    images = torch.randn(1, 16, 512, 512)
    with torch.inference_mode():
        for _ in range(6):
            model(images)
    stats = memomalloc.stats(model)
    assert stats.runs_replayed == 4
    assert stats.served_share == 1.0


@in_child_process()
def test_a_module_that_is_also_called_alone_has_plans_for_both() -> None:
    import torch

    import memomalloc.auto
    from models import conv_net, images
    from serving import assert_equal_bits

    module, twin = conv_net(), conv_net()
    with torch.inference_mode():
        for seed in range(12):
            assert_equal_bits(module.first(images(seed)), twin.first.forward(images(seed)))
            assert_equal_bits(module(images(seed)), twin(images(seed)))
    assert memomalloc.stats(module).runs_replayed >= 8
    assert memomalloc.stats(module.first).runs_replayed >= 8


@in_child_process()
def test_exceptions_leave_the_module_callable() -> None:
    import pytest
    import torch

    import memomalloc.auto
    from models import Chain, chain_values
    from serving import assert_equal_bits

    def visit(step: int, values: torch.Tensor) -> None:
        if fails and step == 3:
            raise ValueError("in the middle")

    module = Chain(visit=visit)
    for call in range(20):
        fails = call % 3 == 0
        if fails:
            with pytest.raises(ValueError, match="in the middle"):
                module(chain_values(call))
        else:
            assert_equal_bits(module(chain_values(call)), Chain().forward(chain_values(call)))
    assert memomalloc.stats(module).runs_replayed > 0


@in_child_process()
def test_modules_that_are_gone_take_their_plans_along() -> None:
    import gc

    import torch

    import memomalloc.auto

    for _ in range(5):
        module = torch.nn.Linear(64, 64)
        for _ in range(6):
            module(torch.ones(64))
        del module
        gc.collect()
    stats = memomalloc.stats()
    assert stats.runs_replayed == 20
    assert stats.num_plans == stats.num_regions == 0


@in_child_process(env={"MEMOMALLOC_DISABLE": "1"})
def test_disabled_it_does_nothing() -> None:
    import torch

    before = torch.nn.Module.__call__
    import memomalloc.auto

    assert torch.nn.Module.__call__ is before
    assert memomalloc.stats().num_plans == 0
