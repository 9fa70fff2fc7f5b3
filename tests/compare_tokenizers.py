#!/usr/bin/env python3
"""export.py and tokenizer.c against Hugging Face's tokenizers and against sentencepiece.

    compare_tokenizers.py DUMP_TOKENS FILE [--texts 10000] [--seed 1] [--show 5]

FILE is a tokenizer.json (reference: tokenizers) or a SentencePiece model (reference:
sentencepiece). It is put beside a llama of one empty layer, exported by export.py, and random
texts are encoded and decoded by tests/dump_tokens and by the reference: ids and texts have to be
the same. Needs the packages tokenizers and sentencepiece; for measuring, not part of `make test`.

The texts: every script, combining marks in any order, composed and decomposed letters, emoji and
their joiners, runs of digits, contractions in all cases, runs of all kinds of white space, control
characters, texts of special tokens, tokens of the vocabulary, code, very long runs, and one in ten
with bytes that are not UTF-8. The references take no such bytes, so each is a private-use character
for them, whose own bytes in the result are then put back: a malformed byte is a character without
a class, as it is in tokenizer.c. Nothing but the ids and the bytes of these is compared.
"""
import argparse
import json
import random
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# + a malformed byte: private-use characters of no token. The first is spelt in bytes that every
# byte-level vocabulary has; but a piece of Mistral's is U+EFC0.
PRIVATE, PRIVATE_SPM = 0xEF00, 0x10F700

# First and last code point of what a text may draw from.
SCRIPTS = """0041-005A 0061-007A 00C0-00FF 0100-024F 0250-02FF 0370-03FF 0400-052F 0531-0587
    05D0-05EA 0621-064A 0671-06D3 0710-072F 0780-07B1 07CA-07EA 0904-0939 0958-0961 0985-09B9
    0A05-0A39 0A85-0AB9 0B05-0B39 0B85-0BB9 0C05-0C39 0C85-0CB9 0D05-0D39 0D85-0DC6 0E01-0E30
    0E81-0EB0 0F40-0F6C 1000-102A 10A0-10FF 1100-11FF 1200-135A 13A0-13FD 1401-1450 1680-169A
    16A0-16EA 1780-17B3 1820-1878 1E00-1EFF 1F00-1FFE 2C00-2C5F 2D30-2D67 3041-3096 30A1-30FA
    3105-312F 3131-318E 3400-3450 4E00-4F00 5B57-6F22 A000-A100 A640-A66E A722-A7CA A840-A873
    AB70-ABBF AC00-AD00 D000-D7A3 F900-FAD9 FB00-FB06 FB1D-FB4F FB50-FBB1 FE70-FEFC FF21-FF5A
    FF66-FF9D 10000-100FA 10280-1031F 10330-1034A 10400-1044F 10A00-10A35 11000-11037 12000-12100
    13000-13100 1B000-1B122 1D400-1D4FF 1E900-1E943 20000-20100 2F800-2FA1D 30000-30050""".split()
MARKS = """0300-036F 0483-0489 0591-05C7 0610-061A 064B-065F 0670-0670 06D6-06ED 0711-0711 0730-074A
    0816-082D 08D3-08FF 0900-0903 093A-094F 0951-0957 0981-0983 09BC-09CD 0A3C-0A4D 0ABC-0ACD
    0B3C-0B57 0BBE-0BD7 0C3E-0C56 0CBC-0CD6 0D3B-0D57 0DCA-0DDF 0E31-0E3A 0E47-0E4E 0EB1-0ECD
    0F18-0F19 0F35-0F39 0F71-0F84 102B-103E 135D-135F 1712-1714 17B4-17D3 18A9-18A9 1A17-1A1B
    1A55-1A7F 1AB0-1ABE 1B34-1B44 1DC0-1DFF 20D0-20F0 2CEF-2CF1 302A-302F 3099-309A A66F-A672
    A8E0-A8F1 A92B-A92D FB1E-FB1E FE00-FE0F FE20-FE2F 10A0D-10A3F 11046-1104D 110B9-110BA
    11127-1112B 1D165-1D172 1D242-1D244 1E8D0-1E8D6 1E944-1E94A""".split()
