"""Which decoder blocks of a U-shaped model reuse an encoder block's attention, as text.

    ""              none: the plain model
    "all"           every block of the decoder
    "even", "odd"   every other block of each stage, from its first or second one on
    "2"             all blocks of decoderlayer_2
    "0.1-3,2.0"     blocks 1 to 3 of decoderlayer_0, and block 0 of decoderlayer_2

Stages count from the deepest decoder stage, blocks within their stage, both from 0. A block reuses the attention of
the block of its index in the encoder's stage of the same resolution.
"""

import re
from collections.abc import Sequence

_HINT = "give 'all', 'even', 'odd', or stages and blocks of the decoder as in '0.1-3,2.0' or '2'"
_RULES = {"all": slice(None), "even": slice(0, None, 2), "odd": slice(1, None, 2)}


def parse_decoder_skip(text: str, depths: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """The blocks that reuse, for each stage of the decoder, in rising order.

    Args:
        depths: blocks in each stage of the decoder, the deepest first.

    Raises:
        ValueError: the text cannot be read, or names a block that there is not.
    """
    if not isinstance(text, str):
        raise ValueError(f"skip is text, got {text!r}; {_HINT}")
    if text.strip() in _RULES:
        return tuple(tuple(range(depth)[_RULES[text.strip()]]) for depth in depths)
    chosen: list[set[int]] = [set() for _ in depths]
    for item in text.split(",") if text.strip() else ():
        stage, blocks = _item(item.strip(), depths)
        chosen[stage].update(blocks)
    return tuple(tuple(sorted(blocks)) for blocks in chosen)


def _item(item: str, depths: Sequence[int]) -> tuple[int, range]:
    match = re.fullmatch(r"(\d{1,3})(?:\.(\d{1,4})(?:-(\d{1,4}))?)?", item, re.ASCII)
    if match is None:
        raise ValueError(f"skip cannot be read at {item[:40]!r}; {_HINT}")
    stage = int(match[1])
    if stage >= len(depths):
        raise ValueError(f"skip names decoder stage {stage}, but the model has stages 0 to {len(depths) - 1}")
    if match[2] is None:
        return stage, range(depths[stage])
    first, last = int(match[2]), int(match[3] or match[2])
    if last < first:
        raise ValueError(f"skip cannot be read at {item!r}, whose last block is before the first; {_HINT}")
    if last >= depths[stage]:
        raise ValueError(f"skip names block {last} of decoder stage {stage}, which has blocks 0 to {depths[stage] - 1}")
    return stage, range(first, last + 1)
