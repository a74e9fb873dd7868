"""Changes that know what they change: PDUs, elements, fragments; and plain octets.

Half of the time the lengths around a change are put right, so that it reaches what
lies behind the length checks; half of the time they lie.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Sequence
from typing import Final

Leaf = Callable[[bytes, int, random.Random], bytes]
"""Changes octets, to so many at most."""

INTERESTING: Final = (
    b"\0",
    b"\xff",
    b"\x7f",
    b"\x80",
    b"\xff\xff",
    b"\x00\x80",
    b"\0\0\0\0",
    b"\xff" * 4,
    b"\xfe\xff\xff\xff",
    b"\xff\xff\xff\x7f",
    b"\xfe\xff\x00\xe0",
    b"\xfe\xff\x0d\xe0",
    b"\xfe\xff\xdd\xe0",
    b"\\",
    b"1.2.840.10008.1.2",
    b"NaN",
    b"1e999",
    b"-1",
    b"99999999999999999999",
)
LONG_VRS: Final = frozenset(b"OB OW OF OD OL OV SQ UN UC UR UT SV UV".split())
VRS: Final = (
    *sorted(LONG_VRS),
    *(b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FL", b"FD", b"IS", b"LO"),
    *(b"LT", b"PN", b"SH", b"SL", b"SS", b"ST", b"TM", b"UI", b"UL", b"US", b"??"),
)


def plain(data: bytes, longest: int, chance: random.Random) -> bytes:
    """Change octets without knowing what they are."""
    made = bytearray(data)
    for _ in range(1 << chance.randrange(4)):
        place = chance.randrange(len(made) + 1)
        kind = chance.randrange(7)
        if kind == 0 and place < len(made):
            made[place] ^= 1 << chance.randrange(8)
        elif kind == 1:
            piece = chance.choice(INTERESTING)
            made[place : place + len(piece)] = piece
        elif kind == 2:
            del made[place : place + chance.randint(1, 32)]
        elif kind == 3:
            made[place:place] = chance.randbytes(chance.randint(1, 32))
        elif kind == 4:
            other = chance.randrange(len(made) + 1)
            made[place:place] = made[other : other + chance.randint(1, 64)]
        elif kind == 5 and place + 4 <= len(made):
            order = chance.choice("<>")
            (number,) = struct.unpack_from(f"{order}L", made, place)
            number = (number + chance.choice((-2, -1, 1, 2, 256))) & 0xFFFFFFFF
            struct.pack_into(f"{order}L", made, place, number)
        else:
            del made[max(place, len(made) - 64) :]
    return bytes(made[:longest])


class Pieces:
    """A structure taken apart into pieces, changed, and put together."""

    def __init__(self, leaf: Leaf) -> None:
        self._leaf = leaf

    def __call__(self, data: bytes, longest: int, chance: random.Random) -> bytes:
        """Change one input."""
        pieces = self.split(data)
        if len(pieces) < 2 or chance.random() < 0.25:
            return self._leaf(data, longest, chance)
        for _ in range(chance.randint(1, 3)):
            self._change(pieces, longest, chance)
        return b"".join(pieces)[:longest]

    def split(self, data: bytes) -> list[bytes]:
        """Take apart; what cannot be is one piece at the end."""
        raise NotImplementedError

    def value_changed(self, piece: bytes, longest: int, chance: random.Random) -> bytes:
        """Change the inside of a piece."""
        raise NotImplementedError

    def _change(self, pieces: list[bytes], longest: int, chance: random.Random) -> None:
        at, other = chance.randrange(len(pieces)), chance.randrange(len(pieces))
        kind = chance.randrange(10)
        if kind < 6:
            pieces[at] = self.value_changed(pieces[at], longest, chance)
        elif kind == 6:
            pieces.insert(at, pieces[other])
        elif kind == 7:
            pieces[at], pieces[other] = pieces[other], pieces[at]
        elif kind == 8 and len(pieces) > 1:
            del pieces[at]
        else:
            pieces[at] = self._leaf(pieces[at], longest, chance)


class Pdus(Pieces):
    """A stream of PDUs (PS3.8 9.3): type, length, and items in them."""

    def split(self, data: bytes) -> list[bytes]:
        """Take apart at the lengths the PDUs say."""
        pieces, at = [], 0
        while at + 6 <= len(data):
            (length,) = struct.unpack_from(">L", data, at + 2)
            if length > len(data) - at - 6:
                break
            pieces.append(data[at : at + 6 + length])
            at += 6 + length
        return [*pieces, data[at:]] if at < len(data) else pieces

    def value_changed(self, piece: bytes, longest: int, chance: random.Random) -> bytes:
        """Change a PDU's items, or its fields."""
        if len(piece) < 6:
            return self._leaf(piece, longest, chance)
        kind, body = piece[0], piece[6:]
        if kind == 1 and len(body) > 68:
            fields, items = body[:68], self._items(body[68:], 4, longest, chance)
            body = fields + items
        elif kind == 4:
            body = self._values(body, longest, chance)
        else:
            body = self._leaf(body, longest, chance)
        length = len(body) if chance.random() < 0.7 else _lie(len(body), 32, chance)
        if chance.random() < 0.05:
            kind = chance.randrange(9)
        return struct.pack(">BBL", kind, 0, length) + body

    def _items(
        self, body: bytes, header: int, longest: int, chance: random.Random
    ) -> bytes:
        """Change items of an association request, nested ones too."""
        items, at = [], 0
        while at + header <= len(body):
            (length,) = struct.unpack_from(">H", body, at + 2)
            items.append(body[at : at + 4 + length])
            at += 4 + length
        if not items:
            return self._leaf(body, longest, chance)
        number = chance.randrange(len(items))
        one = items[number]
        kind, inside = one[0] if one else 0, one[4:]
        action = chance.randrange(5)
        if action == 0:
            items.insert(number, items[chance.randrange(len(items))])
        elif action == 1 and kind in {0x20, 0x50} and len(inside) > 8:
            fixed = 4 if kind == 0x20 else 0
            inside = inside[:fixed] + self._items(inside[fixed:], 4, longest, chance)
        elif action == 2:
            inside = chance.choice(INTERESTING)
        else:
            inside = self._leaf(inside, longest, chance)
        length = len(inside) & 0xFFFF
        if chance.random() < 0.3:
            length = _lie(length, 16, chance)
        items[number] = struct.pack(">BBH", kind, 0, length) + inside[:0xFFFF]
        return b"".join(items)

    def _values(self, body: bytes, longest: int, chance: random.Random) -> bytes:
        """Change one presentation data value: context, control header, fragment."""
        values, at = [], 0
        while at + 6 <= len(body):
            (length,) = struct.unpack_from(">L", body, at)
            if not 2 <= length <= len(body) - at - 4:
                break
            values.append(body[at : at + 4 + length])
            at += 4 + length
        if not values:
            return self._leaf(body, longest, chance)
        number = chance.randrange(len(values))
        context, control, data = (
            values[number][4],
            values[number][5],
            values[number][6:],
        )
        action = chance.randrange(6)
        if action == 0:
            context = chance.randrange(256)
        elif action == 1:
            control = chance.choice((0, 1, 2, 3, 255))
        elif action == 2 and control & 1:
            data = _command_changed(data, self._leaf, longest, chance)
        elif action == 3 and data:  # in two fragments
            cut = chance.randrange(len(data))
            head = struct.pack(">LBB", cut + 2, context, control & 1) + data[:cut]
            values.insert(number, head)
            number, data = number + 1, data[cut:]
        else:
            data = self._leaf(data, longest, chance)
        length = len(data) + 2
        if chance.random() < 0.2:
            length = _lie(length, 32, chance)
        values[number] = struct.pack(">LBB", length, context, control) + data
        return b"".join(values)


