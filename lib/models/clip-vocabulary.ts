/** CLIP's vocabulary, which the package carries for models that bring none: its merges, from which OpenAI's code derives all tokens. */
import { fileURLToPath } from 'node:url'
import { brotliDecompressSync } from 'node:zlib'
import { readWhole } from '../files/read.js'

const MERGES = fileURLToPath(new URL('../../../data/clip-merges.txt.br', import.meta.url))
/** More than they have. */
const MOST_BYTES = 2 ** 20

/** The byte-level alphabet of GPT-2: printable bytes stand for themselves, in this order, and all others for characters from U+0100 on. */
function alphabet(): string[] {
  const printable = [...Array(256).keys()].filter((byte) => (byte >= 33 && byte <= 126) || (byte >= 161 && byte !== 173))
  const others = Array.from({ length: 256 - printable.length }, (_, i) => 256 + i)
  return [...printable, ...others].map((code) => String.fromCharCode(code))
}

/**
 * Reads CLIP's merges and the ids of its 49,408 tokens: bytes, bytes that end a word, merges, and the two special tokens
 * (openai/CLIP:clip/simple_tokenizer.py). Throws as `readWhole`.
 */
export async function clipVocabulary(): Promise<{ vocab: Record<string, number>; merges: string[] }> {
  const merges = brotliDecompressSync(await readWhole(MERGES, "CLIP's merges", MOST_BYTES))
    .toString('utf8')
    .trimEnd()
    .split('\n')
  const bytes = alphabet()
  const made = merges.map((pair) => pair.replace(' ', ''))
  const tokens = [...bytes, ...bytes.map((byte) => `${byte}</w>`), ...made, '<|startoftext|>', '<|endoftext|>']
  return { vocab: Object.fromEntries(tokens.map((token, id) => [token, id])), merges }
}
