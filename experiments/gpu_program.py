"""Read a compiled GPU program: bytes, operations and launches of its kernels, by part of the network.

`kernels(text)` reads the scheduled HLO that `compiled.as_text()` gives. Each kernel counts what it must move at least:
every operand once, or what it slices from it, and every result. No cache is counted, and no algorithm of cuDNN.
"""

import math
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

BYTES = {
    **dict.fromkeys(("pred", "s8", "u8", "f8e4m3fn", "f8e5m2"), 1),
    **dict.fromkeys(("s16", "u16", "bf16", "f16"), 2),
    **dict.fromkeys(("s32", "u32", "f32"), 4),
    **dict.fromkeys(("s64", "u64", "f64"), 8),
    **dict.fromkeys(("token", "opaque"), 0),
}
SHAPE = re.compile(r"\b(pred|[suf]\d+\w*|bf16|token|opaque)\[([\d,]*)\]")
NOTHING = {"parameter", "get-tuple-element", "tuple", "bitcast", "constant", "after-all", "partition-id", "replica-id"}
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
# The part of the network that the last operation of a kernel belongs to; of several that fit, the first.
PARTS = {
    "squeeze-excite": r"/se/",
    "BatchNorm, SiLU": r"/bn\d/|jit\(silu\)",
    "depthwise": r"/conv_dw/",
    "3x3": r"/(conv|conv_exp|conv_stem)/",
    "1x1": r"/(conv_pw|conv_pwl|conv_head)/",
    "skip connections": r"blocks_\w+/(add|add_any)$",
}


@dataclass
class Instruction:
    """One line of a computation."""

    name: str
    type: str
    opcode: str
    operands: list[str]
    rest: str
    root: bool


@dataclass
class Kernel:
    """Describe what the GPU is started for: `times` of it in one step, with bytes and operations of all of them."""

    opcode: str
    part: str
    read: int
    written: int
    operations: int
    times: int
    is_convolution: bool = False

    @property
    def moved(self) -> int:
        """Bytes read and written."""
        return self.read + self.written

    def seconds(self, bandwidth: float, peak: float) -> float:
        """Return the least time on a GPU of so many bytes and operations per second."""
        return max(self.moved / bandwidth, self.operations / peak)


@dataclass
class Computations:
    """The computations of a program by name, each its instructions by name."""

    by_name: dict[str, dict[str, Instruction]] = field(default_factory=dict)
    entry: str = ""


def shapes(text: str) -> list[tuple[str, tuple[int, ...]]]:
    """Return type and shape of each array that is named: "(f32[2,3], u8[])" -> [("f32", (2, 3)), ("u8", ())]."""
    return [(kind, tuple(int(d) for d in dims.split(",") if d)) for kind, dims in SHAPE.findall(text)]


def size(text: str) -> int:
    """Count the bytes of all arrays that are named."""
    return sum(BYTES[kind] * math.prod(shape) for kind, shape in shapes(text))


def _closing(text: str, start: int) -> int:
    """Return where the parenthesis that opens at `start` closes."""
    depth = 0
    for at in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[at], 0)
        if depth == 0:
            return at
    raise ValueError(f"no closing parenthesis in {text[start : start + 60]}")


def parse(text: str) -> Computations:
    """Read the computations of a program."""
    found, current = Computations(), None
    for line in text.splitlines():
        if begun := re.match(r"(ENTRY )?%([\w.\-]+) .*\{$", line):
            current = found.by_name.setdefault(begun[2], {})
            found.entry = begun[2] if begun[1] else found.entry
        elif current is not None and (stated := re.match(r"\s+(ROOT )?%([\w.\-]+) = (.*)$", line)):
            root, name, rest = stated.groups()
            end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.index(" ")
            kind, rest = rest[:end], rest[end + 1 :]
            start = rest.index("(")
            end = _closing(rest, start)
            operands = [] if rest.startswith("constant(") else re.findall(r"%([\w.\-]+)", rest[start:end])
            current[name] = Instruction(name, kind, rest[:start], operands, rest[start:], bool(root))
    return found


def _called(instruction: Instruction) -> list[str]:
    single = re.findall(r"(?:calls|to_apply|body|called_computation)=%([\w.\-]+)", instruction.rest)
    lists = re.findall(r"(?:branch_computations|called_computations)=\{([^}]*)\}", instruction.rest)
    return single + [name for listed in lists for name in re.findall(r"%([\w.\-]+)", listed)]


