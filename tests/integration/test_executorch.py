"""Programs of the real ExecuTorch whose memory memomalloc plans: run by ExecuTorch's runtime, equal bit for bit.

Skipped where executorch is not installed; `make executorch` has an environment for it.
"""

from __future__ import annotations

import copy
import itertools
import random
import runpy
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("executorch.exir")
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from executorch.exir import EdgeCompileConfig, ExecutorchBackendConfig, to_edge  # noqa: E402
from executorch.exir.memory_planning import MemoryPlanningAlgorithmSuite, Verifier, greedy  # noqa: E402
from executorch.exir.passes import MemoryPlanningPass  # noqa: E402
from executorch.exir.tensor import TensorSpec  # noqa: E402
from executorch.runtime import Runtime  # noqa: E402

from memomalloc.bench.compiler_models import _dense_net  # noqa: E402
from memomalloc.bench.executorch import measure  # noqa: E402
from memomalloc.bench.model import Model  # noqa: E402
from memomalloc.bench.workload import Workload, same_bits  # noqa: E402
from memomalloc.errors import CapacityError, InvalidProblemError  # noqa: E402
from memomalloc.integrations.executorch import PlanningAlgorithm, memory_planning_pass  # noqa: E402

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    # Of torch and of the compiler itself.
    pytest.mark.filterwarnings("ignore"),
]


def images(model: Any, size: int = 64, channels: int = 3) -> Workload:
    return Workload(model, {"pixel_values": torch.randn(1, channels, size, size)})


def tokens(model: Any, length: int = 16) -> Workload:
    vocabulary = model.config.vocab_size
    return Workload(model, {"input_ids": torch.randint(0, vocabulary, (1, length))})


def small(**changes: Any) -> dict[str, Any]:
    """What makes the configuration of a text model small."""
    return {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "vocab_size": 200,
        **changes,
    }


T = transformers
RESNET = {"embedding_size": 16, "hidden_sizes": [16, 32, 64], "depths": [2, 2, 2]}
MODELS: dict[str, Callable[[], Workload]] = {
    "mobilenet_v2": lambda: images(T.MobileNetV2ForImageClassification(T.MobileNetV2Config(depth_multiplier=0.35))),
    "mobilenet_v1": lambda: images(T.MobileNetV1ForImageClassification(T.MobileNetV1Config(depth_multiplier=0.25))),
    "resnet": lambda: images(T.ResNetForImageClassification(T.ResNetConfig(**RESNET))),
    "regnet": lambda: images(T.RegNetForImageClassification(T.RegNetConfig(groups_width=8, **RESNET))),
    "densenet": lambda: Workload(_dense_net(8, (3, 4, 3)), torch.randn(1, 3, 64, 64)),
    "convnext": lambda: images(
        T.ConvNextForImageClassification(T.ConvNextConfig(hidden_sizes=[16, 32, 48, 64], depths=[1, 1, 2, 1]))
    ),
    "vit": lambda: images(
        T.ViTForImageClassification(
            T.ViTConfig(
                image_size=64, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4
            )
        )
    ),
    "swin": lambda: images(
        T.SwinForImageClassification(
            T.SwinConfig(image_size=64, embed_dim=24, depths=[1, 1], num_heads=[2, 4], window_size=4)
        )
    ),
    "bert": lambda: tokens(T.BertForSequenceClassification(T.BertConfig(**small()))),
    "albert": lambda: tokens(T.AlbertModel(T.AlbertConfig(embedding_size=32, **small()))),
    "distilbert": lambda: tokens(
        T.DistilBertModel(T.DistilBertConfig(vocab_size=200, dim=64, hidden_dim=128, n_layers=2, n_heads=4))
    ),
    "gpt2": lambda: tokens(
        T.GPT2LMHeadModel(T.GPT2Config(n_embd=64, n_layer=2, n_head=4, vocab_size=200, use_cache=False))
    ),
    "llama": lambda: tokens(T.LlamaForCausalLM(T.LlamaConfig(use_cache=False, **small()))),
    "t5_encoder": lambda: tokens(
        T.T5EncoderModel(T.T5Config(d_model=64, d_kv=16, d_ff=128, num_layers=2, num_heads=4, vocab_size=200))
    ),
}


def exported(module: Any, inputs: tuple[Any, ...]) -> Any:
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return to_edge(
            torch.export.export(module.eval(), inputs, strict=False),
            compile_config=EdgeCompileConfig(_check_ir_validity=False),
        )


