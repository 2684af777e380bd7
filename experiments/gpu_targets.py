"""NVIDIA GPUs that programs can be compiled for: the figures that XLA asks for, and their peak rates."""

from typing import NamedTuple


class Target(NamedTuple):
    """A GPU, by the figures that the compiler asks for, and its peak rates in operations per second."""

    title: str
    capability: str
    cores: int
    units: int  # float32 units of a core
    threads: int  # of a core
    shared: int  # bytes of a core
    optin: int  # of them a block can ask for
    cache: int  # bytes
    clock: float  # GHz
    memory: int  # bytes
    bandwidth: float  # bytes per second
    bfloat16: float
    float32: float  # TF32 where there is one


HOPPER = "major: 9 feature_extension: ACCELERATED_FEATURES"
BLACKWELL = "major: 10 feature_extension: ACCELERATED_FEATURES"
# As in xla/backends/gpu/target_config/specs of openxla/xla; of L4 and T4, which are not there, from the data sheets.
# Peak rates are those of the data sheets, without sparsity.
TARGETS = {
    "h100": Target(
        *("NVIDIA H100 80GB HBM3", HOPPER, 132, 128, 2048, 233472, 232448, 52428800),
        *(1.98, 84942979072, 3.35232e12, 989e12, 495e12),
    ),
    "h200": Target(
        *("NVIDIA H200 141GB HBM3e", HOPPER, 132, 128, 2048, 233472, 232448, 52428800),
        *(1.98, 151397597184, 4.8e12, 989e12, 495e12),
    ),
    "b200": Target(
        *("NVIDIA B200", BLACKWELL, 148, 128, 2048, 233472, 232448, 132644864),
        *(1.965, 191514411008, 7.67232e12, 2250e12, 1100e12),
    ),
    "a100": Target(
        *("NVIDIA A100-SXM4-80GB", "major: 8", 108, 64, 2048, 167936, 166912, 41943040),
        *(1.41, 85100068864, 2.03904e12, 312e12, 156e12),
    ),
    "l4": Target(
        *("NVIDIA L4", "major: 8 minor: 9", 58, 128, 1536, 102400, 101376, 50331648),
        *(2.04, 24152899584, 0.3e12, 121e12, 60e12),
    ),
    "t4": Target(
        *("Tesla T4", "major: 7 minor: 5", 40, 64, 1024, 65536, 65536, 4194304),
        *(1.59, 15843721216, 0.32e12, 8.1e12, 8.1e12),
    ),
}


def configuration(target: Target) -> str:
    """Return the GPU as the compiler wants it: a GpuTargetConfigProto as text."""
    limits = {"threads_per_block_limit": 1024, "threads_per_warp": 32, "shared_memory_per_block": 49152}
    limits |= {f"block_dim_limit_{axis}": most for axis, most in (("x", 2**31 - 1), ("y", 65535), ("z", 65535))}
    limits |= {f"thread_dim_limit_{axis}": most for axis, most in (("x", 1024), ("y", 1024), ("z", 64))}
    limits |= {"registers_per_core_limit": 65536, "registers_per_block_limit": 65536}
    own = {
        "core_count": target.cores,
        "fpus_per_core": target.units,
        "threads_per_core_limit": target.threads,
        "shared_memory_per_core": target.shared,
        "shared_memory_per_block_optin": target.optin,
        "l2_cache_size": target.cache,
        "clock_rate_ghz": target.clock,
        "device_memory_size": target.memory,
        "memory_bandwidth": int(target.bandwidth),
    }
    fields = " ".join(f"{name}: {value}" for name, value in (limits | own).items())
    return (
        f"gpu_device_info {{ {fields} cuda_compute_capability {{ {target.capability} }} }} "
        f'platform_name: "CUDA" dnn_version_info {{ major: 9 minor: 10 }} device_description_str: "{target.title}"'
    )
