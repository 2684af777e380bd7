"""A GPU's program is read as it is counted by hand, and a worse one than before is refused; none is compiled."""

from dataclasses import replace

import jax
import pytest

from experiments import gpu_compile
from experiments.gpu_compile import BASE, LIMITS, VARIED, Costs, Options, Program
from experiments.gpu_program import by_part, collectives, kernels
from jaxlesion.core.errors import InputError

PROGRAM = """
HloModule step, is_scheduled=true

%sliced (p: f32[8,4], q: f32[4]) -> f32[4] {
  %p = f32[8,4]{1,0} parameter(0)
  %q = f32[4]{0} parameter(1)
  %cut = f32[1,4]{1,0} slice(%p), slice={[2:3], [0:4]}
  %flat = f32[4]{0} bitcast(%cut)
  ROOT %sum = f32[4]{0} add(%flat, %q)
}

%product (p: bf16[16,4], q: bf16[4,32]) -> bf16[16,32] {
  %p = bf16[16,4]{1,0} parameter(0)
  %q = bf16[4,32]{1,0} parameter(1)
  ROOT %dot = bf16[16,32]{1,0} dot(%p, %q), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

%body (t: (s32[], f32[4])) -> (s32[], f32[4]) {
  %t = (s32[], f32[4]{0}) parameter(0)
  %i = s32[] get-tuple-element(%t), index=0
  %v = f32[4]{0} get-tuple-element(%t), index=1
  %twice = f32[4]{0} add(%v, %v), metadata={op_name="jit(step)/blocks_1_1/bn1/add"}
  ROOT %next = (s32[], f32[4]{0}) tuple(%i, %twice)
}

%condition (t: (s32[], f32[4])) -> pred[] {
  %t = (s32[], f32[4]{0}) parameter(0)
  ROOT %more = pred[] constant(true)
}

ENTRY %main (a: f32[8,4], b: f32[4], x: bf16[16,4], w: bf16[4,32], map: bf16[2,8,8,3]) -> bf16[16,32] {
  %a = f32[8,4]{1,0} parameter(0)
  %b = f32[4]{0} parameter(1)
  %x = bf16[16,4]{1,0} parameter(2)
  %w = bf16[4,32]{1,0} parameter(3)
  %map = bf16[2,8,8,3]{3,2,1,0} parameter(4)
  %kernel = bf16[5,3,3,3]{3,2,1,0} constant({...})
  %first = f32[4]{0} fusion(%a, %b), kind=kLoop, calls=%sliced, metadata={op_name="jit(step)/se/conv_reduce/add"}
  %begin = (s32[], f32[4]{0}) tuple(%b, %first)
  %loop = (s32[], f32[4]{0}) while(%begin), condition=%condition, body=%body, backend_config={"known_trip_count":{"n":"5"}}
  %last = f32[4]{0} get-tuple-element(%loop), index=1
  %start = f32[4]{0} all-reduce-start(%last), replica_groups={{0,1}}
  %done = f32[4]{0} all-reduce-done(%start)
  %conv = (bf16[2,4,4,5]{3,2,1,0}, u8[99]{0}) custom-call(%map, %kernel), window={size=3x3 stride=2x2}, dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convForward", metadata={op_name="jit(step)/conv_stem/conv_general_dilated"}
  %taken = bf16[2,4,4,5]{3,2,1,0} get-tuple-element(%conv), index=0
  %after = bf16[2,4,4,5]{3,2,1,0} copy(%taken)
  ROOT %out = bf16[16,32]{1,0} fusion(%x, %w), kind=kCustom, calls=%product, metadata={op_name="jit(step)/blocks_1_1/conv_pw/dot_general"}
}
"""  # noqa: E501 - as XLA writes it


def test_kernels_are_counted_with_their_bytes_and_operations():
    found = {(kernel.part, kernel.opcode): kernel for kernel in kernels(PROGRAM)}
    sliced = found["squeeze-excite", "fusion"]
    assert (sliced.read, sliced.written, sliced.times) == (16 + 16, 16, 1)  # one row of eight
    turned = found["BatchNorm, SiLU", "add"]
    assert (turned.read, turned.written, turned.times) == (5 * 16, 5 * 16, 5)
    convolved = found["3x3", "custom-call"]
    assert (convolved.read, convolved.written) == (2 * 2 * 8 * 8 * 3 + 2 * 5 * 27, 2 * 2 * 4 * 4 * 5)  # no workspace
    assert convolved.operations == 2 * (2 * 4 * 4 * 5) * 27
    assert convolved.is_convolution
    product = found["1x1", "fusion"]
    assert (product.operations, product.moved) == (2 * 16 * 32 * 4, 2 * (16 * 4 + 4 * 32 + 16 * 32))
    assert product.seconds(bandwidth=1.0, peak=1e9) == product.moved
    assert product.seconds(bandwidth=1e9, peak=1.0) == product.operations


