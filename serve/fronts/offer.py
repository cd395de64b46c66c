"""What the engine's process offers its fronts: the models that it serves between two changes."""

from collections.abc import Mapping, Sequence

from serve.foreign.model import ForeignModel
from serve.fronts.wire import FailedRow, ForeignRow, Measured, ModelRow, Table, Warm
from serve.models.repository import Failure, Key
from serve.models.served_model import ServedModel
from serve.tasks import contract_of
from skipvit.manifest import Task


class Offer:
    """The models of one generation, in their order; ``rows`` describe them."""

    def __init__(
        self,
        generation: int,
        models: Sequence[ServedModel],
        failures: Mapping[Key, Failure],
        groups: Mapping[str, Task],
        rows: Sequence[ModelRow | ForeignRow] | None = None,
    ) -> None:
        self.generation = generation
        self.models = models
        self.failures = failures
        self.groups = groups
        self.rows = [described(model) for model in models] if rows is None else rows

    def is_of(self, models: Sequence[ServedModel], failures: Mapping[Key, Failure]) -> bool:
        """Whether nothing has changed."""
        return self.models == models and self.failures == failures

    def table(self) -> Table:
        """All of it, for a front."""
        failed = [
            FailedRow(name=name, version=version, reason=failure.reason)
            for (name, version), failure in self.failures.items()
        ]
        return Table(models=list(self.rows), failed=failed, groups=dict(self.groups))

    def warm(self) -> Warm:
        """What warming them up has measured."""
        return Warm(models=[measured(model) for model in self.models])


def described(model: ServedModel) -> ModelRow | ForeignRow:
    """A model as a front needs to know it."""
    if not isinstance(model, ForeignModel):
        return row_of(model)
    return ForeignRow(
        name=model.name,
        version=int(model.version),
        path=str(model.path),
        config=model.config,
        signature=model.signature,
        labels={tensor.name: tuple(model.labels_of(tensor.name)) for tensor in model.signature.outputs},
        engine=model.engine_info,
    )


def row_of(model: ServedModel) -> ModelRow:
    """A model of ours."""
    contract = contract_of(model.entry)
    return ModelRow(
        manifest=model.entry.manifest,
        folder=str(model.entry.folder),
        labels=model.labels,
        classes=model.classes,
        engine=model.engine_info,
        row=model.row,
        result_shape=contract.result or (model.classes,),
        result_type=contract.dtype,
    )


def measured(model: ServedModel) -> Measured:
    """What warming up a model has measured."""
    return Measured(
        max_batch=model.batcher.max_batch,
        max_wait_s=model.batcher.max_wait_s,
        tiles_ahead=1 if isinstance(model, ForeignModel) else model.tiles_ahead,
        alone_s=model.alone_s,
        row_s=model.row_s,
    )
