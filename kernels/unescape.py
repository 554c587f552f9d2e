"""What the escapes of JSON and the doubled quotes of CSV stand for."""

from kernels.json_tokens import hex_value
from kernels.parts import part
from kernels.words import load_byte


@part
def unescape(at, end, out, size):
    """Write the UTF-8 of a valid JSON string, without its quotes, to out[size:]; return the size then."""
    while at < end:
        byte = load_byte(at)
        if byte != 92:
            out[size] = byte
            size, at = size + 1, at + 1
            continue
        byte = load_byte(at + 1)
        if byte != 117:
            if byte == 98:
                byte = 8
            elif byte == 102:
                byte = 12
            elif byte == 110:
                byte = 10
            elif byte == 114:
                byte = 13
            elif byte == 116:
                byte = 9
            out[size] = byte
            size, at = size + 1, at + 2
            continue
        code = hex_value(at + 2)
        at += 6
        if 0xD800 <= code < 0xDC00:
            code = 0x10000 + ((code - 0xD800) << 10) + hex_value(at + 2) - 0xDC00
            at += 6
        size = _write_utf8(code, out, size)
    return size


@part
def unquote(at, end, out, size):
    """Write a CSV cell, without its outer quotes, to out[size:] with each doubled quote once; return the size then."""
    while at < end:
        byte = load_byte(at)
        out[size] = byte
        size, at = size + 1, at + (2 if byte == 34 else 1)
    return size


@part
def _write_utf8(code, out, size):
    if code < 0x80:
        out[size] = code
        return size + 1
    if code < 0x800:
        out[size], out[size + 1] = 0xC0 | code >> 6, 0x80 | code & 0x3F
        return size + 2
    if code < 0x10000:
        out[size], out[size + 1], out[size + 2] = 0xE0 | code >> 12, 0x80 | code >> 6 & 0x3F, 0x80 | code & 0x3F
        return size + 3
    out[size], out[size + 1] = 0xF0 | code >> 18, 0x80 | code >> 12 & 0x3F
    out[size + 2], out[size + 3] = 0x80 | code >> 6 & 0x3F, 0x80 | code & 0x3F
    return size + 4
