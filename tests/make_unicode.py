#!/usr/bin/env python3
"""Prints the table of character classes at the end of tokenizer.c.

Runs of code points from 0 upwards, a letter for the class and a decimal length (none: 1):
u upper or title case letter (Lu Lt), l lower case letter (Ll), o other letter (Lm Lo), m mark (M*),
n number (N*), p punctuation (P*), s White_Space, . the rest. What follows the last run is the rest.

Unicode 16.0.0, as Hugging Face's tokenizers: Python 3.14, or an older one with unicodedata2.
"""
import sys
import unicodedata

VERSION = "16.0.0"
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


def main():
    if unicodedata.unidata_version != VERSION:
        sys.exit("make_unicode.py: this Python has Unicode %s, not %s"
                 % (unicodedata.unidata_version, VERSION))
    line = ""
    print("static const char *const UNICODE_RUNS[] = {")
    for run in list(runs())[:-1]:
        if len(line) + len(run) > 93:
            print('    "%s",' % line)
            line = ""
        line += run
    print('    "%s",\n};' % line)


main()
