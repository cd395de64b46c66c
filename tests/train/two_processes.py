"""Trains under torchrun with DDP and with FSDP2. A program of test_distributed.py.

torchrun --nproc-per-node 2 two_processes.py RECIPE OUT KEY=VALUE...      (what makes the recipe a guided one)
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from train.distributed import processes
from train.loop import Trained, fit
from train.pictures import open_data
from train.predict import predict
from train.recipe import read_recipe
from train.task import open_task
from train.training import Training

if __name__ == "__main__":
    recipe, out = sys.argv[1], Path(sys.argv[2])
    torch.set_num_threads(1)
    with processes("cpu") as process:
        data = open_data("builtin:digits")

        def run(name: str, *overrides: str, resuming: bool = False) -> Trained:
            (out / name).mkdir(exist_ok=True)
            read = read_recipe(recipe, overrides)
            return fit(Training.of(read, open_task(read, process), process), out / name, resuming)

        for strategy in ("ddp", "fsdp"):
            for accumulate in (1, 2):
                name = f"{strategy}{accumulate}"
                trained = run(name, f"run.strategy={strategy}", f"run.accumulate={accumulate}")
                if process.leads:
                    save_file(trained.weights, out / f"{name}.safetensors")
            # half a run, whose state one process, or the other strategy, goes on from
            run(f"half-{strategy}", f"run.strategy={strategy}", "run.steps=6")
        resumed = run("half-fsdp", "run.strategy=ddp", resuming=True)
        if process.leads:
            save_file(resumed.weights, out / "fsdp-then-ddp.safetensors")
            run_state = out / "half-fsdp" / "state"
            assert [path.name for path in run_state.iterdir()] == ["step-00000012"]
        run("other-half", "run.strategy=fsdp", "run.steps=6")

        # λ reaches 1 after step 7, so that the model is rebuilt in the middle of the run, or right after a resume
        guided = sys.argv[3:]
        for strategy in ("ddp", "fsdp"):
            chosen = [*guided, f"run.strategy={strategy}"]
            trained = run(f"guided-{strategy}", *chosen, "run.accumulate=2")
            run(f"guided-{strategy}-7", *chosen, "run.steps=7")
            resumed = run(f"guided-{strategy}-7", *chosen, resuming=True)
            if process.leads:
                save_file(trained.weights, out / f"guided-{strategy}.safetensors")
                save_file(resumed.weights, out / f"guided-{strategy}-7.safetensors")

        # an odd number of pictures, so that one process has one to repeat
        from train.digits import Glyphs

        class Flat(torch.nn.Module):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return x.flatten(1)[:, :10]

        few = Glyphs(data.held_out.pixels[:7], data.held_out.labels[:7])  # type: ignore[attr-defined]
        from skipvit.transforms import Preprocessing

        probabilities, labels = predict(
            Flat(), few, Preprocessing(height=8, width=8, resize="squash", interpolation="box"), process, batch=2
        )
        if process.leads:
            save_file(
                {"probabilities": torch.from_numpy(probabilities), "labels": torch.from_numpy(labels)}, out / "few"
            )