DIGITS = """0030-0039 0030-0039 0030-0039 00B2-00B3 00BC-00BE 0660-0669 06F0-06F9 0966-096F
    09E6-09EF 0E50-0E59 1040-1049 2070-2079 2150-2182 2460-249B 3007-3007 3021-3029 FF10-FF19
    10107-10133 1D7CE-1D7FF""".split()
SIGNS = """0021-002F 0021-002F 003A-0040 005B-0060 007B-007E 00A1-00BF 02C2-02DF 2010-205E 20A0-20BF
    2190-2211 2212-22FF 2300-23FF 2500-257F 2600-27BF 3001-303F FE30-FE6B FF01-FF0F
    1F300-1F3F0 1D100-1D126""".split()
CONTROLS = """0000-001F 007F-009F 00AD-00AD 061C-061C 180E-180E 200B-200F 2028-202E 2060-206F
    FEFF-FEFF FFF9-FFFF E000-E010 1FFFE-1FFFF E0001-E007F F0000-F0005""".split()
SPACES = " |  |    |\t|\n|\r\n|\r|\v|\f|\x1c|\x85|\xa0|\u1680|\u2003|\u2028|\u2029|\u202f|\u3000|" \
    "\u200b|\u2581|\u2581\u2581".split("|")
EMOJI = """
    1F468-1F469-1F467 1F600 1F3F3-FE0F-200D-1F308 1F1E9-1F1EA 1F44D-1F3FD 2764-FE0F 23-FE0F-20E3
    1F469-200D-1F469-200D-1F466 1F9D1-1F3FF-200D-1F680 263A 1FAE8 1F1FA-1F1F8-1F1FA 200D FE0F
    1F3F4-E0067-E0062-E007F""".split()
# Single letters that normalisation changes, composes or refuses to compose.
CANONICAL = """
    212B 2126 212A 0958 09DC 0A33 0B5C 0F43 0F73 0F77 0F81 FB1D FB2C FB4E 2ADC 1D15E 1D1BB
    0344 0340 0343 0374 037E 0387 1F71 1FFD 2000 2001 2329 F900 FA10 2F800 1E9B 00C5 1E69 0307 0323
    1100 1161 11A8 AC00 AC01 D7A3 1175 11C2 11A7 3131 0915 093C 0C46 0C56 1026 30AB 3099 0DD9 0DCF
    0DCA 11131 11127 1D157 1D165 0041 030A 0327 0065 0301 0345 0314 03B1""".split()
WORDS = """
    the of and Hello world HELLO don camelCaseWord snake_case_word XMLHttpRequest int main(void)
    {return 0;} // comment /* x */ <html> </p> http://a.b/c?d=e&f x+=1; !== ->-> ... ?! "quoted" 'q'
    (a) [b] $100.00 50% #tag @user a@b.c Ich Stra\xdfe caf\xe9 na\xefve
    \u043f\u0440\u0438\u0432\u0435\u0442
    \u03a9\u03c3\u03c2 \u4f60\u597d\u4e16\u754c \u65e5\u672c\u8a9e\u30c6\u30ad\u30b9\u30c8
    \ud55c\uad6d\uc5b4
    \u0645\u0631\u062d\u0628\u0627 \u0928\u092e\u0938\u094d\u0924\u0947
    \u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35
    \u0130stanbul \u01c5ungla \u02b0\u02b0 \u2160\u2161 \u00aa\u00ba \ufb01 \u1e9e \u0149 __init__
    \\n \\
    === --- *** ~~~ ``` |||| <0x0A> \u0120the \u010a \u2581the [PAD0] <| |> <s <unk /s>""".split()
ENDINGS = "s S t T d D m M re RE Re rE ve VE ll LL lL \u017f \u017fs x \u212a".split()