def _read_by_fusion(body: dict[str, Instruction], fusion: Instruction, around: dict[str, Instruction]) -> int:
    """Count the bytes that a fusion reads: of an operand that is only sliced, what is sliced from it."""
    users, parameters = defaultdict(list), {}
    for inner in body.values():
        for operand in inner.operands:
            users[operand].append(inner)
        if inner.opcode == "parameter":
            parameters[int(re.match(r"\((\d+)\)", inner.rest)[1])] = inner.name
    elementwise = not any(inner.opcode in ("reduce", "dot", "reduce-window") for inner in body.values())
    results, total = sum(math.prod(shape) for _, shape in shapes(fusion.type)), 0
    for number, operand in enumerate(fusion.operands):
        parameter, kind = parameters[number], around[operand].type
        uses, least = users[parameter], size(kind)
        if uses and all(use.operands[:1] == [parameter] for use in uses):
            if all(use.opcode in ("slice", "dynamic-slice", "gather") for use in uses):
                least = min(least, sum(size(use.type) for use in uses))
            elif all(use.opcode == "dynamic-update-slice" for use in uses):
                least = 0
        if elementwise and len(shapes(kind)) == 1:
            least = min(least, results * BYTES[shapes(kind)[0][0]] * max(1, len(uses)))
        total += least
    return total


def _product_operations(dot: Instruction, around: dict[str, Instruction]) -> int:
    contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", dot.rest)
    if not contracted:
        return 0
    left, result = shapes(around[dot.operands[0]].type)[0][1], shapes(dot.type)[0][1]
    return 2 * math.prod(result) * math.prod(left[int(i)] for i in contracted[1].split(",") if i)


def _convolution_operations(call: Instruction, around: dict[str, Instruction]) -> int:
    """Count 2 * outputs * kernel / features of a convolution of cuDNN, forward or either gradient."""
    labels = re.search(r"dim_labels=\w+_(\w+)->\w+", call.rest)[1]
    result = shapes(call.type)[0][1]
    first, second = (shapes(around[operand].type)[0][1] for operand in call.operands[:2])
    if "convBackwardFilter" in call.rest:  # of x and dy
        outputs, kernel = second, result
    elif "convBackwardInput" in call.rest:  # of dy and the kernel
        outputs, kernel = first, second
    else:
        outputs, kernel = result, second
    return 2 * math.prod(outputs) * math.prod(size for label, size in zip(labels, kernel, strict=True) if label != "o")


def _part(instruction: Instruction, parts: dict[str, str]) -> str:
    """Return the part of the network that an instruction says, or else that of its first operand that is known."""
    if where := re.search(r'op_name="([^"]*)"', instruction.rest):
        path = where[1]
        return next((name for name, pattern in PARTS.items() if re.search(pattern, path)), "rest")
    return next((parts[operand] for operand in instruction.operands if operand in parts), "rest")


def kernels(text: str) -> list[Kernel]:
    """Return all kernels of a scheduled program."""
    program = parse(text)
    return list(_walk(program, program.entry, 1))


def _walk(program: Computations, name: str, times: int) -> Iterator[Kernel]:
    around, parts = program.by_name[name], {}
    for each in around.values():
        if each.opcode in NOTHING or each.opcode.endswith("-done"):
            if each.operands and each.operands[0] in parts:
                parts[each.name] = parts[each.operands[0]]
            continue
        if each.opcode in ("call", "conditional", "while"):
            turns = re.search(r'known_trip_count":\{"n":"(\d+)"', each.rest)
            for body in _called(each):
                yield from _walk(program, body, times * (int(turns[1]) if turns else 1))
            continue
        parts[each.name] = _part(each, parts)
        yield _kernel(program, each, around, parts[each.name], times)


def _kernel(program: Computations, each: Instruction, around: dict[str, Instruction], part: str, times: int) -> Kernel:
    written, operations, is_convolution = size(each.type), 0, False
    if each.opcode == "fusion":
        body = program.by_name[_called(each)[0]]
        read = _read_by_fusion(body, each, around)
        operations = sum(_product_operations(inner, body) for inner in body.values() if inner.opcode == "dot")
        if any(inner.root and inner.opcode == "dynamic-update-slice" for inner in body.values()):
            written = 0
    else:
        read = sum(size(around[operand].type) for operand in dict.fromkeys(each.operands))
        target = re.search(r'custom_call_target="([^"]+)"', each.rest)
        if target and "cudnn$conv" in target[1]:
            kind, shape = shapes(each.type)[0]
            written, is_convolution = BYTES[kind] * math.prod(shape), True  # without the workspace
            operations = _convolution_operations(each, around)
        elif target and ("gemm" in target[1] or "matmul" in target[1]):
            operations = _product_operations(each, around)
    opcode = each.opcode.removesuffix("-start")
    return Kernel(opcode, part, read * times, written * times, operations * times, times, is_convolution)


def collectives(found: list[Kernel]) -> dict[str, tuple[int, int]]:
    """Return the number and the bytes of a device of each kind of exchange between devices."""
    totals = {}
    for kernel in found:
        if kernel.opcode in COLLECTIVES:
            number, moved = totals.get(kernel.opcode, (0, 0))
            totals[kernel.opcode] = number + kernel.times, moved + kernel.read
    return totals


def by_part(found: list[Kernel]) -> dict[str, tuple[int, int]]:
    """Return launches and bytes of each part of the network, the most bytes first."""
    totals = defaultdict(lambda: [0, 0])
    for kernel in found:
        totals[kernel.part][0] += kernel.times
        totals[kernel.part][1] += kernel.moved
    return {name: tuple(both) for name, both in sorted(totals.items(), key=lambda item: -item[1][1])}
