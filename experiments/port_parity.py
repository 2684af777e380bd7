"""Compare the ported model with timm: the same weights and images, the output of every stage.

    python experiments/port_parity.py --sizes 224 240 97
    python experiments/port_parity.py --weights tf_efficientnetv2_b1.safetensors
    python experiments/port_parity.py --make-golden tests/model/golden

Prints, for every stage, the largest difference over the stage's largest value, and fails above --tolerance. Without
--weights the weights are timm's random ones, with randomised BatchNorm parameters. timm runs in a separate process, so
torch, timm and safetensors may be installed in another environment (--timm-python). --make-golden writes the files
that tests/model compares with, for the variant "tiny".

Result, 2 CPU cores, float32, timm 1.0.31, torch 2.13, jax 0.10.2, at 224, 240 and 97 px, in half a minute: at most
4.4e-6 at any stage of B1 with random weights, and 3.4e-6 of B0 with its ImageNet weights.
"""

import argparse
import dataclasses
import json
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np


def timm_side(job: dict) -> None:
    """Run timm: write state.safetensors and outputs.npz (keys SIZE/stage, maps as [b,h,w,c]) to job["folder"]."""
    import torch
    from safetensors.torch import load_file, save_file

    torch.manual_seed(job["seed"])
    state = load_file(job["weights"]) if job["weights"] else None
    classes = len(state["classifier.bias"]) if state else job["classes"]
    model = _timm_model(job, classes)
    if state:
        model.load_state_dict(state)
    else:
        _randomise(model, torch.randn(8, 3, 160, 160))
    save_file(model.state_dict(), Path(job["folder"]) / "state.safetensors")
    outputs = {}
    for size in job["sizes"]:
        images = torch.randn(job["batch"], 3, size, size).half().float()
        outputs |= {f"{size}/{name}": _numpy(value) for name, value in _stages(model.eval(), images).items()}
    if job["make_golden"]:
        outputs |= {f"train/{name}": _numpy(value) for name, value in _train_step(model.train(), images).items()}
        (Path(job["folder"]) / "b1_keys.txt").write_text(_keys("tf_efficientnetv2_b1"))
    np.savez_compressed(Path(job["folder"]) / "outputs.npz", **outputs)


def _timm_model(job: dict, classes: int):
    import timm_alone

    timm_alone.allow()
    import timm
    from timm.models._efficientnet_builder import decode_arch_def, round_channels
    from timm.models.efficientnet import EfficientNet
    from torch import nn

    if job["timm"]:
        return timm.create_model(job["timm"], num_classes=classes)
    return EfficientNet(
        decode_arch_def([[stage] for stage in job["stages"]]),
        num_classes=classes,
        num_features=job["head"],
        stem_size=job["stem"],
        pad_type="same",
        act_layer=nn.SiLU,
        norm_layer=partial(nn.BatchNorm2d, eps=1e-3),
        round_chs_fn=partial(round_channels, round_limit=0.0),
    )


def _randomise(model, images) -> None:
    """Draw scale and bias of every BatchNorm at random, and set its statistics from images [b, c, h, w].

    The initial values are all 0 or 1, which would hide a mix-up. Random statistics make B1 chaotic: its gates
    saturate, and timm in float32 differs from float64 by 2e-4.
    """
    from torch import nn

    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        nn.init.uniform_(norm.weight, 0.25, 0.75)
        nn.init.normal_(norm.bias, 0, 0.1)
        norm.momentum = 1.0
    model.train()(images)
    for norm in norms:
        norm.momentum = 0.1
        norm.num_batches_tracked.zero_()


def _stages(model, images) -> dict:
    import torch

    with torch.inference_mode():
        maps = {"input": images.half(), "stem": model.bn1(model.conv_stem(images))}
        x = maps["stem"]
        for i, stage in enumerate(model.blocks):
            x = maps[f"stage{i}"] = stage(x)
        maps["head"] = model.bn2(model.conv_head(x))
        maps["features"] = model.global_pool(maps["head"])
        maps["logits"] = model(images)
    return maps


def _train_step(model, images) -> dict:
    """Return training logits, the updated running statistics, and the gradients of the logits' mean square.

    Statistics and gradients (of the vectors only) are concatenated in the order of their names.
    """
    import torch

    logits = model(images)
    logits.square().mean().backward()
    grads = {name: p.grad for name, p in model.named_parameters() if p.ndim == 1}
    running = {name: b for name, b in model.named_buffers() if "running" in name}
    joined = {k: torch.cat([v[name] for name in sorted(v)]) for k, v in (("grad", grads), ("running", running))}
    return {"logits": logits} | joined