def lowered(edge: Any, planning_pass: Any = None, **config: Any) -> Any:
    """A program of its own; ExecuTorch changes what it lowers."""
    if planning_pass is not None:
        config["memory_planning_pass"] = planning_pass
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return copy.deepcopy(edge).to_executorch(ExecutorchBackendConfig(**config))


class Method:
    """A loaded program: what it holds keeps its state from call to call."""

    def __init__(self, program: Any) -> None:
        self._program = Runtime.get().load_program(program.buffer)
        self._method = self._program.load_method("forward")

    def __call__(self, *inputs: Any) -> list[Any]:
        return [output.clone() for output in self._method.execute(list(inputs))]


def buffer_sizes(program: Any) -> list[int]:
    (plan,) = program.executorch_program.execution_plan
    return list(plan.non_const_buffer_sizes)


@pytest.mark.parametrize("name", MODELS)
def test_a_model_computes_the_same_in_no_more_bytes(name: str) -> None:
    torch.manual_seed(0)
    module, inputs = MODELS[name]().exportable()
    edge = exported(module, inputs)
    own = lowered(edge, MemoryPlanningPass())
    algorithm = PlanningAlgorithm()
    planned = lowered(edge, memory_planning_pass(algorithm))
    assert sum(buffer_sizes(planned)) <= sum(buffer_sizes(own))
    (bank,) = algorithm.banks
    assert buffer_sizes(planned) == [0, bank.size_bytes]
    assert len(bank.plan) > 20
    run_own, run_planned = Method(own), Method(planned)
    for _ in range(2):
        assert same_bits(run_planned(*inputs), run_own(*inputs))


@pytest.mark.parametrize("name", ["bert", "densenet"])
def test_executorchs_own_verifier_agrees(name: str) -> None:
    module, inputs = MODELS[name]().exportable()
    graphs = []

    class Kept(MemoryPlanningPass):
        def run(self, graph_module: Any, graph_signature: Any = None) -> Any:
            graphs.append((graph_module, graph_signature))
            return super().run(graph_module, graph_signature)

    lowered(exported(module, inputs), Kept(PlanningAlgorithm().place))
    ((graph_module, signature),) = graphs
    verifier = Verifier(graph_module, True, True, True, signature)
    assert verifier.verify_storage_reuse() > 20


def test_there_are_ten_models() -> None:
    assert len(MODELS) >= 10


class TwoPaths(torch.nn.Module):
    def forward(self, x: Any) -> Any:
        y = torch.relu(x @ x)
        return (y + x).sigmoid() @ torch.cat([x, y], 1)[:, :8] + y.tanh()


@pytest.mark.parametrize(("alloc_input", "alloc_output"), itertools.product([True, False], [True, False]))
@pytest.mark.parametrize("alignment", [16, 64, 1024])
def test_inputs_and_outputs_may_be_the_callers(alloc_input: bool, alloc_output: bool, alignment: int) -> None:
    inputs = (torch.randn(8, 8),)
    edge = exported(TwoPaths(), inputs)
    options = {"alloc_graph_input": alloc_input, "alloc_graph_output": alloc_output, "alignment": alignment}
    own, planned = lowered(edge, MemoryPlanningPass(**options)), lowered(edge, memory_planning_pass(**options))
    assert sum(buffer_sizes(planned)) <= sum(buffer_sizes(own))
    if alloc_output:
        assert same_bits(Method(planned)(*inputs), Method(own)(*inputs))


