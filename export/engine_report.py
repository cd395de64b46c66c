"""What the user is told of an engine: layers, our ops, how it compares, and all of it as JSON in the last line."""

import json
from collections.abc import Mapping

from export.engine_job import TITLES
from export.engine_make import Made
from skipvit.manifest import Engine


def report(made: Made) -> None:
    """Prints it."""
    engine, cached = made.engine, made.layers is None
    if made.layers is None:
        print(f"{made.place} is what would be built; --force builds it again.")
    else:
        _print_layers(made.layers)
    _print_ops(engine)
    _print_parity(engine, made.why_not)
    made_for = f"{TITLES[engine.flavor]} {engine.flavor_version}, compute capability {engine.compute_capability}"
    print(f"{'Found' if cached else 'Written'}: {made.place} ({made_for})")
    print(json.dumps({"engine": str(made.place), "cached": cached, **engine.model_dump(mode="json")}))


def _print_layers(layers: Mapping[str, int]) -> None:
    print(f"Layers, as TensorRT read the graph: {sum(layers.values())}")
    for kind, count in sorted(layers.items(), key=lambda item: (-item[1], item[0])):
        print(f"  {kind.lower():<24}{count:>6}")


def _print_ops(engine: Engine) -> None:
    names = sorted({*engine.plugins, *engine.bodies})
    if not names:
        print("The graph has no op of ours: plugins have nothing to do in it.")
        return
    width = max(map(len, names)) + 2
    print(f"{'Our ops':<{width + 2}}{'nodes':>7}{'plugins':>9}{'bodies':>8}")
    for name in names:
        plugins, bodies = engine.plugins.get(name, 0), engine.bodies.get(name, 0)
        print(f"  {name:<{width}}{plugins + bodies:>7}{plugins:>9}{bodies:>8}")


def _print_parity(engine: Engine, why_not: str) -> None:
    parity = engine.parity
    if parity is None:
        print(f"Built, not run: {why_not}. Nothing vouches for what this engine computes.")
        return
    figures = [f"max abs {parity.max_abs:.1e}", f"relative {parity.max_relative:.1e}"]
    if parity.psnr_db is not None:
        figures.append(f"PSNR {parity.psnr_db:.1f} dB")
    if parity.top1_agreement is not None:
        figures.append(f"top-1 agreement {parity.top1_agreement:.2%}")
    print(f"Verified: {', '.join(figures)}; {parity.engine}, {parity.images_from}; needed: {parity.tolerance}")