def _command_changed(
    data: bytes, leaf: Leaf, longest: int, chance: random.Random
) -> bytes:
    """Change one element of a command set, and perhaps its group length."""
    elements, at = [], 0
    while at + 8 <= len(data):
        (length,) = struct.unpack_from("<L", data, at + 4)
        if length > len(data) - at - 8:
            break
        elements.append((data[at : at + 4], data[at + 8 : at + 8 + length]))
        at += 8 + length
    if len(elements) < 2:
        return leaf(data, longest, chance)
    number = chance.randrange(len(elements))
    tag, value = elements[number]
    if chance.random() < 0.2:
        tag = b"\0\0" + chance.randbytes(2)
    elements[number] = (tag, leaf(value, 256, chance))
    if chance.random() < 0.2:
        elements.append(elements[chance.randrange(len(elements))])
    made = b"".join(t + struct.pack("<L", len(v)) + v for t, v in elements[1:])
    if elements[0][0] == bytes(4) and chance.random() < 0.7:
        return struct.pack("<HHLL", 0, 0, 4, len(made)) + made
    return (
        elements[0][0] + struct.pack("<L", len(elements[0][1])) + elements[0][1] + made
    )


class Elements(Pieces):
    """A data set behind ``prefix`` octets, explicit or implicit by the first one.

    The first octet of an input chooses the transfer syntax (`tests.fuzz.seeds`).
    """

    def __init__(self, leaf: Leaf, prefix: int = 1) -> None:
        super().__init__(leaf)
        self._prefix = prefix
        self._explicit, self._order = True, "<"

    def split(self, data: bytes) -> list[bytes]:
        """Take the elements of the first level apart."""
        from tests.fuzz.seeds import encoding_of

        self._explicit, little = encoding_of(data)
        self._order = "<" if little else ">"
        pieces, at = [data[: self._prefix]], self._prefix
        while at + 8 <= len(data):
            length, start = self._header(data, at)
            if length is None:
                break
            end = start + length
            if length == 0xFFFFFFFF:
                found = data.find(
                    struct.pack(f"{self._order}HH", 0xFFFE, 0xE0DD), start
                )
                end = found + 8 if found >= 0 else len(data)
            if end > len(data):
                break
            pieces.append(data[at:end])
            at = end
        return [*pieces, data[at:]] if at < len(data) else pieces

    def _header(self, data: bytes, at: int) -> tuple[int | None, int]:
        """Length of the value, and where it starts."""
        if not self._explicit:
            return struct.unpack_from(f"{self._order}L", data, at + 4)[0], at + 8
        if data[at + 4 : at + 6] not in LONG_VRS:
            return struct.unpack_from(f"{self._order}H", data, at + 6)[0], at + 8
        if at + 12 > len(data):
            return None, at
        return struct.unpack_from(f"{self._order}L", data, at + 8)[0], at + 12

    def value_changed(self, piece: bytes, longest: int, chance: random.Random) -> bytes:
        """Change tag, VR, length or value of an element."""
        if len(piece) < 8:
            return self._leaf(piece, longest, chance)
        length, start = self._header(piece, 0)
        if length is None:
            return self._leaf(piece, longest, chance)
        tag, vr, value = piece[:4], piece[4:6], piece[start:]
        action = chance.randrange(8)
        if action == 0:
            tag = tag[:2] + chance.randbytes(2)
        elif action == 1:
            vr = chance.choice(VRS)
        elif action == 2:
            value = chance.choice(INTERESTING) * chance.randint(1, 4)
        elif action == 3:
            value = b""
        elif action == 4:  # an item around it
            order = self._order
            value = struct.pack(f"{order}HHL", 0xFFFE, 0xE000, len(value)) + value
            vr = b"SQ"
        else:
            value = self._leaf(value, longest, chance)
        wanted = length if length == 0xFFFFFFFF else len(value)
        if chance.random() < 0.15:
            wanted = _lie(wanted, 32, chance)
        return self._element(tag, vr, wanted, value)

    def _element(self, tag: bytes, vr: bytes, length: int, value: bytes) -> bytes:
        order = self._order
        if not self._explicit:
            return tag + struct.pack(f"{order}L", length) + value
        if vr in LONG_VRS:
            return tag + vr + struct.pack(f"{order}HL", 0, length) + value
        return tag + vr + struct.pack(f"{order}H", length & 0xFFFF) + value


