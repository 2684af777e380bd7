"""The exchanges between devices in a training step: each waits for the one before, so that no two devices can begin
different ones and wait for each other for ever."""

import re
from functools import cache, partial
from itertools import pairwise

import jax
import jax.numpy as jnp
import pytest

from jaxlesion.core.config import ModelConfig, OptimConfig
from jaxlesion.core.recipes import RECIPES
from jaxlesion.learning.mix import Mixing
from jaxlesion.learning.optim import make_optimiser
from jaxlesion.learning.state import create_state
from jaxlesion.learning.step import make_train_step
from jaxlesion.model.registry import build_model
from jaxlesion.model.variables import abstract_variables
from jaxlesion.runtime.devices import data_mesh

EXCHANGES = ("all-reduce", "all-gather", "all-to-all", "collective-permute", "reduce-scatter")


def compiled(mixing: Mixing) -> str:
    mesh, optimiser = data_mesh(8), make_optimiser(OptimConfig())
    assert mesh.size == 2
    model = build_model(ModelConfig("tiny", dropout=0.2, drop_path=0.1))
    state = jax.eval_shape(partial(create_state, optimiser=optimiser), abstract_variables(model))
    numbers = {name: jax.ShapeDtypeStruct((8,), kind) for name, kind in {"row": "int32", "label": "float32"}.items()}
    batch = numbers | {"mask": numbers["label"], "image": jax.ShapeDtypeStruct((8, 32, 32, 3), "uint8")}
    step = make_train_step(model, optimiser, OptimConfig(), recipe=RECIPES["full"], mesh=mesh, mixing=mixing)
    return step.lower(state, batch, jax.ShapeDtypeStruct((), jnp.uint32)).compile().as_text()


@pytest.mark.parametrize("mixing", [Mixing(), Mixing(mixup=0.2), Mixing(mixup=0.2, cutmix=1.0)])
def test_each_exchange_needs_the_one_before(mixing):
    text = compiled(mixing)
    inner, entry = text.split("\nENTRY")
    assert not re.findall(rf" (?:{'|'.join(EXCHANGES)})\(", inner)  # in a loop
    found = re.findall(r"^\s+(?:ROOT )?%(\S+) = .*? ([a-z-]+)\((.*)$", entry, re.M)
    needs = {name: re.findall(r"%([\w.-]+)", rest.split("), ")[0]) for name, _, rest in found}

    @cache
    def before(name):
        return frozenset().union(*({one} | before(one) for one in needs.get(name, ())))

    exchanges = [name for name, kind, _ in found if kind in EXCHANGES]  # each stands after what it needs
    assert len(exchanges) > 10
    assert sum(name.startswith("collective-permute") for name in exchanges) == any(mixing)
    exchanges.sort(key=lambda name: len(before(name)))
    loose = [pair for pair in pairwise(exchanges) if pair[0] not in before(pair[1])]
    assert loose == []
