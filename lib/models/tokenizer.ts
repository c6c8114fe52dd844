/**
 * CLIP's tokenizer: lower-cased text, byte-level BPE. The algorithm is @huggingface/tokenizers'; this file reads a model's tokenizer folder
 * and describes CLIP's pipeline as huggingface/transformers:src/transformers/models/clip/tokenization_clip.py does.
 */
import { createHash } from 'node:crypto'
import { join } from 'node:path'
import { Tokenizer as Pipeline } from '@huggingface/tokenizers'
import { LorafuseError, shown } from '../errors.js'
import { isRecord, type Json, recordOf } from '../files/json.js'
import { readWhole, unlessMissing } from '../files/read.js'
import { isId, readAddedTokens, splitter } from './added-tokens.js'
import { clipVocabulary } from './clip-vocabulary.js'

export interface Tokenizer {
  /** One more than the largest id. */
  vocabulary: number
  /** Tokens of an encoded prompt, BOS, EOS and padding included: 77. */
  length: number
  bosId: number
  eosId: number
  padId: number
  /** Returns the first ids of a text, at most `most`, without BOS and EOS. */
  ids(text: string, most: number): number[]
  /**
   * `[chunks, length]`: each chunk is BOS, the next ids (`ownTokens`), EOS, padding; what does not fit is left out. Texts of several chunks are
   * cut as kohya cuts them: after the text, chunks are padding alone, with EOS first where EOS and padding differ.
   */
  chunk(ids: number[], chunks: number): Int32Array
}

/** How many of a chunk's tokens are the text's own: all but BOS and EOS. */
export const ownTokens = ({ length }: Pick<Tokenizer, 'length'>) => length - 2

interface Vocabulary {
  vocab: Record<string, number>
  /** Pairs in the order of their ranks, each `a b` or `[a, b]`. */
  merges: unknown[]
  /** The `tokenizer.json` that it is from or lies beside. */
  whole?: Json
}

const WHAT = 'a tokenizer'
/** The files of a tokenizer's folder: either of these hold its vocabulary. */
export const VOCABULARIES = [['vocab.json', 'merges.txt'], ['tokenizer.json']] as const
/** Those that are read where they are. */
export const SETTINGS = ['added_tokens.json', 'tokenizer_config.json', 'special_tokens_map.json']
const MOST_BYTES = 2 ** 26
const MOST_LENGTH = 2 ** 31 - 2

function invalid(path: string, problem: string): LorafuseError {
  return new LorafuseError('TOKENIZER_INVALID', `Expected CLIP's byte-level BPE for ${path} but received ${problem}`)
}

/** The files of a tokenizer's folder that are there. */
class Files {
  private constructor(
    private readonly folder: string,
    private readonly files: Map<string, Uint8Array>,
  ) {}

  static async read(folder: string): Promise<Files> {
    const files = new Map<string, Uint8Array>()
    for (const name of [...VOCABULARIES.flat(), ...SETTINGS]) {
      const bytes = await unlessMissing(readWhole(join(folder, name), WHAT, MOST_BYTES))
      if (bytes) files.set(name, bytes)
    }
    return new Files(folder, files)
  }

  hash(): string {
    const hash = createHash('sha256')
    for (const [name, bytes] of this.files) hash.update(`${name} ${bytes.length}\n`).update(bytes)
    return hash.digest('hex')
  }

  json(name: string): Json | undefined {
    const bytes = this.files.get(name)
    return bytes && recordOf(bytes, (received) => invalid(join(this.folder, name), received))
  }

  /** The lines of `merges.txt`. */
  merges(name: string): string[] | undefined {
    const bytes = this.files.get(name)
    if (!bytes) return undefined
    try {
      const text = new TextDecoder('utf-8', { fatal: true }).decode(bytes)
      return text.split(/\r?\n/).filter((line) => line !== '' && !line.startsWith('#version'))
    } catch {
      throw invalid(join(this.folder, name), 'bytes that are no UTF-8')
    }
  }
}

function checkVocab(value: unknown, path: string): Record<string, number> {
  const ids = isRecord(value) ? Object.values(value) : []
  if (ids.length === 0) throw invalid(path, 'no vocabulary')
  const odd = ids.find((id) => !isId(id))
  if (odd !== undefined) throw invalid(path, `the token id ${shown(odd)}`)
  const last = new Map(ids.map((id, i) => [id, i]))
  const shared = ids.find((id, i) => last.get(id) !== i)
  if (shared !== undefined) throw invalid(path, `the token id ${shown(shared)} for more than one token`)
  return value as Record<string, number>
}

