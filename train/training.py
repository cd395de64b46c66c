"""A run's parts and state: model, optimiser, average and task, and the moment in which a guided model turns static."""

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from skipvit.models import SkipVisionTransformer
from train import build
from train.batches import Order, seed_everything
from train.distributed import Process, distribute
from train.ema import Ema, local
from train.optim import adamw, start_state, whole
from train.recipe import Recipe, RecipeError
from train.resume import set_optimizer_step, state_tensors
from train.schedule import guide_strength
from train.start import load_start
from train.task import Task


@dataclass
class Training:
    """The parts of a run. ``model`` owns the weights; ``parallel`` is what is called, and may be the same."""

    recipe: Recipe
    task: Task
    process: Process
    model: nn.Module
    parallel: nn.Module
    optimizer: torch.optim.Optimizer
    ema: Ema | None
    order: Order
    guided: bool = False  # ``model`` still has a dynamic branch beside its static matrices
    divergence: Tensor | None = None  # KL(A || S) of this process, in the last part of the last step's batch
    started_from: str = ""  # in words, where the recipe names weights

    @classmethod
    def of(cls, recipe: Recipe, task: Task, process: Process) -> "Training":
        """Builds a run at its first step, and writes nothing.

        Raises:
            RecipeError, StrategyError: the recipe does not fit the data, the machine or the number of processes.
        """
        order = picture_order(recipe, task, process)
        seed_everything(recipe.run.seed)  # the same first weights on every process
        guided = build.is_guided(recipe)
        model = build.build_model(recipe, task.model_args(), guided).to(process.device)
        started_from = load_start(model, recipe.model.weights, task.some_pictures)
        parts = _trainable(recipe, model, process)
        return cls(recipe, task, process, *parts, order, guided, started_from=started_from)

    @property
    def total(self) -> int:
        """Steps of the whole schedule."""
        return self.recipe.schedule.epochs * self.order.steps_per_epoch

    def parts(self, start: int, stop: int) -> Iterator[tuple[Tensor, Tensor]]:
        """This process's parts of the batches of the steps from ``start``, for the task to prepare."""
        return self.task.parts(replace(self.order, start=start, stop=stop))

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
        model = build.build_model(self.recipe, self.task.model_args())
        self.model, self.parallel, self.optimizer, self.ema = _trainable(self.recipe, model, self.process)
        with torch.no_grad():
            for name, tensor in self.tensors().items():
                local(tensor).copy_(local(before[name]))
        self.guided = False

    def loss(self, inputs: Tensor, outputs: Tensor, targets: Tensor) -> Tensor:
        """What a forward pass is to be blamed for: the task's loss, and the guide where there is one."""
        loss = self.task.loss(inputs, outputs, targets)
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
        with self.ema.in_place() if self.ema is not None else nullcontext():
            return self.task.evaluate(self.parallel)

    def weights(self) -> dict[str, Tensor]:
        """The averaged weights, whole and without a guide; every process must call this, the leading one gets them."""
        if self.guided:
            self.drop_guide()
        live = self.ema.shadow if self.ema is not None else self.model.state_dict()
        gathered = {name: whole(tensor).detach().cpu() for name, tensor in live.items()}
        return gathered if self.process.leads else {}


def picture_order(recipe: Recipe, task: Task, process: Process) -> Order:
    """The order in which this process sees the training pictures.

    Raises:
        RecipeError: the batch is larger than the data, or cannot be shared out.
    """
    run, pictures = recipe.run, task.pictures
    if run.batch > pictures:
        raise RecipeError(f"run.batch = {run.batch} is more than the {pictures} training pictures; make it smaller")
    if run.batch % (process.world * run.accumulate):
        raise RecipeError(
            f"run.batch = {run.batch} must be a multiple of {process.world} processes x run.accumulate {run.accumulate}"
        )
    task.check_part(run.batch // (process.world * run.accumulate))
    return Order(
        pictures,
        run.batch,
        run.seed,
        repeats=task.repeats,
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
