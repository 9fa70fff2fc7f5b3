#!/usr/bin/env python3
"""Prints tests/token_golden.h: ids of a hand-made vocabulary by Hugging Face's tokenizers.

    python3 tests/make_token_golden.py >tests/token_golden.h      (tokenizers 0.23.3)

The vocabulary is that of tests/test_tokens.c: 256 bytes, a few merges, and added tokens that
swallow spaces, that are looked for in normalised text, or neither; text is normalised to NFC.
"""
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

WORDS = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
         r"|\s*[\r\n]+|\s+(?!\S)|\s+")
MERGES = [("t", "h"), ("th", "e"), (" ", "the"), (" ", " "), ("\u017f", "x"), ("'", "\u017f"),
          ("a", "b")]
ADDED = [("<s>", False, False, False), ("<l>", False, True, False), ("<r>", False, False, True),
         ("<lr>", False, True, True), ("   ", True, False, False), ("\u1e69", True, False, False),
         ("r>", True, False, False)]
TEXTS = [
    "", "the the", " the", "e\u0301", "\u1e69", "xs\u0307\u0323y", "s<s>\u0323", "<l>", "a  <l>  b",
    "a\u3000\n<l>\u2028b", "a <r>  the", "a<r>\u00a0\t\r\nthe", " <lr> <lr> ", "<r>   a",
    "<r>     a", "a   b", "a    b", "<<r>", "<r", "r>", "   <l>", "I'\u017fx", "'\u017fx", "'Sx",
    "'\u017f", "a'\u017fthe", "\u0344", "\u1161\u1100\u1161\u11a8", "\uac00\u11a8\u11a8",
    "\u1100\u1161\u0300\u11a8", "a\u0315\u0300\u0327\u0334", "q\u0307\u0323", "\u1e0b\u0323",
    "\u212b\u2126\uf900", "\u0958\u2adc\u0f77", "a\u030a\u0327", "a\u0305\u0301", "\U0001d15e",
    "\u0b47\u0300\u0b3e", "a\u0898\u0327", "\U00011131\U00011127"]


def letters():
    plain = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(256, 512))
    return [chr(b if b in plain else next(others)) for b in range(256)]


def spelt(text):
    return "".join(letters()[b] for b in text.encode("utf-8"))


def tokenizer():
    vocab = {letter: i for i, letter in enumerate(letters())}
    # Characters of two bytes are merged first.
    merges = [tuple(letters()[b] for b in "\u017f".encode("utf-8"))]
    merges += [(spelt(a), spelt(b)) for a, b in MERGES]
    for a, b in merges:
        vocab[a + b] = len(vocab)
    t = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    t.normalizer = normalizers.NFC()
    t.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(WORDS), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    t.decoder = decoders.ByteLevel()
    for text, normalized, lstrip, rstrip in ADDED:
        t.add_tokens([AddedToken(text, normalized=normalized, lstrip=lstrip, rstrip=rstrip)])
    return t


def c_text(data):
    return '"%s"' % "".join(chr(b) if 32 <= b < 127 and chr(b) not in '"\\?' else "\\%03o" % b
                            for b in data)


def main():
    t = tokenizer()
    print("/* Made by tests/make_token_golden.py. */\nstatic const struct {\n    const char *text;")
    print("    size_t n;\n    const char *ids, *again;\n} TOKEN_GOLDEN[] = {")
    for text in TEXTS:
        ids, data = t.encode(text).ids, text.encode("utf-8")
        again = t.decode(ids, skip_special_tokens=False).encode("utf-8")
        print("    {%s, %d,\n     \"%s\",\n     %s}," % (c_text(data), len(data),
                                                  " ".join(map(str, ids)), c_text(again)))
    print("};")


main()
