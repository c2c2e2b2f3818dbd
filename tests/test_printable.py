"""Control characters never reach a terminal."""

from trm_lightning.printable import printable


def test_control_characters_are_escapes_and_the_rest_is_kept() -> None:
    assert printable("\x1b]0;own\x07 \x9b31m \r\x00\x7f") == (
        "\\x1b]0;own\\x07 \\x9b31m \\x0d\\x00\\x7f"
    )
    kept = "Grüße,\tdas ist\nein → Text \U0001f600\u00a0"
    assert printable(kept) == kept
    shown = printable("".join(map(chr, range(0x10000))))
    assert not set(shown) & {chr(c) for c in [*range(9), *range(11, 32), *range(127, 160)]}
    shown.encode()