/** Checks that ids are ids, and that each merge makes a token of the vocabulary. */
function checked(vocab: unknown, vocabPath: string, merges: unknown, path: string): Vocabulary {
  const known = checkVocab(vocab, vocabPath)
  if (!Array.isArray(merges)) throw invalid(path, 'no list of merges')
  const isMerge = (merge: unknown) => {
    const pair = typeof merge === 'string' ? merge.split(' ') : merge
    if (!Array.isArray(pair) || pair.length !== 2) return false
    return pair.every((token) => typeof token === 'string') && Object.hasOwn(known, pair.join(''))
  }
  const odd = merges.findIndex((merge) => !isMerge(merge))
  if (odd >= 0) throw invalid(path, `the merge ${shown(merges[odd])}, which makes no token of the vocabulary`)
  return { vocab: known, merges }
}

/** Reads the first of `VOCABULARIES` that is there. */
function readVocabulary(folder: string, files: Files): Vocabulary {
  const [parts, [single]] = VOCABULARIES
  const [vocabPath, mergesPath] = parts.map((name) => join(folder, name)) as [string, string]
  const path = join(folder, single)
  const [vocab, merges, whole] = [files.json(parts[0]), files.merges(parts[1]), files.json(single)]
  if (vocab && merges) return { ...checked(vocab, vocabPath, merges, mergesPath), ...(whole && { whole }) }
  if (!whole) {
    throw new LorafuseError(
      'MODEL_INCOMPLETE',
      `Expected ${parts.join(' and ')}, or ${single}, for the tokenizer but received none in ${folder}`,
    )
  }
  const model = isRecord(whole.model) ? whole.model : {}
  if (model.end_of_word_suffix !== '</w>') throw invalid(path, 'another kind of tokenizer')
  return { ...checked(model.vocab, path, model.merges, path), whole }
}

/** Finds a special token in `tokenizer_config.json` or `special_tokens_map.json`: a string, or an object with `content`. */
function special(configs: Json[], key: string): string | undefined {
  for (const { [key]: token } of configs) {
    if (typeof token === 'string') return token
    const { content } = (token ?? {}) as { content?: unknown }
    if (typeof content === 'string') return content
  }
  return undefined
}

const BLANK = /\p{White_Space}/u

/**
 * Cuts a long text behind its first `most` characters and the word that they end in, since tokenizing takes time and only the first tokens
 * are used. Blanks do not count: any number of them makes no token. A word that is longer again is cut, too.
 */
function beginning(text: string, most: number): string {
  if (text.length <= most) return text
  const isBlank = (i: number) => BLANK.test(text[i] as string)
  let end = 0
  for (let seen = 0; end < text.length && seen < most; end++) if (!isBlank(end)) seen += 1
  const last = Math.min(text.length, end + most)
  while (end < last && !isBlank(end)) end += 1
  return text.slice(0, end)
}

const WORDS = "'s|'t|'re|'ve|'m|'ll|'d|\\p{L}+|\\p{N}|[^\\p{White_Space}\\p{L}\\p{N}]+"
const split = (pattern: string) => ({ type: 'Split', pattern: { Regex: pattern }, behavior: 'Removed', invert: true })

/**
 * Normalizes a text as the published `tokenizer.json` does, which JavaScript's and Rust's differences would change: \s lacks U+0085 and has
 * U+FEFF, and toLowerCase makes the last Σ of a word ς instead of σ.
 */
function normalize(text: string): string {
  return text
    .normalize('NFC')
    .replace(/\p{White_Space}+/gu, ' ')
    .replaceAll('Σ', 'σ')
    .toLowerCase()
}

/**
 * CLIP's pipeline for normalized text in the form of a `tokenizer.json`. The second split, in Rust part of ByteLevel, takes apart the special
 * tokens that came about only by lower-casing.
 */
function clipPipeline({ vocab, merges }: Vocabulary, unknown: string): object {
  const words = [
    split(`<\\|(?:start|end)oftext\\|>|${WORDS}`),
    split(WORDS),
    { type: 'ByteLevel', add_prefix_space: false, use_regex: false },
  ]
  return {
    added_tokens: [],
    normalizer: null,
    pre_tokenizer: { type: 'Sequence', pretokenizers: words },
    model: { type: 'BPE', unk_token: unknown, end_of_word_suffix: '</w>', vocab, merges },
    post_processor: null,
    decoder: null,
  }
}

/**
 * Cuts BOS, ids, EOS, padding into chunks, each with BOS and an end of its own (kohya-ss/sd-scripts:library/strategy_base.py,
 * `_get_input_ids`).
 */
function chunked(ids: number[], chunks: number, length: number, { bosId, eosId, padId }: Pick<Tokenizer, 'bosId' | 'eosId' | 'padId'>) {
  const content = ownTokens({ length })
  const whole = new Int32Array(chunks * content + 2).fill(padId)
  whole.set([bosId, ...ids.slice(0, chunks * content), eosId])
  if (chunks === 1) return whole
  const cut = new Int32Array(chunks * length)
  for (let i = 0; i < chunks; i++) {
    const chunk = cut.subarray(i * length, (i + 1) * length)
    chunk.set(whole.subarray(1 + i * content, 1 + (i + 1) * content), 1)
    chunk[0] = bosId
    chunk[length - 1] = whole.at(-1) as number
    if (chunk[length - 2] !== eosId && chunk[length - 2] !== padId) chunk[length - 1] = eosId
    if (chunk[1] === padId) chunk[1] = eosId
  }
  return cut
}

