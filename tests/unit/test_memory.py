"""Whether replicas fit into memory, computed by hand."""

import pytest

from rankfleet.cli.options import load_config
from rankfleet.cluster.failures import LaunchError
from rankfleet.cluster.memory_fit import check_needs
from rankfleet.estimates.memory import CUDA_CONTEXT_BYTES, PROCESS_BYTES, MemoryNeed, ModelSize, memory_need
from tests.unit.fakes import fleet

SIZES = {"a": ModelSize(10_000_000, 7_000_000), "b": ModelSize(100_000_000, 50_000_000, load_bytes=400_000_000)}
# Of the published models: parameters as MTEB lists them, and hidden and inner width.
ETTIN = {
    "17m": (16_797_440, 256, 384),
    "32m": (31_883_136, 384, 576),
    "68m": (68_144_640, 512, 768),
    "150m": (149_014_272, 768, 1152),
    "400m": (394_781_696, 1024, 2624),
    "1b": (1_028_050_688, 1792, 3840),
}


@pytest.mark.parametrize(("dtype", "each"), [("float32", 4), ("bfloat16", 2), ("auto", 2), ("int8", 1)])
def test_weights_take_the_bytes_of_their_precision(dtype: str, each: int) -> None:
    sizes = {"a": ModelSize(10_000_000, 7_000_000), "b": ModelSize(100_000_000, 50_000_000)}
    need = memory_need(sizes, dtype, process=0)
    assert need.weights == {"a": each * 10_000_000, "b": each * 100_000_000}
    assert need.total == each * 110_000_000 + 50_000_000  # and the longest pair of b


def test_what_exists_only_while_a_model_is_loaded_counts_with_the_models_before_it() -> None:
    assert memory_need(SIZES, "int8", process=0).total == 510_000_000  # a 10, b 100, and 400 while b is loaded
    # b first: 100 and 400; when a is loaded too, the 400 are gone.
    assert memory_need(dict(reversed(SIZES.items())), "int8", process=0).total == 500_000_000


def test_the_arithmetic_is_in_words() -> None:
    need = memory_need(SIZES, "bfloat16", process=250_000_000)
    assert need == MemoryNeed(2, {"a": 20_000_000, "b": 200_000_000}, 400_000_000, 250_000_000)
    assert str(need) == (
        "0.87 GB: weights at 2 bytes (a 0.02 + b 0.20) + 0.40 to load a model or score its longest pair + 0.25 of the "
        "process itself"
    )


CPU_NEED = MemoryNeed(4, {"small": 1_000_000_000}, 500_000_000, 250_000_000)  # 1.75 GB
GPU_NEED = MemoryNeed(2, {"large": 3_000_000_000}, 700_000_000, 300_000_000)  # 4 GB


def test_all_replicas_that_start_have_to_fit_together() -> None:
    group = {"tiers": ["small", "medium", "large"], "replicas": {"min": 2, "max": 9}}
    two = fleet(groups={"demo": group})
    check_needs(two, {"demo": CPU_NEED}, 3_500_000_000, [])
    with pytest.raises(LaunchError) as fault:
        check_needs(two, {"demo": CPU_NEED}, 3_499_999_999, [])
    assert str(fault.value) == (
        "the fleet does not fit into memory: this computer or its container has 3.50 GB free, and its replicas need at "
        "least 3.50 GB\n"
        "  group demo: 2 × 1.75 GB: weights at 4 bytes (small 1.00) + 0.50 to load a model or score its longest "
        "pair + 0.25 of the process itself\n"
        "  give the group fewer or smaller tiers, a narrower `dtype`, or a machine with more memory, or fewer replicas"
    )


def test_replicas_share_gpus_but_each_has_to_fit_one() -> None:
    groups = {
        "cpu": {"tiers": ["small", "medium"]},
        "gpu": {"tiers": ["large"], "gpus": 0.25, "replicas": {"min": 3, "max": 3}},
    }
    config, needs = fleet(groups=groups), {"cpu": CPU_NEED, "gpu": GPU_NEED}
    check_needs(config, needs, 2_000_000_000, [8_000_000_000, 4_000_000_000])
    check_needs(config, needs, 2_000_000_000, [])  # nothing is known of the GPUs
    with pytest.raises(LaunchError, match=r"its GPUs together have 11\.00 GB free, and .* need at least 12\.00 GB"):
        check_needs(config, needs, 2_000_000_000, [8_000_000_000, 3_000_000_000])
    with pytest.raises(
        LaunchError, match=r"the largest GPU has 3\.90 GB free, and its replicas need at least 4\.00 GB"
    ):
        check_needs(config, needs, 2_000_000_000, [3_900_000_000] * 4)
    with pytest.raises(LaunchError, match=r"this computer or its container has 1\.70 GB"):
        check_needs(config, needs, 1_700_000_000, [8_000_000_000, 4_000_000_000])


@pytest.mark.parametrize(("name", "gpus"), [("laptop", 0), ("gpu", 1), ("fleet", 4)])
def test_the_shipped_fleets_fit_a_laptop_of_24_gib_and_gpus_of_80_gb(name: str, gpus: int) -> None:
    config, needs = load_config(name), {}
    for group, settings in config.groups.items():
        sizes = {}
        for tier in settings.tiers:
            parameters, hidden, inner = ETTIN[tier]
            pass_bytes = 512 * (4 * (14 * hidden + 4 * inner) + 40 * hidden)  # in float32: the most it can be
            sizes[tier] = ModelSize(parameters, pass_bytes, 0 if gpus else 4 * parameters)
        needs[group] = memory_need(sizes, settings.dtype, CUDA_CONTEXT_BYTES if gpus else PROCESS_BYTES)
    check_needs(config, needs, 24 * 2**30, [80_000_000_000] * gpus)
    if name == "gpu":  # 2 × 1,688.7 million parameters, a pass of the 1b, and the context
        assert needs["gpu"].total == 3_377_343_744 + 512 * (4 * (25_088 + 15_360) + 71_680) + 300_000_000