class Texts:
    """Random texts from a seed, the vocabulary's own tokens among them."""

    def __init__(self, seed, special, tokens):
        self.random = random.Random(seed)
        self.special = special or ["<s>"]
        self.tokens = tokens
        self.kinds = [(self.scripts, 5), (self.marked, 3), (self.canonical, 3), (self.digits, 3),
                      (self.signs, 3), (self.contraction, 3), (self.spaces, 5), (self.controls, 1),
                      (self.emoji, 2), (self.words, 6), (self.anything, 1), (self.from_tokens, 4),
                      (self.special_text, 3), (self.repeated, 1)]

    def pick(self, ranges):
        first, last = (int(x, 16) for x in self.random.choice(ranges).split("-"))
        return chr(self.random.randint(first, last))

    def draw(self, ranges, most):
        return "".join(self.pick(ranges) for _ in range(self.random.randint(1, most)))

    def scripts(self):
        one = [self.random.choice(SCRIPTS)]
        return self.draw(one if self.random.random() < 0.8 else SCRIPTS, 10)

    def marked(self):
        return "".join(self.pick(SCRIPTS) + self.draw(MARKS, 3)
                       for _ in range(self.random.randint(1, 4)))

    def canonical(self):
        return "".join(chr(int(self.random.choice(CANONICAL), 16))
                       for _ in range(self.random.randint(1, 8)))

    def digits(self):
        one = [self.random.choice(DIGITS)]
        return self.draw(one if self.random.random() < 0.7 else DIGITS, 12)

    def signs(self):
        return self.draw(SIGNS, 6)

    def contraction(self):
        return self.random.choice(["", "", " ", "I", "it", "\u4f60", "9", "!"]) + \
            self.random.choice("''''\u2019`") + self.random.choice(ENDINGS) + \
            self.random.choice(["", "", " ", "x", "X", "\u0301"])

    def spaces(self):
        return "".join(self.random.choice(SPACES) for _ in range(self.random.randint(1, 6)))

    def controls(self):
        return self.draw(CONTROLS, 3)

    def emoji(self):
        return "".join(chr(int(c, 16)) for _ in range(self.random.randint(1, 3))
                       for c in self.random.choice(EMOJI).split("-"))

    def words(self):
        between = self.random.choice([" ", " ", "", "\n", "  "])
        return between.join(self.random.choice(WORDS) for _ in range(self.random.randint(1, 6)))

    def anything(self):
        return "".join(chr(c) for c in (self.random.randrange(0x10F700) for _ in range(4))
                       if not 0xD800 <= c < 0xF000)

    def from_tokens(self):
        return "".join(self.random.choice(self.tokens) for _ in range(self.random.randint(1, 4)))

    def special_text(self):
        text = self.random.choice(self.special)
        cut = self.random.randint(0, len(text))
        return self.random.choice(["", "", " ", "  ", "\n", "x"]) + self.random.choice(
            [text, text, text, text + text, text[:cut], text[cut:], text.upper()]) + \
            self.random.choice(["", "", " ", " \n ", "x"])

    def repeated(self):
        return self.random.choice([self.pick(SCRIPTS), self.pick(SIGNS), " ", "a", "1", "\n", "=",
                                   "ab", "\t", "\u0301", "\u4e00", "! "]) \
            * int(2 ** self.random.uniform(1, 9))

    def text(self):
        kinds, weights = zip(*self.kinds)
        parts = self.random.choices(kinds, weights, k=self.random.choice([1, 2, 3, 5, 8, 13]))
        return "".join(part() for part in parts)

    def spoil(self, data):
        """Bytes taken away, put in or changed until the text is no longer UTF-8."""
        data = bytearray(data)
        while not malformed(bytes(data)):
            at = self.random.randint(0, len(data))
            how = self.random.randrange(3)
            if how == 0:
                data[at:at] = bytes(self.random.choice([0x80, 0xBF, 0xC0, 0xE2, 0xF0, 0xFF])
                                    for _ in range(self.random.randint(1, 3)))
            else:
                data[at:at + 1] = b"" if how == 1 else bytes([self.random.randrange(256)])
        return bytes(data)

    def all(self, count):
        yield b""
        for i in range(1, count):
            text = self.text().encode("utf-8")
            yield self.spoil(text) if i % 10 == 0 else text


def malformed(data):
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return True
    return False