def _keys(name: str) -> str:
    import timm

    state = timm.create_model(name).state_dict()
    return "".join(f"{key} {' '.join(map(str, value.shape))}".rstrip() + "\n" for key, value in sorted(state.items()))


def _numpy(value) -> np.ndarray:
    value = value.detach()
    return (value.permute(0, 2, 3, 1) if value.ndim == 4 else value).contiguous().numpy()


def run_timm(variant, args: argparse.Namespace, folder: str) -> None:
    """Call `timm_side` for a `Variant` in the interpreter of --timm-python."""
    kinds = {"conv": "cn_r{}_k3_s{}_e{}_c{}_skip", "fused": "er_r{}_k3_s{}_e{}_c{}"}
    stages = [
        kinds.get(s.kind, "ir_r{}_k3_s{}_e{}_c{}_se0.25").format(s.repeats, s.stride, s.expansion, s.width)
        for s in variant.stages
    ]
    job = vars(args) | dataclasses.asdict(variant) | {"stages": stages, "folder": folder}
    job["timm"] = variant.timm.split(".")[0]
    command = [args.timm_python, __file__, "--timm-job", json.dumps(job)]
    subprocess.run(command, check=True)


def compare(variant, folder: Path, sizes: list[int]) -> dict[tuple[int, str], float]:
    """Return {(size, stage): largest difference over largest value}; exit if the round trip is not exact."""
    import jax

    from jaxlesion.model.efficientnet import EfficientNetV2
    from jaxlesion.model.port import from_timm, read_safetensors, to_timm

    jax.config.update("jax_default_matmul_precision", "highest")
    state = read_safetensors(folder / "state.safetensors")
    model = EfficientNetV2(variant, num_classes=len(state["classifier.bias"]))
    template = jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 64, 64, 3), np.float32))
    variables, notes = from_timm(state, template)
    back = to_timm(variables)
    counters = {name for name in state if name.endswith("num_batches_tracked")}
    if notes or back.keys() != state.keys() or not all((back[k] == state[k]).all() for k in back.keys() - counters):
        raise SystemExit("the weights do not survive the way to Flax and back")
    apply = jax.jit(lambda images: model.apply(variables, images, intermediates=True))
    errors = {}
    with np.load(folder / "outputs.npz", allow_pickle=False) as outputs:
        for size in sizes:
            logits, maps = apply(outputs[f"{size}/input"].astype(np.float32))
            for name, ours in (maps | {"logits": logits}).items():
                theirs = outputs[f"{size}/{name}"]
                errors[size, name] = float(np.abs(ours - theirs).max() / np.abs(theirs).max())
    return errors


def main() -> None:
    if sys.argv[1:2] == ["--timm-job"]:
        return timm_side(json.loads(sys.argv[2]))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", default="efficientnetv2_b1")
    parser.add_argument("--weights", help="safetensors file in timm's names (default: random weights)")
    parser.add_argument("--sizes", type=int, nargs="+", default=[224, 240, 97], help="image sides, pixels")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--classes", type=int, default=1000, help="of random weights")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tolerance", type=float, default=1e-5)
    parser.add_argument("--timm-python", default=sys.executable, help="interpreter with torch and timm")
    parser.add_argument(
        "--make-golden", metavar="FOLDER", help="write the tiny variant's files for the tests, and stop"
    )
    args = parser.parse_args()
    from jaxlesion.model.efficientnet import VARIANTS

    if args.make_golden:
        args.variant, args.sizes, args.classes, args.weights = "tiny", [16, 33], 3, None
        run_timm(VARIANTS[args.variant], args, args.make_golden)
        return None
    with tempfile.TemporaryDirectory() as folder:
        run_timm(VARIANTS[args.variant], args, folder)
        errors = compare(VARIANTS[args.variant], Path(folder), args.sizes)
    for (size, name), error in errors.items():
        print(f"{size:4d} px  {name:8s}  {error:.1e}")
    if max(errors.values()) > args.tolerance:
        raise SystemExit(f"above the tolerance of {args.tolerance:.0e}")


if __name__ == "__main__":
    main()
