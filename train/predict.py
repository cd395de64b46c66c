"""Predictions for a whole set of pictures, over all processes, each picture exactly once."""

import numpy as np
import torch
from torch import Tensor, nn

from skipvit.metrics import Probabilities, softmax
from skipvit.transforms import Preprocessing
from train.batches import HeldOutPictures, load
from train.distributed import Process
from train.pictures import Labels, Pictures
from train.prepare import normalise


@torch.no_grad()  # not inference_mode: FSDP2 would keep its gathered weights as inference tensors
def predict(
    model: nn.Module,
    pictures: Pictures,
    preprocessing: Preprocessing,
    process: Process,
    batch: int = 256,
    workers: int = 0,
) -> tuple[Probabilities, Labels]:
    """Class probabilities (n, num_classes) and labels (n,) of all pictures, on every process; float32 arithmetic.

    The model is left in the mode, training or evaluation, in which it came.
    """
    n, world = len(pictures.labels), process.world
    # All processes run the same number of batches, since sharded models talk in each: the last repeat picture 0.
    rounds = -(-n // world)
    mine = [i if i < n else 0 for i in range(process.rank, rounds * world, world)]
    batches = [mine[low : low + batch] for low in range(0, rounds, batch)]
    was_training = model.training
    model.eval()
    try:
        logits = [
            model(normalise(_to_device(pixels, process), preprocessing.mean, preprocessing.std))
            for pixels, _ in load(HeldOutPictures(pictures, preprocessing), batches, workers, pin=False)
        ]
    finally:
        model.train(was_training)
    every = process.gather(torch.cat(logits))[:n]
    return softmax(every.double().cpu().numpy()), np.asarray(pictures.labels)


def _to_device(pixels: Tensor, process: Process) -> Tensor:
    return pixels.to(process.device, non_blocking=True).permute(0, 3, 1, 2)  # (B, H, W, 3) -> (B, 3, H, W)