/** `folder`: names the tokenizer in errors; `configs`: its settings, the first that has one counts; `added`: its `added_tokens.json`. */
function makeTokenizer(vocabulary: Vocabulary, folder: string, configs: Json[], added: Json, padId?: number): Tokenizer {
  const { vocab, whole = {} } = vocabulary
  const tokens = readAddedTokens({ whole, added, configs }, vocab, (problem) => invalid(folder, problem))
  const ids = new Map([...Object.entries(vocab), ...tokens.map(({ content, id }): [string, number] => [content, id])])
  const idOf = (token: string): number => {
    const id = ids.get(token)
    if (id === undefined) throw invalid(folder, `a vocabulary without ${shown(token)}`)
    return id
  }
  const bos = special(configs, 'bos_token') ?? '<|startoftext|>'
  const eos = special(configs, 'eos_token') ?? '<|endoftext|>'
  const pad = special(configs, 'pad_token')
  const [bosId, eosId] = [idOf(bos), idOf(eos)]
  const specials = { bosId, eosId, padId: pad === undefined ? (padId ?? eosId) : idOf(pad) }
  const unknown = special(configs, 'unk_token') ?? eos
  const maximum = configs[0]?.model_max_length
  // transformers writes 1e30 where no length is known.
  const known = maximum !== undefined && maximum !== null && !(typeof maximum === 'number' && maximum > MOST_LENGTH)
  const length = known ? (maximum as number) : 77
  if (!Number.isInteger(length) || length < 3) throw invalid(folder, `${shown(maximum)} as model_max_length`)
  const pipeline = new Pipeline(clipPipeline(vocabulary, Object.hasOwn(vocab, unknown) ? unknown : eos), {})
  const ends = [bos, eos].map((content) => ({ id: idOf(content), content, normalized: false, lstrip: false, rstrip: false, single: false }))
  // What pads may be a word of the vocabulary, as SD2's `!`: in a text it is that word, as A1111 and ComfyUI have it.
  const others = tokens.filter(({ content }) => content !== bos && content !== eos && !(content === pad && Object.hasOwn(vocab, content)))
  const exact = splitter([...ends, ...others].filter(({ normalized }) => !normalized))
  const lower = splitter(others.filter(({ normalized }) => normalized).map((token) => ({ ...token, content: normalize(token.content) })))
  const encoded = (piece: string | number) => (typeof piece === 'number' ? [piece] : pipeline.encode(piece).ids)
  const allIds = (text: string) =>
    exact(text).flatMap((piece) => (typeof piece === 'number' ? [piece] : lower(normalize(piece)).flatMap(encoded)))
  // A token stands for no more bytes than its name has characters, and normalizing at most halves them.
  const longest = [...ids.keys()].reduce((most, token) => Math.max(most, token.length), 0)
  return {
    vocabulary: [...ids.values()].reduce((most, id) => Math.max(most, id), 0) + 1,
    length,
    ...specials,
    ids: (text, most) => allIds(beginning(text, 2 * longest * most)).slice(0, most),
    chunk: (ids, chunks) => chunked(ids, chunks, length, specials),
  }
}

/** Those in use, by what they were made of, and those that are being made: one takes a quarter of a second. */
const made = new Map<string, WeakRef<Tokenizer>>()
const making = new Map<string, Promise<Tokenizer>>()

async function once(key: string, make: () => Promise<Tokenizer>): Promise<Tokenizer> {
  for (const [other, kept] of made) if (!kept.deref()) made.delete(other)
  const known = made.get(key)?.deref() ?? making.get(key)
  if (known) return known
  try {
    const tokenizer = make()
    making.set(key, tokenizer)
    made.set(key, new WeakRef(await tokenizer))
    return await tokenizer
  } finally {
    making.delete(key)
  }
}

/**
 * Loads a model's `tokenizer` folder. `padId`: where its files do not say, EOS if it is left out. Throws `MODEL_INCOMPLETE` where its files
 * are missing, `TOKENIZER_INVALID`.
 */
export async function loadTokenizer(folder: string, padId?: number): Promise<Tokenizer> {
  const files = await Files.read(folder)
  return once(`${files.hash()} ${padId}`, async () => {
    const vocabulary = readVocabulary(folder, files)
    const [added = {}, ...configs] = SETTINGS.map((name) => files.json(name) ?? {})
    return makeTokenizer(vocabulary, folder, configs, added, padId)
  })
}

/** Makes CLIP's own tokenizer, for a model that brings none. `padId`: as in `loadTokenizer`. */
export async function clipTokenizer(padId?: number): Promise<Tokenizer> {
  return once(`CLIP ${padId}`, async () => makeTokenizer(await clipVocabulary(), 'CLIP', [], {}, padId))
}
