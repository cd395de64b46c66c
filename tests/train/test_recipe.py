"""Recipes: what is read, what is refused, and in which words."""

import json
import re
from pathlib import Path

import pytest

from train.recipe import PACKAGED, Recipe, RecipeError, find_recipe, read_recipe


def test_reads_a_file(tiny: Path) -> None:
    recipe = read_recipe(tiny)
    assert recipe.optim.lr == 2e-3
    assert recipe.model.args["skip"] == [1]
    assert recipe.data.mean == (0.485, 0.456, 0.406)


def test_set_overrides_with_toml_values_and_bare_words(tiny: Path) -> None:
    overrides = [
        "optim.lr=1e-3",
        "run.strategy=ddp",
        "data.mean=[0.5, 0.5, 0.5]",
        "model.args.depth=4",
        "run.amp='off'",
    ]
    recipe = read_recipe(tiny, overrides)
    assert (recipe.optim.lr, recipe.run.strategy, recipe.run.amp) == (1e-3, "ddp", "off")
    assert recipe.data.mean == (0.5, 0.5, 0.5)
    assert recipe.model.args["depth"] == 4


def test_resolved_recipe_is_a_recipe(tiny: Path, tmp_path: Path) -> None:
    recipe = read_recipe(tiny, ["run.seed=7"])
    resolved = tmp_path / "recipe.json"
    resolved.write_text(json.dumps(recipe.model_dump(mode="json")))
    assert read_recipe(resolved) == recipe


def test_guide_is_there_when_it_is_named(tiny: Path, tmp_path: Path) -> None:
    assert read_recipe(tiny).guide is None
    guide = read_recipe(tiny, ["guide.weight=0.3"]).guide
    assert guide is not None
    assert (guide.ramp, guide.weight, guide.schedule) == (0.5, 0.3, "linear")
    resolved = tmp_path / "recipe.json"  # which says null where there is none
    resolved.write_text(json.dumps(read_recipe(tiny).model_dump(mode="json")))
    assert read_recipe(resolved, ["guide.weight=0.3"]).guide == guide


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optim.zzz=1", r"unknown key optim.zzz = 1; the keys here are lr, weight_decay"),
        ("optim.weigth_decay=1", r"unknown key optim.weigth_decay = 1; did you mean optim.weight_decay\?"),
        ("optim.epoch=3", r"unknown key optim.epoch = 3; did you mean schedule.epochs\?"),
        ("optimizer.lr=3", r"unknown key optimizer = .*; did you mean optim\?"),
        ("optim.lr=fast", r"optim.lr = 'fast': input should be a valid number"),
        ("optim.lr=-1", r"optim.lr = -1: input should be greater than 0"),
        ("run.batch=64.5", r"run.batch = 64.5: input should be a valid integer"),
        ("run.tensorboard=1", r"run.tensorboard = 1: input should be a valid boolean"),
        ("run.strategy=dpp", r"run.strategy = 'dpp': input should be 'auto', 'single', 'ddp' or 'fsdp'"),
        ("guide.wieght=1", r"unknown key guide.wieght = 1; did you mean guide.weight\?"),
        ("guide.ramp=2", r"guide.ramp = 2: input should be less than or equal to 1"),
        ("distill.kind=softly", r"distill.kind = 'softly': input should be 'soft' or 'hard'"),
        ("distil.teacher=x", r"unknown key distil = .*; did you mean distill\?"),
        ("schedule.warmup_epochs=2", r"schedule: warmup_epochs 2 must be fewer than epochs 2"),
        ("run.accumulate=5", r"run.batch 64 cannot be split into run.accumulate 5"),
        ("run.batch=1", None),
    ],
)
def test_wrong_values_are_named_with_file_and_key(tiny: Path, override: str, message: str | None) -> None:
    if message is None:
        assert read_recipe(tiny, [override]).run.batch == 1
        return
    with pytest.raises(RecipeError, match=message) as caught:
        read_recipe(tiny, [override])
    assert str(tiny) in str(caught.value)
    assert override in str(caught.value)


def test_all_errors_are_told_at_once(tiny: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        read_recipe(tiny, ["optim.lr=fast", "run.bacth=3"])
    assert len(str(caught.value).splitlines()) == 2


def test_missing_key_is_named(tiny: Path) -> None:
    tiny.write_text(tiny.read_text().replace('name = "skipat_micro_patch2_8"', ""))
    with pytest.raises(RecipeError, match=re.escape(f"{tiny}: model.name is missing")):
        read_recipe(tiny)


@pytest.mark.parametrize("override", ["optim.lr", "lr=3", "=3"])
def test_malformed_override_says_how_to_write_it(tiny: Path, override: str) -> None:
    with pytest.raises(RecipeError, match=r"write it as section.key=value"):
        read_recipe(tiny, [override])


def test_override_below_a_value_is_refused(tiny: Path) -> None:
    with pytest.raises(RecipeError, match="lr is a value, not a section"):
        read_recipe(tiny, ["optim.lr.x=3"])


def test_broken_toml_is_named(tmp_path: Path) -> None:
    path = tmp_path / "broken.toml"
    path.write_text("[model\n")
    with pytest.raises(RecipeError, match=r"broken.toml cannot be read as a recipe: .*line 1"):
        read_recipe(path)


def test_json_that_is_no_table_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "list.json"
    path.write_text("[]")
    with pytest.raises(RecipeError, match="holds a list, a recipe is a table with the keys model, data"):
        read_recipe(path)


@pytest.mark.parametrize("task", ['"detection"', "3"])
def test_unknown_task_is_refused(tiny: Path, task: str) -> None:
    tiny.write_text(f"task = {task}\n{tiny.read_text()}")
    with pytest.raises(RecipeError, match=r"task = .*; the tasks are classification"):
        read_recipe(tiny)


def test_bare_names_are_packaged_recipes() -> None:
    assert find_recipe("digits_vit") == find_recipe("digits_vit.toml") == PACKAGED / "digits_vit.toml"


def test_a_file_goes_before_a_packaged_recipe(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tiny.parent)
    tiny.rename("digits_vit")
    assert find_recipe("digits_vit") == Path("digits_vit")


@pytest.mark.parametrize("name", ["digits_vitt", "digit_vit.toml"])
def test_unknown_recipe_suggests_the_nearest(name: str) -> None:
    with pytest.raises(RecipeError, match=rf"no recipe {name}: .*digits_vit"):
        read_recipe(name)


def test_differences_name_the_keys(tiny: Path) -> None:
    one, other = read_recipe(tiny), read_recipe(tiny, ["optim.lr=1e-3", "model.args.depth=4"])
    assert one.differences(one) == []
    assert one.differences(other) == ["model.args.depth: 3, was 4", "optim.lr: 0.002, was 0.001"]


def test_recipes_are_frozen(tiny: Path) -> None:
    recipe: Recipe = read_recipe(tiny)
    with pytest.raises(ValueError, match="frozen"):
        recipe.run.seed = 3  # type: ignore[misc]


def test_no_packaged_recipe_waits_for_its_figures() -> None:
    for path in PACKAGED.glob("*.toml"):
        assert "EXPECTED" not in path.read_text(), path
