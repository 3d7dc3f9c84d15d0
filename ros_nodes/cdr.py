"""ROS 2's wire form of messages: XCDR1, both byte orders read, little endian written (OMG DDS-XTypes 1.3, 7.4.1).

Numbers lie at multiples of their size, counted from behind the four bytes of the header. Sequences of bytes are copied
as a whole: an image costs as much as its copy.
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from ros_nodes.interfaces import NUMBERS, Field, fields, message

HEADER = b"\x00\x01\x00\x00"  # plain CDR, little endian
LITTLE = sys.byteorder == "little"


class CdrError(ValueError):
    """A message that cannot be written, or bytes that are no such message; the text says where."""


def encode(value: Any, name: str | None = None) -> bytes:
    """A message (anything with the attributes of interface `name`; its own INTERFACE by default) -> bytes. Raises
    CdrError naming the field."""
    out = bytearray()
    name = name or value.INTERFACE
    _writer(name)(out, value)
    return HEADER + bytes(out)


def decode(data: bytes | memoryview, name: str) -> Any:
    """Bytes -> a message of interface `name`. Raises CdrError for bytes that end too soon or hold what cannot be."""
    view = memoryview(data)
    if len(view) < 4 or view[0] != 0 or view[1] > 1:
        raise CdrError(f"{name}: a header of plain CDR is needed, got {bytes(view[:4]).hex() or 'nothing'}")
    return _reader(name, view[1] == 1)(Source(view[4:]))


# ---- writing


@cache
def _writer(name: str) -> Callable[[bytearray, Any], None]:
    parts = [(f.name, _field_writer(f)) for f in fields(name)]

    def write(out: bytearray, value: Any) -> None:
        for attribute, put in parts:
            try:
                put(out, getattr(value, attribute))
            except CdrError:
                raise
            except (struct.error, TypeError, AttributeError, ValueError, OverflowError) as error:
                raise CdrError(f"{name}.{attribute}: {error}") from None
        if not parts:
            out.append(0)  # a structure has one member at least

    return write


def _field_writer(f: Field) -> Callable[[bytearray, Any], None]:
    if not f.many:
        return _value_writer(f.kind)
    put, number = _value_writer(f.kind), NUMBERS.get(f.kind)

    def write(out: bytearray, values: Sequence) -> None:
        if f.many == "array" and len(values) != f.count:
            raise CdrError(f"{f.name}: {f.count} values are needed, got {len(values)}")
        if f.many == "sequence":
            if f.count and len(values) > f.count:
                raise CdrError(f"{f.name}: {f.count} values are allowed, got {len(values)}")
            _number(out, "I", 4, len(values))
        if number is None:
            for value in values:
                put(out, value)
        elif len(values):
            _align(out, number[1])
            out += _packed(values, number[0])

    return write


def _packed(values: Sequence, letter: str) -> bytes | memoryview:
    """Numbers as little-endian bytes; what is bytes or an array of the right type already is not looked into."""
    if isinstance(values, (bytes, bytearray, memoryview)) and letter == "B":
        return values
    if not (isinstance(values, array) and values.typecode == letter):
        values = array(letter, [v[0] if isinstance(v, bytes) else v for v in values])
    if not LITTLE:
        values = array(letter, values)
        values.byteswap()
    return memoryview(values).cast("B")


def _value_writer(kind: str) -> Callable[[bytearray, Any], None]:
    if kind == "string":
        return _string
    if kind in NUMBERS:
        letter, size, _ = NUMBERS[kind]
        return lambda out, value: _number(out, letter, size, value[0] if isinstance(value, bytes) else value)
    return lambda out, value: _writer(kind)(out, value)


def _align(out: bytearray, size: int) -> None:
    out += bytes(-len(out) % size)


def _number(out: bytearray, letter: str, size: int, value) -> None:
    _align(out, size)
    out += struct.pack("<" + letter, value)


def _string(out: bytearray, value: str) -> None:
    text = value.encode() + b"\x00"
    _number(out, "I", 4, len(text))
    out += text


# ---- reading


class Source:
    """Bytes that are read from the front."""

    def __init__(self, view: memoryview):
        self.view, self.at = view, 0

    def take(self, count: int, align: int = 1) -> memoryview:
        begin = self.at + -self.at % align
        if count < 0 or begin + count > len(self.view):
            raise CdrError(f"the bytes end at {len(self.view)}, {begin + count} are needed")
        self.at = begin + count
        return self.view[begin : self.at]


@cache
def _reader(name: str, little: bool) -> Callable[[Source], Any]:
    build, readers = message(name), [_field_reader(f, little) for f in fields(name)]
    return lambda source: build(*[read(source) for read in readers])


def _field_reader(f: Field, little: bool) -> Callable[[Source], Any]:
    one = _value_reader(f.kind, little)
    if not f.many:
        return one
    count, number = _value_reader("uint32", little), NUMBERS.get(f.kind)

    def read(source: Source):
        length = f.count if f.many == "array" else count(source)
        if number is None or f.kind == "bool":
            if length > len(source.view) - source.at:  # each takes a byte at least
                raise CdrError(f"{f.name}: {length} values in {len(source.view) - source.at} bytes")
            return [one(source) for _ in range(length)]
        letter, size, _ = number
        raw = source.take(length * size, size if length else 1)
        if f.kind in ("uint8", "byte"):
            return bytes(raw)
        values = array(letter)
        values.frombytes(raw)
        if little != LITTLE:
            values.byteswap()
        return values

    return read


def _value_reader(kind: str, little: bool) -> Callable[[Source], Any]:
    order = "<" if little else ">"
    if kind == "string":
        length = _value_reader("uint32", little)
        return lambda source: _text(bytes(source.take(length(source))))
    if kind in NUMBERS:
        letter, size, _ = NUMBERS[kind]
        unpack = struct.Struct(order + ("?" if kind == "bool" else letter)).unpack
        return lambda source: unpack(source.take(size, size))[0]
    return lambda source: _reader(kind, little)(source)


def _text(raw: bytes) -> str:
    """Without the zero at its end; some writers leave it out of an empty string."""
    try:
        return raw.removesuffix(b"\x00").decode()
    except UnicodeDecodeError as error:
        raise CdrError(f"a string that is not UTF-8: {error}") from None