def as_private(data, base):
    """The text with a private-use character for every byte that is not UTF-8."""
    out, at = [], 0
    while at < len(data):
        try:
            out.append(data[at:].decode("utf-8"))
            break
        except UnicodeDecodeError as bad:
            out.append(data[at:at + bad.start].decode("utf-8"))
            out += [chr(base + b) for b in data[at + bad.start:at + bad.end]]
            at += bad.end
    return "".join(out)


def byte_letters():
    """The characters that stand for bytes 0 .. 255 in byte-level vocabularies."""
    plain = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(256, 512))
    return [chr(b if b in plain else next(others)) for b in range(256)]


class FromJson:
    """tokenizers over a tokenizer.json."""

    def __init__(self, file):
        from tokenizers import Tokenizer
        self.table = json.loads(file.read_text(encoding="utf-8"))
        self.t = Tokenizer.from_file(str(file))
        self.count = self.t.get_vocab_size(with_added_tokens=True)
        self.top = max(self.t.get_vocab().values()) + 1
        self.special = [e["content"] for e in self.table["added_tokens"]]
        self.spm = bool(self.table["model"].get("byte_fallback"))
        self.private = PRIVATE_SPM if self.spm else PRIVATE
        self.letters = byte_letters()
        self.plain = False

    def tokens(self):
        return [self.t.decode([i], skip_special_tokens=False) for i in range(self.top)]

    def encode(self, data):
        found = self.t.encode(as_private(data, self.private), add_special_tokens=False)
        if not malformed(data):
            return found.ids
        return put_bytes_back(found.ids, self.t.token_to_id) if self.spm else self.by_words(found)

    def by_words(self, found):
        """Byte-level: the words again, with the one letter of each malformed byte in them."""
        words, ids = [], []
        for token, word, i in zip(found.tokens, found.word_ids, found.ids):
            if words and words[-1][0] == word:
                words[-1][1].append(token)
                words[-1][2].append(i)
            else:
                words.append((word, [token], [i]))
        names = {"".join(self.letters[x] for x in chr(PRIVATE + b).encode("utf-8")):
                 self.letters[b] for b in range(128, 256)}
        for _, tokens, old in words:
            text = "".join(tokens)
            if not any(name in text for name in names):
                ids += old
                continue
            for name, letter in names.items():
                text = text.replace(name, letter)
            ids += [token.id for token in self.t.model.tokenize(text)]
        return ids

    def decode(self, ids):
        return self.t.decode(ids, skip_special_tokens=False).encode("utf-8")


class FromModel:
    """sentencepiece over a tokenizer.model."""

    def __init__(self, file):
        from sentencepiece import SentencePieceProcessor
        self.t = SentencePieceProcessor(model_file=str(file))
        self.count = self.top = self.t.get_piece_size()
        pieces = range(self.count)
        self.special = [self.t.id_to_piece(i) for i in pieces
                        if self.t.is_control(i) or self.t.is_unknown(i)][:50] + \
            ["<0x41>", "\n\n", "\t\t", "<start_of_turn>", "</h1>"]
        self.plain = self.spm = True
        self.private = PRIVATE_SPM

    def tokens(self):
        return [self.t.id_to_piece(i).replace("\u2581", " ") for i in range(self.count)]

    def encode(self, data):
        ids = self.t.encode(as_private(data, self.private))
        return put_bytes_back(ids, self.t.piece_to_id) if malformed(data) else ids

    def decode(self, ids):
        return self.t.decode(ids).encode("utf-8")


def put_bytes_back(ids, id_of):
    """The four byte tokens of each private-use character become that of the malformed byte."""
    byte = [id_of(f"<0x{b:02X}>") for b in range(256)]
    names = {tuple(byte[x] for x in chr(PRIVATE_SPM + b).encode("utf-8")): byte[b]
             for b in range(128, 256)}
    out, at = [], 0
    while at < len(ids):
        name = tuple(ids[at:at + 4])
        out.append(names.get(name, ids[at]))
        at += 4 if name in names else 1
    return out


