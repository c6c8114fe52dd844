/**
 * CLIP's tokenizer: byte-level BPE on lower-cased text, with the ids of
 * huggingface/transformers:src/transformers/models/clip/tokenization_clip.py.
 * Its parts come from huggingface/tokenizers, whose Unicode rules differ from JavaScript's in two places, see `normalize`.
 */
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { LorafuseError } from '../errors.js'

export interface Tokenizer {
  /** Ids of a prompt as the text encoder takes it: 77, with BOS and EOS. */
  length: number
  bosId: number
  eosId: number
  padId: number
  /** All ids of a text, without BOS and EOS. */
  tokenize(text: string): number[]
  /** `[length]`: BOS, as many ids as fit, EOS, padding. */
  encode(text: string): Int32Array
}

interface Files {
  vocab: Map<string, number>
  merges: string[]
}

const WORD = /<\|(?:start|end)oftext\|>|'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\p{White_Space}\p{L}\p{N}]+/gu

/** NFC, runs of white space to one blank, lower case. */
function normalize(text: string): string {
  // Trap: JavaScript's \s lacks U+0085 and has U+FEFF. Trap: it lower-cases a word's last Σ to ς, tokenizers always to σ.
  return text
    .normalize('NFC')
    .replace(/\p{White_Space}+/gu, ' ')
    .replaceAll('Σ', 'σ')
    .toLowerCase()
}

/** The words that BPE works on. A special token that only became one by lower-casing is three of them. */
function words(text: string): string[] {
  const matches = normalize(text).match(WORD) ?? []
  return matches.flatMap((word) => (word.endsWith('text|>') ? ['<|', word.slice(2, -2), '|>'] : word))
}

/** The printable stand-in of each byte, which vocabularies are written in (openai/CLIP:clip/simple_tokenizer.py, bytes_to_unicode). */
function byteCharacters(): string[] {
  const printable = (byte: number) => (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae
  let next = 0x100
  return Array.from({ length: 256 }, (_, byte) => String.fromCharCode(printable(byte) ? byte : next++))
}

/** Joins neighbours until none has a rank, always the pair of the lowest rank, the leftmost first. */
function merge(parts: string[], ranks: Map<string, number>): string[] {
  for (;;) {
    let best = -1
    let lowest = Infinity
    for (let i = 0; i + 1 < parts.length; i++) {
      const rank = ranks.get(`${parts[i]} ${parts[i + 1]}`) ?? Infinity
      if (rank < lowest) [best, lowest] = [i, rank]
    }
    if (best < 0) return parts
    parts.splice(best, 2, `${parts[best]}${parts[best + 1]}`)
  }
}

function invalid(path: string, problem: string): LorafuseError {
  return new LorafuseError('TOKENIZER_INVALID', `Expected CLIP's byte-level BPE for ${path} but received ${problem}`)
}

async function readText(path: string): Promise<string | undefined> {
  try {
    return await readFile(path, 'utf8')
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === 'ENOENT') return undefined
    throw cause
  }
}

function parse(text: string, path: string): Record<string, unknown> {
  try {
    const value: unknown = JSON.parse(text)
    if (typeof value === 'object' && value !== null) return value as Record<string, unknown>
  } catch {}
  throw invalid(path, 'something that is not a JSON object')
}

function vocabulary(value: unknown, path: string): Map<string, number> {
  const entries = Object.entries((value ?? {}) as Record<string, unknown>)
  if (entries.length === 0 || !entries.every(([, id]) => Number.isSafeInteger(id))) throw invalid(path, 'no vocabulary of token ids')
  return new Map(entries as [string, number][])
}

