"""The text that says which decoder blocks reuse attention."""

import pytest

from skipvit.models import Uformer
from skipvit.models.decoder_skip import parse_decoder_skip

DEPTHS = (8, 8, 2, 1)


@pytest.mark.parametrize(
    ("text", "blocks"),
    [
        ("", ((), (), (), ())),
        ("all", (tuple(range(8)), tuple(range(8)), (0, 1), (0,))),
        ("even", ((0, 2, 4, 6), (0, 2, 4, 6), (0,), (0,))),
        ("odd", ((1, 3, 5, 7), (1, 3, 5, 7), (1,), ())),
        ("2", ((), (), (0, 1), ())),
        ("0.1-3, 3.0", ((1, 2, 3), (), (), (0,))),
        ("1.7,1.2,1.7,1.2-3", ((), (2, 3, 7), (), ())),
    ],
)
def test_text_and_blocks(text: str, blocks: tuple[tuple[int, ...], ...]) -> None:
    assert parse_decoder_skip(text, DEPTHS) == blocks


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("every", "cannot be read at 'every'; give 'all', 'even', 'odd', or stages"),
        ("0.1-3,", "cannot be read at ''"),
        ("0.3-1", "last block is before the first"),
        ("4", "decoder stage 4, but the model has stages 0 to 3"),
        ("3.1", "block 1 of decoder stage 3, which has blocks 0 to 0"),
        ("²", "cannot be read at '²'"),
        (None, "skip is text, got None"),
    ],
)
def test_what_cannot_be_read_is_explained(text: str, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        parse_decoder_skip(text, DEPTHS)


def test_a_block_without_a_partner_in_the_encoder_is_refused() -> None:
    sizes = {"embed_dim": 4, "depths": (1, 1, 2), "num_heads": (1, 1, 1)}
    Uformer(**sizes, skip="0.0")  # type: ignore[arg-type] - sizes of several types
    with pytest.raises(ValueError, match="block 1 of decoder stage 0 has no attention to reuse"):
        Uformer(**sizes, skip="all")  # type: ignore[arg-type] - sizes of several types
