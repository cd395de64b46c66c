"""What two looks at a folder come to, without a folder."""

from typing import Any

from hypothesis import given, strategies

from serve.models.watch import Watch
from serve.settings import Settings

A, B, C = ("a", 1, 1, 1), ("b", 1, 1, 1), ("c", 1, 1, 1)
FOLDERS = strategies.dictionaries(
    strategies.sampled_from("xy"),
    strategies.dictionaries(strategies.integers(1, 3), strategies.sampled_from([(), (A,), (B,)]), max_size=3),
    max_size=2,
)


def watched(*looks: Any, policy: Any = "latest") -> Watch:
    watch = Watch(Settings(models={"x": {"versions": policy}}))  # type: ignore[dict-item]
    for look in looks:
        watch.look(look)
    return watch


def test_a_new_version_is_loaded_when_it_is_seen_twice_the_same() -> None:
    served = {"x": {1: (A,)}}
    first, growing, grown = {"x": {1: (A,)}}, {"x": {1: (A,), 2: (B,)}}, {"x": {1: (A,), 2: (C,)}}
    assert watched(first, growing).to_load(served, {}) == []
    assert watched(growing, grown).to_load(served, {}) == []
    assert watched(grown, grown).to_load(served, {}) == [("x", 2)]
    assert watched(grown, grown).to_load(served, {("x", 2): (C,)}) == [], "it was tried as it is now"
    assert watched(grown, grown).to_load(served, {("x", 2): (B,)}) == [("x", 2)], "it was tried as it was before"


def test_a_folder_without_a_manifest_is_no_version_yet() -> None:
    copying = {"x": {1: (A,), 2: ()}}
    assert watched(copying, copying).to_load({"x": {1: (A,)}}, {}) == []
    assert watched(copying, copying).surplus({"x": {1: (A,)}}) == []


def test_the_old_version_goes_when_the_new_one_is_served() -> None:
    both = {"x": {1: (A,), 2: (B,)}}
    assert watched(both, both).surplus({"x": {1: (A,)}}) == [], "the new one is bad, say"
    assert watched(both, both).surplus({"x": {1: (A,), 2: (B,)}}) == [("x", 1)]
    assert watched(both, both, policy="all").surplus({"x": {1: (A,), 2: (B,)}}) == []
    assert watched(both, both, policy=[1]).surplus({"x": {1: (A,), 2: (B,)}}) == [("x", 2)]


def test_what_is_gone_is_gone_when_it_is_missed_twice() -> None:
    there, gone, served = {"x": {1: (A,)}, "y": {1: (B,)}}, {"y": {1: (B,)}}, {"x": {1: (A,)}, "y": {1: (B,)}}
    assert watched(there, gone).surplus(served) == []
    assert watched(there, gone, gone).surplus(served) == [("x", 1)]
    assert watched(there, {}, {}).surplus(served) == [], "an empty folder was unmounted"
    replaced = {"x": {1: ()}, "y": {1: (B,)}}
    assert watched(there, replaced, replaced).surplus(served) == [], "it is being replaced"


def test_losing_sight_is_news_once() -> None:
    watch = watched({})
    assert [watch.lost_sight(), watch.lost_sight()] == [True, False]
    watch.look({})
    assert watch.lost_sight()


@given(FOLDERS, FOLDERS, FOLDERS, strategies.sampled_from(["latest", "all", [1, 2]]))
def test_a_model_never_loses_its_last_version_while_another_lies_there(
    before: Any, now: Any, served: Any, policy: Any
) -> None:
    served = {name: versions for name, versions in served.items() if versions}
    watch = watched(before, now, policy=policy)
    surplus = set(watch.surplus(served))
    for name, versions in served.items():
        kept = [version for version in versions if (name, version) not in surplus]
        if any(version in now.get(name, {}) for version in versions) and policy != [1, 2]:
            assert kept
    loads = watch.to_load(served, {})
    assert all(now[name][version] and now[name][version] == before[name][version] for name, version in loads)
    assert not surplus & set(loads)