class Lines(Pieces):
    """Text by its lines, as TOML and headers are."""

    def split(self, data: bytes) -> list[bytes]:
        """Take lines apart."""
        return data.splitlines(keepends=True)

    def value_changed(self, piece: bytes, longest: int, chance: random.Random) -> bytes:
        """Change one line."""
        return self._leaf(piece, longest, chance)


def _lie(length: int, bits: int, chance: random.Random) -> int:
    """A length that is not the one."""
    near = length + chance.choice((-1, 1, -2, 2, 8, -8))
    wrong = (
        near,
        0,
        1,
        (1 << bits) - 1,
        (1 << bits - 1) - 1,
        chance.randrange(1 << bits),
    )
    return chance.choice(wrong) & ((1 << bits) - 1)


def mutator(name: str, leaf: Leaf) -> Leaf:
    """Return the mutator of a structure, with ``leaf`` for octets inside it."""
    kinds: dict[str, Leaf] = {
        "octets": leaf,
        "pdus": Pdus(leaf),
        "elements": Elements(leaf),
        "lines": Lines(leaf),
    }
    return kinds[name]


def spliced(one: bytes, other: bytes, chance: random.Random) -> bytes:
    """The beginning of one input and the end of another."""
    return (
        one[: chance.randrange(len(one) + 1)]
        + other[chance.randrange(len(other) + 1) :]
    )


def random_inputs(
    name: str, seeds: Sequence[bytes], longest: int, chance: random.Random
) -> Callable[[], bytes]:
    """Return what makes one mutated input after another, without coverage."""
    change = mutator(name, plain)

    def make() -> bytes:
        data = chance.choice(seeds)
        if len(seeds) > 1 and chance.random() < 0.05:
            data = spliced(data, chance.choice(seeds), chance)
        for _ in range(chance.randint(1, 2)):
            data = change(data, longest, chance)
        return data

    return make
