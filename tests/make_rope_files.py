"""A copy of a GGUF file with other keys, and with further float32 vectors as tensors.

    make_rope_files.py IN.gguf OUT.gguf [KEY=TYPE:VALUE | NAME=vec:X,Y,...] ...

TYPE is f32, u32, bool, str, or f32s, i32s, strs for a list; a KEY that begins with a point gets the
name of the architecture before it; TYPE none takes a key away. A vector is a file of numbers if it
begins with @. For comparing encodings on one model with llama.cpp, which reads them from the file:

    make_rope_files.py tiny.gguf yarn.gguf .rope.scaling.type=str:yarn .rope.scaling.factor=f32:4 \\
        .rope.scaling.original_context_length=u32:128
    make_rope_files.py tiny.gguf llama3.gguf rope_freqs.weight=vec:1,1,2.5,8

Python's standard library only."""

import struct
import sys

SCALARS = dict(zip((0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12), "BbHhIif?Qqd"))
NAMES = {"f32": 6, "u32": 4, "i32": 5, "bool": 7, "str": 8}


class Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, n):
        self.at += n
        return self.data[self.at - n : self.at]

    def number(self, code):
        return struct.unpack("<" + code, self.take(struct.calcsize("<" + code)))[0]

    def text(self):
        return self.take(self.number("Q"))

    def skip(self, kind):
        """A value of that type, as it is."""
        start = self.at
        if kind == 8:
            self.text()
        elif kind == 9:
            elem, n = self.number("I"), self.number("Q")
            for _ in range(n):
                self.skip(elem)
        else:
            self.take(struct.calcsize(SCALARS[kind]))
        return self.data[start : self.at]


def text(s):
    return struct.pack("<Q", len(s)) + s


def value(kind, words):
    """The type and the bytes of a value given in words."""
    if kind.endswith("s"):
        items = [value(kind[:-1], w) for w in words.split("|" if kind == "strs" else ",")]
        elem = NAMES[kind[:-1]]
        return 9, struct.pack("<IQ", elem, len(items)) + b"".join(v for _, v in items)
    if kind == "str":
        return 8, text(words.encode())
    number = {"f32": float, "bool": lambda w: w == "true"}.get(kind, int)(words)
    return NAMES[kind], struct.pack("<" + SCALARS[NAMES[kind]], number)


def vector(words):
    words = open(words[1:]).read() if words.startswith("@") else words
    numbers = [float(w) for w in words.replace(",", " ").split()]
    return struct.pack("<%df" % len(numbers), *numbers), len(numbers)


def main(source, out, *changes):
    data = open(source, "rb").read()
    r = Reader(data)
    magic, version, n_tensors, n_keys = r.take(4), r.number("I"), r.number("Q"), r.number("Q")
    assert magic == b"GGUF" and version == 3
    keys, infos, align = {}, [], 32
    for _ in range(n_keys):
        name, kind = r.text(), r.number("I")
        keys[name] = kind, r.skip(kind)
    if b"general.alignment" in keys:
        align = struct.unpack("<I", keys[b"general.alignment"][1])[0]
    for _ in range(n_tensors):
        name, dims = r.text(), r.number("I")
        infos.append((name, [r.number("Q") for _ in range(dims)], r.number("I"), r.number("Q")))
    start = -(-r.at // align) * align
    blob = data[start:]
    arch = keys[b"general.architecture"][1][8:].decode()
    for change in changes:
        name, rest = change.split("=", 1)
        kind, words = rest.split(":", 1)
        name = (arch + name if name.startswith(".") else name).encode()
        if kind == "vec":
            vec, n = vector(words)
            blob += b"\0" * (-len(blob) % align)
            infos.append((name, [n], 0, len(blob)))
            blob += vec
        elif kind == "none":
            keys.pop(name, None)
        else:
            keys[name] = value(kind, words)
    head = b"GGUF" + struct.pack("<IQQ", 3, len(infos), len(keys))
    for name, (kind, v) in keys.items():
        head += text(name) + struct.pack("<I", kind) + v
    for name, dims, kind, offset in infos:
        head += text(name) + struct.pack("<I", len(dims)) + struct.pack("<%dQ" % len(dims), *dims)
        head += struct.pack("<IQ", kind, offset)
    with open(out, "wb") as f:
        f.write(head + b"\0" * (-len(head) % align) + blob)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
