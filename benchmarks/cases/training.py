"""A training step, batch 8, 64 x 64: crops, loss, gradient, clipping and optimizer, beside CompressAI's recipe."""

from __future__ import annotations

import sys
from pathlib import Path

from harness import Case, Contender, Options, Work

sys.path.insert(0, str(Path(__file__).parent))

from _codec import LAM, channels

STEPS = 10


def ours(options: Options) -> Work:
    """The loop of ``gradlab.training``, without its checkpoints."""
    import gradlab as gl
    from gradlab.training import TrainSettings, TrainState
    from gradlab.training.steps import Step

    settings = TrainSettings(
        codec="bmshj2018-hyperprior", channels=channels(options), crop=64, batch=8, lam=LAM, steps=STEPS
    )
    crops = gl.data.Crops(gl.data.embedded("train"), settings.crop, settings.batch, settings.seed)
    step = Step(TrainState.new(settings), crops)

    def work() -> None:
        for _ in range(STEPS):
            step()
            step.read()

    return work


def recipe(options: Options) -> Work:
    """CompressAI's ``examples/train.py``: its loss, its two optimizers, images from files through a DataLoader."""
    import tempfile

    import torch
    from compressai.datasets import ImageFolder
    from compressai.losses import RateDistortionLoss
    from compressai.models import ScaleHyperprior
    from compressai.optimizers import net_aux_optimizer
    from PIL import Image
    from torch.utils.data import DataLoader
    from torchvision import transforms

    root = Path(tempfile.mkdtemp())
    (root / "train").mkdir()
    torch.manual_seed(0)
    for i, pixels in enumerate(_photographs()):
        Image.fromarray(pixels).save(root / "train" / f"{i}.png")
    chain = transforms.Compose([transforms.RandomCrop((64, 64)), transforms.ToTensor()])
    data = ImageFolder(str(root), split="train", transform=chain)
    count = len(data)
    sampler = torch.utils.data.RandomSampler(data, replacement=True, num_samples=8 * STEPS)
    loader = DataLoader(data, batch_size=8, num_workers=options.threads, sampler=sampler, persistent_workers=True)
    model = ScaleHyperprior(*channels(options)).train()
    both = net_aux_optimizer(model, {"net": {"type": "Adam", "lr": 1e-4}, "aux": {"type": "Adam", "lr": 1e-3}})
    criterion = RateDistortionLoss(lmbda=LAM)
    assert count

    def work() -> None:
        for x in loader:
            both["net"].zero_grad()
            both["aux"].zero_grad()
            found = criterion(model(x), x)
            found["loss"].backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            both["net"].step()
            aux = model.aux_loss()
            aux.backward()
            both["aux"].step()
            found["loss"].item()

    return work


def _photographs() -> list:  # type: ignore[type-arg]
    """The embedded training photographs, as ``[H, W, 3]`` uint8."""
    import gradlab as gl

    return [p.pixels.permute(1, 2, 0).contiguous().numpy() for p in gl.data.embedded("train")]


CASES = (
    Case(
        name="10 training steps, batch 8, 64 x 64",
        ours=Contender("gradlab.training", ours, peers=False),
        # Its environment is ours: the files that it reads are the photographs that gradlab crops.
        peers=(Contender("CompressAI's recipe", recipe, peers=False),),
        goal="0.8",
        ratio=0.8,
    ),
)
