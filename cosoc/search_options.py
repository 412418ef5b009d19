"""Options of `cosoc search` that say how a network is trained: the one place for what each of them means. In Python
they are arguments of `cosoc.search`, under the same names."""

from __future__ import annotations

from typing import Annotated

import typer

from cosoc.searching import Amp, CostModel, Device
from cosoc.sim.errors import InputError

RecipeName = Annotated[
    str,
    typer.Option(
        "--recipe",
        metavar="NAME|FILE",
        help="How to train: default, cifar, imagenet-finetune, odimo, or a .yaml file (`cosoc schema recipe`).",
    ),
]
Epochs = Annotated[
    int | None,
    typer.Option(
        "--epochs",
        min=0,
        help="Passes over the data, for each point, where the recipe has shares of them; 0: nothing is trained, costs "
        "decide [default: 40].",
    ),
]
BatchSize = Annotated[
    int | None, typer.Option("--batch", min=1, help="Items of a step of training [default: the recipe's].")
]
Rates = Annotated[
    list[str] | None,
    typer.Option(
        "--rate",
        metavar="NAME=R",
        help="A learning rate in place of the recipe's: warm_up, search, fine_tune (weights in that phase), "
        "quantisers, gates; may be repeated.",
    ),
]
TrainImages = Annotated[
    int | None,
    typer.Option("--train-images", metavar="N", min=1, help="Train on so many at most [default: all]."),
]
CostModelName = Annotated[
    CostModel,
    typer.Option("--cost-model", help="What drives the search; what it reports is simulated in any case."),
]
AdcBits = Annotated[
    int,
    typer.Option("--adc-bits", min=0, max=16, help="Train with analog columns read in so many bits; 0: as they are."),
]
TrainNoise = Annotated[
    str | None,
    typer.Option("--train-noise", metavar="all|A,B", help="Train under noise of analog cores: adc, weights, drift."),
]
DeviceName = Annotated[
    Device, typer.Option("--device", help="Where torch trains; under torchrun a GPU for each process.")
]
AmpName = Annotated[
    Amp | None,
    typer.Option("--amp", help="Convolutions and products of training in this format [default: float32]."),
]
Workers = Annotated[
    int, typer.Option("--workers", metavar="N", min=0, max=256, help="Processes that make batches; 0: the device does.")
]
Compiled = Annotated[bool, typer.Option("--compile", help="Train through torch.compile.")]
ChannelsLast = Annotated[
    bool, typer.Option("--channels-last", help="Lay images out channels last, which GPUs and some CPUs do faster.")
]
Accumulate = Annotated[
    int,
    typer.Option("--accumulate", metavar="N", min=1, help="Let each batch through in N parts, for less memory."),
]
Jobs = Annotated[
    int | None,
    typer.Option(
        "--jobs", metavar="N", min=0, max=256,
        help="Processes that simulate beside training, where that is worth one [default: 1].",
    ),
]  # fmt: skip


def rates(texts: list[str] | None) -> dict[str, float]:
    """`--rate`s by name. InputError for what is none."""
    out: dict[str, float] = {}
    for text in texts or ():
        name, _, value = text.partition("=")
        try:
            out[name] = float(value)
        except ValueError:
            raise InputError(f"--rate {text}: NAME=R is needed, such as --rate search=1e-3") from None
    return out