def write_folder(folder, file, count):
    """A llama of one layer whose weights are zero, with the tokenizer."""
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 8,
              "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
              "num_key_value_heads": 2, "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
              "rope_theta": 1e4, "vocab_size": count, "tie_word_embeddings": True,
              "hidden_act": "silu"}
    (folder / "config.json").write_text(json.dumps(config))
    layer = "model.layers.0."
    shapes = {layer + f"{name}.weight": [8, 8] for name in (
        "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
        "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")}
    shapes.update({layer + "input_layernorm.weight": [8], "model.norm.weight": [8],
                   layer + "post_attention_layernorm.weight": [8],
                   "model.embed_tokens.weight": [count, 8]})
    header, at = {}, 0
    for name, shape in shapes.items():
        size = 2 * shape[0] * (shape[1] if len(shape) > 1 else 1)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + size]}
        at += size
    head = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(head)) + head + bytes(at))
    name = "tokenizer.json" if file.suffix == ".json" else "tokenizer.model"
    (folder / name).write_bytes(file.read_bytes())
    for extra in ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"):
        if (file.parent / extra).exists():
            (folder / extra).write_bytes((file.parent / extra).read_bytes())


def dumped(program, gguf, texts, folder, plain):
    """(ids, text again) of each text, as tokenizer.c gives them."""
    texts_file, out = folder / "texts", folder / "out"
    texts_file.write_bytes(b"".join(struct.pack("<i", len(t)) + t for t in texts))
    subprocess.run([program, gguf, texts_file, out] + ["plain"] * plain, check=True)
    data, at = out.read_bytes(), 0
    for _ in texts:
        n, = struct.unpack_from("<i", data, at)
        ids = list(struct.unpack_from(f"<{n}i", data, at + 4))
        at += 4 + 4 * n
        n, = struct.unpack_from("<i", data, at)
        yield ids, data[at + 4:at + 4 + n]
        at += 4 + n


def compare(texts, ours, reference, show):
    """How many texts have other ids, and how many another text again.

    SentencePiece decoders differ in how many replacement characters a run of malformed bytes gets:
    there the text itself is asked for, with those that the Unicode Standard recommends (3.9)."""
    bad_ids = bad_text = shown = 0
    for text, (ids, again) in zip(texts, ours):
        want = reference.encode(text)
        back = reference.decode(want)
        if malformed(text) and reference.spm:
            readable = as_private(text, PRIVATE_SPM).encode("utf-8")
            back = original(reference.decode(reference.encode(readable)))
        bad_ids += ids != want
        bad_text += ids == want and again != back
        if (ids != want or again != back) and shown < show:
            shown += 1
            print(f"  {text!r}\n    ids  {ids}\n    want {want}" if ids != want else
                  f"  {text!r}\n    text {again!r}\n    want {back!r}")
    return bad_ids, bad_text


def original(data):
    """The text of as_private with the malformed bytes in it again, each part U+FFFD."""
    out = b""
    for c in data.decode("utf-8"):
        code = ord(c) - PRIVATE_SPM
        out += bytes([code]) if 0 <= code < 256 else c.encode("utf-8")
    return out.decode("utf-8", "replace").encode("utf-8")


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    p.add_argument("program", metavar="DUMP_TOKENS")
    p.add_argument("file", type=Path)
    p.add_argument("--texts", type=int, default=10000)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--show", type=int, default=5, help="differences to print")
    a = p.parse_args()
    reference = FromJson(a.file) if a.file.suffix == ".json" else FromModel(a.file)
    tokens = [t for t in reference.tokens() if t and "\ufffd" not in t] or ["a"]
    texts = list(Texts(a.seed, reference.special, tokens).all(a.texts))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_folder(folder, a.file, reference.top)
        subprocess.run([sys.executable, ROOT / "export.py", folder, "-o", folder / "m.gguf"],
                       check=True)
        ours = dumped(a.program, folder / "m.gguf", texts, folder, reference.plain)
        ids, text = compare(texts, ours, reference, a.show)
    print(f"{a.file.name}: {len(texts)} texts, {sum(malformed(t) for t in texts)} of them not "
          f"UTF-8: {ids} with other ids, {text} with another text again")
    return 1 if ids or text else 0


if __name__ == "__main__":
    sys.exit(main())