class Counter(torch.nn.Module):
    """A buffer that keeps its value from call to call, beside tensors that come and go."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("total", torch.zeros(6, 6))

    def forward(self, x: Any) -> Any:
        y = torch.relu(x @ x)
        self.total.add_(y @ x)
        return (self.total + y).sum(0) * torch.tanh(y)


@pytest.mark.parametrize("config", [{}, {"run_reinplace_pass": True}], ids=["plain", "reinplaced"])
def test_a_mutable_buffer_keeps_its_bytes_between_calls(config: dict[str, Any]) -> None:
    edge = exported(Counter(), (torch.randn(6, 6),))
    own, planned = (
        Method(lowered(edge, MemoryPlanningPass(), **config)),
        Method(lowered(edge, memory_planning_pass(), **config)),
    )
    for seed in range(4):
        torch.manual_seed(seed)
        x = torch.randn(6, 6)
        assert same_bits(planned(x), own(x))
    # The first call's result differs from that of the same call later, so that the state is seen.
    torch.manual_seed(0)
    first = Method(lowered(edge, memory_planning_pass(), **config))(torch.randn(6, 6))
    torch.manual_seed(0)
    assert not same_bits(first, planned(torch.randn(6, 6)))


class Branches(torch.nn.Module):
    """Subgraphs with tensors of their own, while those of the graph around them are alive."""

    def forward(self, choose: Any, x: Any) -> Any:
        y = torch.relu(x @ x)

        def left(a: Any, b: Any) -> Any:
            c = a @ b
            return (c.sigmoid() @ a).tanh() + c

        def right(a: Any, b: Any) -> Any:
            return torch.cat([a, b], 0)[:8] * 2.0

        z = torch.cond(choose, left, right, [x, y])
        return (z + y) @ x


class Mapped(torch.nn.Module):
    def forward(self, xs: Any, y: Any) -> Any:
        from torch._higher_order_ops.map import map as map_rows

        held = torch.relu(y + 1.0)
        mapped = map_rows(lambda x, y: (x * y).sigmoid() + y, xs, y)
        return mapped * held


def test_subgraphs_of_control_flow_keep_their_own_bytes() -> None:
    x = torch.randn(8, 8)
    edge = exported(Branches(), (torch.tensor(True), x))
    algorithm = PlanningAlgorithm()
    own, planned = lowered(edge, MemoryPlanningPass()), lowered(edge, memory_planning_pass(algorithm))
    assert sum(buffer_sizes(planned)) <= sum(buffer_sizes(own))
    *branches, whole = algorithm.banks
    assert len(branches) == 2
    # Both branches lie at one place, which is the last buffer of the graph around them.
    assert whole.plan.sizes[-1] == max(bank.size_bytes for bank in branches) > 0
    run_own, run_planned = Method(own), Method(planned)
    for choose in (True, False, True):
        assert same_bits(run_planned(torch.tensor(choose), x), run_own(torch.tensor(choose), x))


class BranchesInTurn(torch.nn.Module):
    """Results of branches that are read after other branches ran, one of them within a branch."""

    def forward(self, choose: Any, x: Any) -> Any:
        def nested(x: Any) -> Any:
            inner = torch.cond(choose, lambda x: x @ x, lambda x: x.tanh(), [x])
            return inner.sigmoid() + torch.cond(choose, lambda x: x - 7.0, lambda x: x * 5.0, [x]) * inner

        first = torch.cond(choose, lambda x: (x + 1.0) * x, lambda x: x * 3.0, [x])
        second = torch.cond(choose, nested, lambda x: x - 2.0, [x])
        third = torch.cond(choose, lambda x: x * x, nested, [second])
        return first * 10.0 + second * 100.0 + third


def test_results_of_branches_outlive_other_branches() -> None:
    # ExecuTorch's own plan lets later branches write over them: the program itself is the judge here.
    model, x = BranchesInTurn(), torch.randn(6, 6)
    method = Method(lowered(exported(model, (torch.tensor(True), x)), memory_planning_pass()))
    for choose in (True, False, True):
        (result,) = method(torch.tensor(choose), x)
        torch.testing.assert_close(result, model(torch.tensor(choose), x))


def test_in_a_suite_subgraphs_lie_below_the_graph_that_calls_them() -> None:
    x = torch.randn(8, 8)
    edge = exported(Branches(), (torch.tensor(True), x))
    algorithm = PlanningAlgorithm()
    suite = MemoryPlanningPass(MemoryPlanningAlgorithmSuite([greedy, algorithm]))
    run_own, run_planned = Method(lowered(edge, MemoryPlanningPass())), Method(lowered(edge, suite))
    *branches, whole = algorithm.banks
    assert whole.start_bytes == max(bank.size_bytes for bank in branches) > 0
    for choose in (True, False):
        assert same_bits(run_planned(torch.tensor(choose), x), run_own(torch.tensor(choose), x))


def test_a_mapped_subgraph_keeps_its_inputs() -> None:
    inputs = (torch.randn(5, 8), torch.randn(8))
    edge = exported(Mapped(), inputs)
    own, planned = Method(lowered(edge, MemoryPlanningPass())), Method(lowered(edge, memory_planning_pass()))
    for _ in range(2):
        assert same_bits(planned(*inputs), own(*inputs))


class ToBanks(MemoryPlanningPass):
    """Puts every third tensor into bank 3, as a pass of a backend with a scratchpad would."""

    def run(self, graph_module: Any, graph_signature: Any = None) -> Any:
        specs = []
        for node in graph_module.graph.nodes:
            found = node.meta.get("spec")
            if isinstance(found, TensorSpec) and found not in specs:
                specs.append(found)
        for spec in specs[::3]:
            spec.mem_id = 3
        return super().run(graph_module, graph_signature)


def test_banks_are_planned_each_for_itself() -> None:
    inputs = (torch.randn(8, 8),)
    edge = exported(TwoPaths(), inputs)
    config = {"enable_non_cpu_memory_planning": False}
    algorithm = PlanningAlgorithm()
    own = lowered(edge, ToBanks(), **config)
    planned = lowered(edge, ToBanks(MemoryPlanningAlgorithmSuite([algorithm])), **config)
    assert {bank.mem_id for bank in algorithm.banks} == {1, 3}
    sizes = buffer_sizes(planned)
    assert len(sizes) == 4
    assert sizes[0] == sizes[2] == 0
    assert all(size <= other for size, other in zip(sizes, buffer_sizes(own), strict=True))
    assert same_bits(Method(planned)(*inputs), Method(own)(*inputs))


def test_a_bank_that_is_too_small_is_named() -> None:
    edge = exported(TwoPaths(), (torch.randn(8, 8),))
    (bank,) = _banks(edge)
    fitting = memory_planning_pass(PlanningAlgorithm(capacities={1: bank.size_bytes}))
    assert buffer_sizes(lowered(edge, fitting)) == [0, bank.size_bytes]
    with pytest.raises(CapacityError, match=r"bank 1 of 16 bytes is too small: no plan exists") as caught:
        lowered(edge, memory_planning_pass(PlanningAlgorithm(capacities={1: 16})))
    assert caught.value.proven


def _banks(edge: Any) -> list[Any]:
    algorithm = PlanningAlgorithm()
    lowered(edge, memory_planning_pass(algorithm))
    return algorithm.banks


def test_programs_with_delegates_get_the_padding_of_xnnpack() -> None:
    partitioner = pytest.importorskip("executorch.backends.xnnpack.partition.xnnpack_partitioner").XnnpackPartitioner()
    torch.manual_seed(1)
    module, inputs = MODELS["mobilenet_v1"]().exportable()
    edge = exported(module, inputs).to_backend(partitioner)
    algorithm = PlanningAlgorithm()
    own, planned = lowered(edge, MemoryPlanningPass()), lowered(edge, memory_planning_pass(algorithm))
    assert algorithm.banks[-1].padding_bytes == 64
    assert sum(buffer_sizes(planned)) <= sum(buffer_sizes(own))
    assert same_bits(Method(planned)(*inputs), Method(own)(*inputs))


def test_the_example(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(Path(__file__).parents[2] / "examples" / "executorch_program.py"), run_name="__main__")
    *sizes, last = capsys.readouterr().out.splitlines()
    own, planned = (int(line.split()[1]) for line in sizes[-2:])
    assert planned < own
    assert last == f"lower bound: {planned} bytes; equal outputs: True"


def test_the_benchmark() -> None:
    model = Model("small", lambda batch, size: MODELS["bert"](), (16,), "tokens")
    row = measure(model)
    assert row.same_bits is True
    assert row.lower_bound_bytes <= row.planned_bytes <= row.own_bytes
    assert row.num_tensors > 20
    assert row.planning_ms > 0


def test_two_algorithms_in_one_suite() -> None:
    inputs = (torch.randn(8, 8),)
    edge = exported(TwoPaths(), inputs)
    suite = MemoryPlanningAlgorithmSuite([greedy, PlanningAlgorithm()])
    program = lowered(edge, MemoryPlanningPass(suite))
    assert buffer_sizes(program) == buffer_sizes(lowered(edge, memory_planning_pass()))


# --- tensors made up, for what graphs rarely have ------------------------------------------------------------------


class Graph:
    """As much of a graph as an algorithm looks at."""

    def __init__(self, *reserved: int) -> None:
        self.input_mem_buffer_sizes = list(reserved)


def tensor(num_bytes: int, first: int, last: int, mem_id: int | None = None) -> TensorSpec:
    spec = TensorSpec(torch.uint8, torch.Size([num_bytes]))
    spec.lifetime = [first, last]
    spec.mem_id = mem_id
    return spec


def alias(base: TensorSpec, num_bytes: int, offset: int = 0) -> TensorSpec:
    spec = tensor(num_bytes, base.lifetime[0], base.lifetime[1])
    spec.storage_base, spec.storage_base_offset = base, offset
    return spec


def run(specs: Iterable[TensorSpec], *reserved: int, alignment: int = 16, padding: int = 0, **how: Any) -> Any:
    return PlanningAlgorithm(**how)(alignment, list(specs), Graph(*reserved), None, padding)


def places(result: Any, specs: Iterable[TensorSpec]) -> list[tuple[int, int]]:
    return [(result.spec_dict[spec].mem_id, result.spec_dict[spec].mem_offset) for spec in specs]


def test_aliases_lie_in_their_storage_whatever_comes_first() -> None:
    base = tensor(256, 0, 5, mem_id=2)
    middle = alias(base, 128, 64)
    inner = alias(middle, 16, 32)
    other = tensor(64, 3, 9, mem_id=2)
    specs = [inner, other, middle, base]
    result = run(specs)
    (_, offset) = places(result, [base])[0]
    assert places(result, [middle, inner]) == [(2, offset + 64), (2, offset + 96)]
    assert result.bufsizes == [0, 0, 320]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda base: alias(base, 128, 192), "are not within the 256 bytes"),
        (lambda base: alias(base, 16, -16), "are not within"),
        (lambda base: alias(base, 16, 8), "not a multiple of the alignment"),
    ],
)
def test_an_alias_that_cannot_be_is_refused(make: Callable[[Any], Any], message: str) -> None:
    base = tensor(256, 0, 5)
    with pytest.raises(InvalidProblemError, match=message):
        run([base, make(base)])


def test_an_alias_of_what_is_not_planned_is_refused() -> None:
    base = tensor(256, 0, 5)
    with pytest.raises(InvalidProblemError, match="alloc_graph_input"):
        run([alias(base, 16)])
    one, other = tensor(16, 0, 1), tensor(16, 0, 1)
    one.storage_base, other.storage_base = other, one
    with pytest.raises(InvalidProblemError, match="leads back to itself"):
        run([one, other])


def test_padding_and_what_subgraphs_use() -> None:
    specs = [tensor(100, 0, 1), tensor(60, 1, 2)]
    # The 1000 bytes of subgraphs end in the padding of theirs, which is no multiple of 64.
    result = run(specs, 0, 1000, 40, alignment=64, padding=64)
    assert min(offset for _, offset in places(result, specs)) == 1024
    assert result.bufsizes == [0, 1024 + 192 + 64, 40]
    assert run([], 0, 1000).bufsizes == [0, 1000]
    assert run([]).bufsizes == [0, 0]
    with pytest.raises(CapacityError, match="beside 1088 bytes of subgraphs and padding"):
        run(specs, 0, 1000, alignment=64, padding=64, capacities={1: 1216})


def test_no_worse_than_executorch_and_never_two_at_one_place() -> None:
    for seed in range(300):
        draw = random.Random(seed)
        specs = []
        for _ in range(draw.randrange(1, 40)):
            first = draw.randrange(30)
            mem_id = draw.choice([None, 1, 2])
            specs.append(
                tensor(draw.choice([0, 1, 16, 100, draw.randrange(2000)]), first, first + draw.randrange(8), mem_id)
            )
        for base in draw.sample(specs, len(specs) // 4):
            half = base.nbytes() // 32 * 16
            specs.append(alias(base, half, draw.choice([0, half])))
        reserved = [0, draw.choice([0, 48])]
        padding = draw.choice([0, 64])
        own = greedy(16, specs, Graph(*reserved), None, padding)
        result = run(specs, *reserved, padding=padding, time_limit_s=0.05)
        assert len(result.bufsizes) == len(own.bufsizes)
        assert all(ours <= theirs for ours, theirs in zip(result.bufsizes, own.bufsizes, strict=True)), seed
        assert set(result.spec_dict) == set(specs)
        roots = [spec for spec in specs if spec.storage_base is None]
        for one, other in itertools.combinations(roots, 2):
            (bank, begin), (other_bank, other_begin) = places(result, (one, other))
            apart = begin + one.allocated_memory <= other_begin or other_begin + other.allocated_memory <= begin
            never_together = one.lifetime[1] < other.lifetime[0] or other.lifetime[1] < one.lifetime[0]
            assert bank != other_bank or apart or never_together