def test_parts_and_exchanges_are_summed():
    found = kernels(PROGRAM)
    assert collectives(found) == {"all-reduce": (1, 16)}
    parts = by_part(found)
    assert parts["BatchNorm, SiLU"][0] == 5
    assert parts["3x3"][0] == 2  # the copy, which says nothing of itself, belongs to what it copies
    assert sum(count for count, _ in parts.values()) == sum(kernel.times for kernel in found) == 10
    assert list(parts.values()) == sorted(parts.values(), key=lambda both: -both[1])


def found_costs(program: Program = BASE, **others) -> Costs:
    """Return costs within LIMITS."""
    moved, launches = int(LIMITS[program.step][0] * program.batch * 1e6), LIMITS[program.step][1]
    whole = Costs(program, 0, donated=9, state=9, launches=launches, moved=moved, seconds=1.0, parts={}, exchanges={})
    return whole._replace(**others)


@pytest.mark.parametrize("step", LIMITS)
def test_more_bytes_or_launches_than_before_are_refused(step):
    good = found_costs(replace(BASE, step=step))
    gpu_compile.check(good)
    for worse in (good._replace(moved=good.moved * 1.01), good._replace(launches=good.launches + 1)):
        with pytest.raises(InputError, match=r"MB an image in .* launches"):
            gpu_compile.check(worse)
        gpu_compile.check(worse._replace(program=replace(worse.program, batch=32)))  # another program has no limit


def test_a_state_that_is_copied_is_refused():
    with pytest.raises(InputError, match="8 bytes of the state are donated, of 9: the rest is copied"):
        gpu_compile.check(found_costs(replace(BASE, batch=32), donated=8))
    gpu_compile.check(found_costs(replace(BASE, step="predict"), donated=0))


def test_without_the_compiler_the_command_that_installs_it_is_named(monkeypatch):
    def missing(**options):
        raise RuntimeError("Unknown backend cuda")

    monkeypatch.setattr(gpu_compile.topologies, "get_topology_desc", missing)
    with pytest.raises(InputError, match="run `make gpu-compile`"):
        gpu_compile.absent_gpus(gpu_compile.TARGETS["h100"], 1)


def test_the_table_varies_one_thing_at_a_time_in_at_most_40_programs():
    assert 2 * (1 + len(VARIED)) <= 40
    assert all(len(varied) == 1 or varied == {"target": "t4", "dtype": "float32"} for varied in VARIED)
    names = [gpu_compile.named(replace(BASE, **varied)) for varied in ({}, *VARIED)]
    assert len(set(names)) == len(names)
    assert names[0] == "train"


def test_a_program_is_described_and_the_table_written(tmp_path, monkeypatch, capsys):
    """Of this machine's processor, since nothing else can be compiled for here."""
    monkeypatch.setattr(gpu_compile, "absent_gpus", lambda target, count: jax.devices()[:count])
    monkeypatch.setattr(gpu_compile, "VARIED", [{"gpus": 2}])
    tiny = Program(variant="tiny", batch=8, size=32)
    monkeypatch.setattr(gpu_compile, "BASE", tiny)
    monkeypatch.setattr(gpu_compile, "LIMITS", {"train": (1e9, 10**9), "predict": (1e9, 10**9)})
    gpu_compile.run(Options(replace(tiny, step="predict", dtype="float32"), hlo=tmp_path / "hlo"))
    assert "| BatchNorm, SiLU |" in capsys.readouterr().out
    assert (tmp_path / "hlo" / "predict-float32.txt").read_text().startswith("HloModule")
    gpu_compile.run(Options(tiny, table=True, out=tmp_path / "gpu.md"))
    lines = (tmp_path / "gpu.md").read_text().splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == [
        "| train",
        "| predict",
        "| train, 2 GPUs",
        "| predict, 2 GPUs",
    ]
    assert all(line.count("|") == 7 for line in lines)
