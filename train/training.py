"""A run's parts and state: model, optimiser, average and data, and the moment in which a guided model turns static."""

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skipvit.metrics import classification_metrics
from skipvit.models import SkipVisionTransformer
from train import build
from train.batches import Order, TrainingPictures, load, seed_everything
from train.distributed import Process, distribute
from train.ema import Ema, local
from train.optim import adamw, start_state, whole
from train.pictures import Dataset
from train.predict import predict
from train.prepare import BatchTransform
from train.recipe import Recipe, RecipeError
from train.resume import set_optimizer_step, state_tensors
from train.schedule import guide_strength
from train.start import load_start
from train.teacher import Distillation


@dataclass
class Training:
    """The parts of a run. ``model`` owns the weights; ``parallel`` is what is called, and may be the same."""

    recipe: Recipe
    data: Dataset
    process: Process
    model: nn.Module
    parallel: nn.Module
    optimizer: torch.optim.Optimizer
    ema: Ema | None
    pictures: TrainingPictures
    augment: BatchTransform
    order: Order
    distillation: Distillation | None = None
    guided: bool = False  # ``model`` still has a dynamic branch beside its static matrices
    divergence: Tensor | None = None  # KL(A || S) of this process, in the last part of the last step's batch
    started_from: str = ""  # in words, where the recipe names weights

    @classmethod
    def of(cls, recipe: Recipe, data: Dataset, process: Process) -> "Training":
        """Builds a run at its first step, and writes nothing.

        Raises:
            RecipeError, StrategyError: the recipe does not fit the data, the machine or the number of processes.
        """
        order = picture_order(recipe, len(data.train.labels), process)
        pictures = build.training_pictures(recipe, data.train)
        seed_everything(recipe.run.seed)  # the same first weights on every process
        num_classes, guided = len(data.classes), build.is_guided(recipe)
        model = build.build_model(recipe, num_classes, guided).to(process.device)
        started_from = load_start(
            model, recipe.model.weights, lambda: build.some_pictures(recipe, data.train, process.device)
        )
        return cls(
            recipe,
            data,
            process,
            *_trainable(recipe, model, process),
            pictures,
            build.batch_transform(recipe, num_classes),
            order,
            build.distillation(recipe, data.classes, process.device),
            guided,
            started_from=started_from,
        )

    @property
    def total(self) -> int:
        """Steps of the whole schedule."""
        return self.recipe.schedule.epochs * self.order.steps_per_epoch

    def batches(self, start: int, stop: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Pictures (B, 3, H, W) uint8 and labels (B,): this process's parts of the steps from ``start``."""
        order = replace(self.order, start=start, stop=stop)
        return load(self.pictures, order, self.recipe.data.workers, pin=self.process.device.type == "cuda")

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor of the run by name, sharing memory with it."""
        return state_tensors(self.model, self.optimizer, self.ema)

    def set_guide(self, step: int) -> float:
        """Gives the static blocks λ of a step, counted from 0, and returns it; at 1, drops their dynamic branch."""
        guide = self.recipe.guide
        if guide is None or not self.guided:
            return 1.0
        strength = guide_strength(step, self.total, guide.ramp, guide.schedule)
        if strength < 1:
            _family(self.model).set_guide(strength)
        else:
            self.drop_guide()
            set_optimizer_step(self.optimizer, step)
        return strength

    def drop_guide(self) -> None:
        """Puts the plain static model in the guided one's place, with its weights, their average and moments.

        A frozen branch would do as well, but DDP would wait for its gradients, FSDP gather it, and every state hold it.
        """
        before = self.tensors()
        model = build.build_model(self.recipe, len(self.data.classes))
        self.model, self.parallel, self.optimizer, self.ema = _trainable(self.recipe, model, self.process)
        with torch.no_grad():
            for name, tensor in self.tensors().items():
                local(tensor).copy_(local(before[name]))
        self.guided = False

    def loss(self, images: Tensor, logits: Tensor, targets: Tensor) -> Tensor:
        """What a forward pass is to be blamed for: labels, teacher, and the guide where there is one."""
        loss = F.cross_entropy(logits.float(), targets)
        if self.distillation is not None:
            loss = self.distillation(images, logits.float(), loss)
        if self.guided and self.recipe.guide is not None:
            divergence = _family(self.model).guide_loss()
            self.divergence = divergence.detach()
            loss = loss + self.recipe.guide.weight * divergence
        return loss

    def guide_divergence(self) -> float:
        """KL(A || S) a row in the last part of this step's batch; every process must call this."""
        assert self.divergence is not None, "only a step that was taken has one"
        return float(self.process.mean(self.divergence.clone()))

    def evaluate(self) -> dict[str, float]:
        """Metrics of the averaged weights on the held-out pictures.

        They are those of the model that will be deployed. While λ < 1 that is the static one which the training would
        leave if it ended here, not the mixture that it trains: figures start low, and meet the mixture's at λ = 1.
        """
        if self.guided:
            _family(self.model).set_guide(1.0)  # the next step sets its own λ
        preprocessing = build.preprocessing_of(self.recipe.data)
        batch, workers = self.recipe.run.batch // self.process.world, self.recipe.data.workers
        with self.ema.in_place() if self.ema is not None else nullcontext():
            found = predict(self.parallel, self.data.held_out, preprocessing, self.process, batch, workers)
        return classification_metrics(*found)

    def weights(self) -> dict[str, Tensor]:
        """The averaged weights, whole and without a guide; every process must call this, the leading one gets them."""
        if self.guided:
            self.drop_guide()
        live = self.ema.shadow if self.ema is not None else self.model.state_dict()
        gathered = {name: whole(tensor).detach().cpu() for name, tensor in live.items()}
        return gathered if self.process.leads else {}


def picture_order(recipe: Recipe, pictures: int, process: Process) -> Order:
    """The order in which this process sees the training pictures.

    Raises:
        RecipeError: the batch is larger than the data, or cannot be shared out.
    """
    run = recipe.run
    if run.batch > pictures:
        raise RecipeError(f"run.batch = {run.batch} is more than the {pictures} training pictures; make it smaller")
    if run.batch % (process.world * run.accumulate):
        raise RecipeError(
            f"run.batch = {run.batch} must be a multiple of {process.world} processes x run.accumulate {run.accumulate}"
        )
    part = run.batch // (process.world * run.accumulate)
    if (recipe.augment.mixup or recipe.augment.cutmix) and part % 2:
        raise RecipeError(
            f"mixup and cutmix pair pictures: run.batch = {run.batch} over {process.world} processes and "
            f"run.accumulate {run.accumulate} gives parts of {part}, which must be even"
        )
    return Order(
        pictures,
        run.batch,
        run.seed,
        repeats=recipe.data.repeats,
        rank=process.rank,
        world=process.world,
        accumulate=run.accumulate,
    )


def _trainable(
    recipe: Recipe, model: nn.Module, process: Process
) -> tuple[nn.Module, nn.Module, torch.optim.Optimizer, Ema | None]:
    """A model on its device, what is called in its place, and what updates it."""
    optim = recipe.optim
    model = model.to(process.device)
    parallel = distribute(model, recipe.run.strategy, process)
    optimizer = adamw(model, optim.lr, optim.weight_decay, optim.betas, optim.eps)
    start_state(optimizer)
    return model, parallel, optimizer, Ema(model, optim.ema_decay) if optim.ema_decay else None


def _family(model: nn.Module) -> SkipVisionTransformer:
    assert isinstance(model, SkipVisionTransformer), "build_model guides no other"
    return model