/** The vocabulary and merges of `vocab.json` + `merges.txt`, else of `tokenizer.json`. */
async function readFiles(folder: string): Promise<Files> {
  const vocabPath = join(folder, 'vocab.json')
  const [vocab, merges] = await Promise.all([readText(vocabPath), readText(join(folder, 'merges.txt'))])
  if (vocab !== undefined && merges !== undefined) {
    const lines = merges.split(/\r?\n/).filter((line) => line !== '' && !line.startsWith('#version'))
    return { vocab: vocabulary(parse(vocab, vocabPath), vocabPath), merges: lines }
  }
  const path = join(folder, 'tokenizer.json')
  const text = await readText(path)
  if (text === undefined) {
    throw new LorafuseError(
      'MODEL_INCOMPLETE',
      `Expected vocab.json and merges.txt, or tokenizer.json, for the tokenizer but received none in ${folder}`,
    )
  }
  const model = (parse(text, path).model ?? {}) as Record<string, unknown>
  if (model.end_of_word_suffix !== '</w>' || !Array.isArray(model.merges)) throw invalid(path, 'another kind of tokenizer')
  const pairs = model.merges as (string | string[])[]
  return { vocab: vocabulary(model.vocab, path), merges: pairs.map((pair) => (typeof pair === 'string' ? pair : pair.join(' '))) }
}

/** A special token of `tokenizer_config.json` or `special_tokens_map.json`: a string, or an object with `content`. */
function special(configs: Record<string, unknown>[], key: string): string | undefined {
  for (const { [key]: token } of configs) {
    if (typeof token === 'string') return token
    const { content } = (token ?? {}) as { content?: unknown }
    if (typeof content === 'string') return content
  }
  return undefined
}

/** Loads a checkpoint's `tokenizer` folder. Throws `MODEL_INCOMPLETE` where its files are missing, `TOKENIZER_INVALID`. */
export async function loadTokenizer(folder: string): Promise<Tokenizer> {
  const { vocab, merges } = await readFiles(folder)
  const configs = await Promise.all(
    ['tokenizer_config.json', 'special_tokens_map.json'].map(async (name) =>
      parse((await readText(join(folder, name))) ?? '{}', join(folder, name)),
    ),
  )
  const idOf = (token: string) => {
    const id = vocab.get(token)
    if (id === undefined) throw invalid(folder, `a vocabulary without ${token}`)
    return id
  }
  const bos = special(configs, 'bos_token') ?? '<|startoftext|>'
  const eos = special(configs, 'eos_token') ?? '<|endoftext|>'
  const [bosId, eosId, padId] = [idOf(bos), idOf(eos), idOf(special(configs, 'pad_token') ?? eos)]
  const unknownId = vocab.get(special(configs, 'unk_token') ?? eos) ?? eosId
  const maximum = configs[0]?.model_max_length
  const length = typeof maximum === 'number' && maximum >= 2 && maximum < 1e6 ? maximum : 77

  const ranks = new Map(merges.map((pair, rank) => [pair, rank]))
  const characters = byteCharacters()
  const known = new Map<string, number[]>()

  const word = (text: string): number[] => {
    const cached = known.get(text)
    if (cached) return cached
    const parts = Array.from(new TextEncoder().encode(text), (byte) => characters[byte] as string)
    parts.push(`${parts.pop()}</w>`)
    const ids = merge(parts, ranks).map((part) => vocab.get(part) ?? unknownId)
    known.set(text, ids)
    return ids
  }
  // Special tokens are recognised as they are written, before anything else; the capturing group keeps them in the split.
  const specials = new RegExp(`(${[bos, eos].map((token) => token.replace(/[^\w\s]/g, '\\$&')).join('|')})`)
  const tokenize = (text: string): number[] =>
    text.split(specials).flatMap((piece) => {
      if (piece === bos) return [bosId]
      if (piece === eos) return [eosId]
      return words(piece).flatMap(word)
    })
  const encode = (text: string): Int32Array => {
    const ids = tokenize(text).slice(0, length - 2)
    const encoded = new Int32Array(length).fill(padId)
    encoded.set([bosId, ...ids, eosId])
    return encoded
  }
  return { length, bosId, eosId, padId, tokenize, encode }
}
