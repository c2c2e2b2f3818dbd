"""Numbers as they are printed: one rule for tables, reports and sentences."""

import math

NONE = "–"


def number(
    value: float | None, half_width: float | None = None, digits: int = 4, signed: bool = False
) -> str:
    """Return a number, rounded to what is known of it.

    With an interval, ``half_width`` keeps two significant digits and the number ends at the same
    place: 94.6834 with 0.1273 is printed as 94.68 ± 0.13, and 28,207 with 8,184 as 28,200 ± 8,200.
    Without one, the number keeps ``digits`` significant digits; whole digits are never cut off.

    Args:
        value: None prints a dash.
        half_width: of the 95 % interval; None or 0 for none.
        digits: where there is no interval.
        signed: print + before a positive number.
    """
    if value is None:
        return NONE
    if not math.isfinite(value):
        return f"{value:+}" if signed else f"{value}"
    sign = "+" if signed else ""
    if not half_width or not math.isfinite(half_width):
        return _plain(value, digits, sign)
    place = _place(half_width)
    decimals = max(-place, 0)
    mean, half = round(value, -place), round(half_width, -place)
    return f"{mean + 0.0:{sign},.{decimals}f} ± {half:,.{decimals}f}"


def fixed(value: float | None, decimals: int = 3) -> str:
    """Return a number with so many decimals; – for None."""
    return NONE if value is None else f"{value:,.{decimals}f}"


def percent(share: float | None) -> str:
    """Return a share in percent; – for None."""
    return NONE if share is None else f"{100 * share:.1f} %"


def _place(half_width: float) -> int:
    """Return the power of ten of the last digit that an interval keeps; at least 1e-6."""
    return max(math.floor(math.log10(half_width)) - 1, -6)


def _plain(value: float, digits: int, sign: str) -> str:
    if value and abs(value) >= 10 ** (digits - 1):
        return f"{value:{sign},.0f}"
    text = f"{value:{sign}.{digits}g}"
    return f"{value:{sign}.1e}" if "e" in text else text
