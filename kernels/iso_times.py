"""Read times such as 2018-04-01T00:00:31Z, many at once."""

import numpy as np
from numpy.typing import NDArray

from kernels.compiled import njit
from kernels.parts import part
from kernels.words import BYTES, INT32S, address_of, load_byte

UNREADABLE_TIME = np.iinfo(np.int64).min


def read_iso_times(offsets: NDArray[np.int32], data: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Read ISO 8601 times: a date, then perhaps T or a blank, hours, minutes, seconds, a fraction, and a zone.

    Without a zone it is UTC. Digits below the millisecond are cut off.

    Args:
        offsets: (n + 1,) int32, never decreasing, within `data`.
        data: (bytes,) uint8.

    Returns:
        (n,) int64 milliseconds since the epoch, UNREADABLE_TIME where the text is no such time.

    >>> read_iso_times(np.array([0, 19], np.int32), np.frombuffer(b"1970-01-02 00:00:01", np.uint8))
    array([86401000])
    """
    times = np.empty(max(offsets.size - 1, 0), np.int64)
    if times.size:
        _read_iso_times(offsets, data, times)
    return times


@part
def _digits(at, count):
    """Return the number that `count` decimal digits write, -1 if they are none."""
    value = 0
    for i in range(count):
        digit = load_byte(at + i) - 48
        if digit < 0 or digit > 9:
            return -1
        value = value * 10 + digit
    return value


@part
def _days_since_epoch(year, month, day):
    """Count days in the proleptic Gregorian calendar; -1 if there is no such day, or it is before 1970.

    Source: Howard Hinnant, chrono-compatible low-level date algorithms, days_from_civil.
    """
    if year < 1970 or month < 1 or month > 12 or day < 1:
        return -1
    leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    longest = 30 if month in (4, 6, 9, 11) else 28 + leap if month == 2 else 31
    if day > longest:
        return -1
    shifted = year - (month <= 2)
    era = shifted // 400
    year_of_era = shifted - era * 400
    day_of_year = (153 * (month + (-3 if month > 2 else 9)) + 2) // 5 + day - 1
    return era * 146097 + year_of_era * 365 + year_of_era // 4 - year_of_era // 100 + day_of_year - 719468


@part
def _zone_minutes(at, end):
    """Read Z, +HH, +HHMM or +HH:MM up to `end`; 1 << 20 if it is none."""
    sign = load_byte(at)
    if (sign == 90 or sign == 122) and at + 1 == end:
        return 0
    size = end - at
    if (sign != 43 and sign != 45) or (size != 3 and size != 5 and size != 6):
        return 1 << 20
    if size == 6 and load_byte(at + 3) != 58:
        return 1 << 20
    hours, minutes = _digits(at + 1, 2), _digits(end - 2, 2) if size > 3 else 0
    if hours < 0 or hours > 23 or minutes < 0 or minutes > 59:
        return 1 << 20
    return (hours * 60 + minutes) * (1 if sign == 43 else -1)


@part
def _read_one(at, end):
    if end - at < 10 or load_byte(at + 4) != 45 or load_byte(at + 7) != 45:
        return UNREADABLE_TIME
    year, month, day = _digits(at, 4), _digits(at + 5, 2), _digits(at + 8, 2)
    days = _days_since_epoch(year, month, day) if year >= 0 and month >= 0 else -1
    if days < 0:
        return UNREADABLE_TIME
    ms = days * 86_400_000
    at += 10
    if at == end:
        return ms
    if end - at < 6 or load_byte(at + 3) != 58 or (load_byte(at) | 32 != 116 and load_byte(at) != 32):
        return UNREADABLE_TIME
    hours, minutes, seconds = _digits(at + 1, 2), _digits(at + 4, 2), 0
    at += 6
    if at < end and load_byte(at) == 58:
        if end - at < 3:
            return UNREADABLE_TIME
        seconds = _digits(at + 1, 2)
        at += 3
        if at < end and (load_byte(at) == 46 or load_byte(at) == 44):
            unit, at = 100, at + 1
            if at == end or not 48 <= load_byte(at) <= 57:
                return UNREADABLE_TIME
            while at < end and 48 <= load_byte(at) <= 57:
                ms += (load_byte(at) - 48) * unit
                unit, at = unit // 10, at + 1
    if hours < 0 or hours > 23 or minutes < 0 or minutes > 59 or seconds < 0 or seconds > 59:
        return UNREADABLE_TIME
    if at + 1 < end and load_byte(at) == 32:
        at += 1
    zone = _zone_minutes(at, end) if at < end else 0
    if zone == 1 << 20:
        return UNREADABLE_TIME
    return ms + ((hours * 60 + minutes - zone) * 60 + seconds) * 1000


@njit(f"void({INT32S}, {BYTES}, int64[::1])")
def _read_iso_times(offsets, data, times):
    base = address_of(data)
    for i in range(times.size):
        times[i] = _read_one(base + offsets[i], base + offsets[i + 1])
