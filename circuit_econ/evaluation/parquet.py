"""How large a parquet file becomes, from its footer: asked before anything is decompressed.

The footer is a Thrift structure in the compact protocol; only sizes are taken from it.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any, BinaryIO, Final

__all__ = ["uncompressed"]

_MAGIC: Final = b"PAR1"
_ROW_BYTES: Final = 16
"""What a row takes in memory whatever it holds."""
# Fields by number, as in parquet.thrift.
_FILE_ROWS, _FILE_GROUPS, _GROUP_COLUMNS, _COLUMN_DATA = 3, 4, 1, 3
_DATA_PATH, _DATA_SIZE = 3, 6
_BOOLEANS: Final = (1, 2)
_BYTE, _DOUBLE, _BINARY, _STRUCT, _MAP = 3, 7, 8, 12, 11
_INTEGERS: Final = (4, 5, 6)
_LISTS: Final = (9, 10)
_DEEPEST: Final = 16


def uncompressed(file: BinaryIO, column: str) -> int:
    """Bytes that a column takes once it is read, as the file says.

    Args:
        file: A parquet file, open for reading; its position changes.
        column: Name of a column.

    Raises:
        ValueError: If it is no parquet file.
    """
    end = file.seek(0, io.SEEK_END)
    file.seek(max(0, end - 8))
    length, magic = int.from_bytes(file.read(4), "little"), file.read(4)
    if magic != _MAGIC or length > end - 12:
        raise ValueError("it does not end as one")
    file.seek(end - 8 - length)
    footer = _struct(io.BytesIO(file.read(length)), _DEEPEST)
    return _ROW_BYTES * footer[_FILE_ROWS] + sum(
        data[_DATA_SIZE]
        for group in footer[_FILE_GROUPS]
        for chunk in group[_GROUP_COLUMNS]
        if (data := chunk[_COLUMN_DATA])[_DATA_PATH][0].decode() == column
    )


def _struct(data: io.BytesIO, depth: int) -> dict[int, Any]:
    """The fields of a structure by number."""
    found: dict[int, Any] = {}
    number = 0
    while kind := _byte(data):
        step, kind = kind >> 4, kind & 15
        number = number + step if step else _signed(data)
        found[number] = kind == 1 if kind in _BOOLEANS else _value(data, kind, depth)
    return found


def _value(data: io.BytesIO, kind: int, depth: int) -> Any:
    if not depth:
        raise ValueError("its footer is nested too deeply")
    if kind in _INTEGERS:
        return _signed(data)
    if kind == _BINARY:
        return _bytes(data, _unsigned(data))
    if kind == _STRUCT:
        return _struct(data, depth - 1)
    if kind in _LISTS:
        return list(_items(data, depth - 1))
    if kind in (_BYTE, *_BOOLEANS):
        return _byte(data)
    if kind == _DOUBLE:
        return _bytes(data, 8)
    if kind == _MAP:
        count = _unsigned(data)
        kinds = _byte(data) if count else 0
        return [
            (_value(data, kinds >> 4, depth - 1), _value(data, kinds & 15, depth - 1))
            for _ in range(count)
        ]
    raise ValueError(f"its footer holds a value of kind {kind}")


def _items(data: io.BytesIO, depth: int) -> Iterator[Any]:
    head = _byte(data)
    count = head >> 4 if head >> 4 < 15 else _unsigned(data)
    # Running out of data ends this, whatever the count says.
    return (_value(data, head & 15, depth) for _ in range(count))


def _byte(data: io.BytesIO) -> int:
    return _bytes(data, 1)[0]


def _bytes(data: io.BytesIO, count: int) -> bytes:
    found = data.read(count)
    if len(found) < count:
        raise ValueError("its footer is cut short")
    return found


def _unsigned(data: io.BytesIO) -> int:
    value = shift = 0
    while shift < 64:
        byte = _byte(data)
        value |= (byte & 127) << shift
        if byte < 128:
            return value
        shift += 7
    raise ValueError("its footer holds an endless number")


def _signed(data: io.BytesIO) -> int:
    value = _unsigned(data)
    return (value >> 1) ^ -(value & 1)
