#!/usr/bin/env python3
"""Prints the tables at the end of tokenizer.c.

    make_unicode.py           the classes of characters, Unicode 16.0.0
    make_unicode.py nfc       canonical decompositions and combining classes, Unicode 9.0.0

Classes: runs of code points from 0 upwards, a letter for the class and a decimal length (none: 1):
u upper or title case letter (Lu Lt), l lower case letter (Ll), o other letter (Lm Lo), m mark (M*),
n number (N*), p punctuation (P*), s White_Space, . the rest. What follows the last run is the rest.
The format of the others is said in tokenizer.c.

Both versions are those of Hugging Face's tokenizers 0.23, which splits words and normalises by
different libraries. Python 3.14 has the first, Python 3.6 the second; others need unicodedata2.
"""
import sys
import unicodedata

VERSION = "9.0.0" if sys.argv[1:] == ["nfc"] else "16.0.0"
if unicodedata.unidata_version != VERSION:
    import unicodedata2 as unicodedata

WHITE_SPACE = {*range(9, 14), 0x20, 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x2028, 0x2029,
               0x202F, 0x205F, 0x3000}


def letter(cp):
    if cp in WHITE_SPACE:
        return "s"
    cat = unicodedata.category(chr(cp))
    by_case = {"Lu": "u", "Lt": "u", "Ll": "l", "Lm": "o", "Lo": "o"}
    return by_case.get(cat) or {"M": "m", "N": "n", "P": "p"}.get(cat[0], ".")


def runs():
    start = 0
    for cp in range(1, 0x110001):
        if cp == 0x110000 or letter(cp) != letter(start):
            yield letter(start) + (str(cp - start) if cp - start > 1 else "")
            start = cp


def number(value):
    """Five bits a character, the lowest first, with 32 added if another follows."""
    out = ""
    while True:
        low, value = value & 31, value >> 5
        out += chr(48 + low + (32 if value else 0))
        if not value:
            return out


def difference(value):
    return number(2 * value if value >= 0 else -2 * value - 1)


def canonical():
    """Per canonical decomposition: code, first and second code, as differences."""
    last = (0, 0, 0)
    for cp in range(0x110000):
        to = unicodedata.decomposition(chr(cp))
        if not to or to.startswith("<"):
            continue
        first, second = ([int(x, 16) for x in to.split()] + [0])[:2]
        alone = unicodedata.normalize("NFC", chr(cp)) != chr(cp)
        yield number(2 * (cp - last[0]) + alone) + difference(first - last[1]) + \
            difference(second - last[2])
        last = (cp, first, second)


def classes():
    """Per run of a combining class: code points since the last run, length, class."""
    end = start = 0
    for cp in range(1, 0x110000):
        kind = unicodedata.combining(chr(cp - 1))
        if unicodedata.combining(chr(cp)) == kind:
            continue
        if kind:
            yield number(start - end) + number(cp - start) + number(kind)
            end = cp
        start = cp


def print_text(name, parts, per_line=93):
    """A C string in lines; no part is cut in two, a backslash and a question mark are escaped."""
    print("static const char %s[] =" % name)
    lines = [""]
    for part in parts:
        part = part.replace("\\", "\\\\").replace("?", "\\?")
        if len(lines[-1]) + len(part) > per_line:
            lines.append("")
        lines[-1] += part
    print("\n".join('    "%s"' % line for line in lines) + ";")


def main():
    if unicodedata.unidata_version != VERSION:
        sys.exit("make_unicode.py: this Python has Unicode %s, not %s"
                 % (unicodedata.unidata_version, VERSION))
    if VERSION == "9.0.0":
        print_text("UNICODE_CANONICAL", canonical())
        print_text("UNICODE_CLASSES", classes())
    else:
        print_classes()


def print_classes():
    line = ""
    print("static const char *const UNICODE_RUNS[] = {")
    for run in list(runs())[:-1]:
        if len(line) + len(run) > 93:
            print('    "%s",' % line)
            line = ""
        line += run
    print('    "%s",\n};' % line)


main()
