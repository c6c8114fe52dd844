/**
 * CLIP's tokenizer: lower-cased text, byte-level BPE. The algorithm is @huggingface/tokenizers'; this file reads a model's tokenizer folder
 * and describes CLIP's pipeline as huggingface/transformers:src/transformers/models/clip/tokenization_clip.py does.
 */
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { Tokenizer as Pipeline } from '@huggingface/tokenizers'
import { LorafuseError } from '../errors.js'
import { type Json, parseRecord } from '../files/json.js'

export interface Tokenizer {
  /** Tokens of an encoded prompt, BOS, EOS and padding included: 77. */
  length: number
  /** `[length]`: BOS, as many ids of the text as fit, EOS, padding. */
  encode(text: string): Int32Array
  /** Counts the tokens of a text, without BOS, EOS and padding, and however many fit. */
  count(text: string): number
}

interface Vocabulary {
  vocab: Record<string, number>
  /** Pairs in the order of their ranks, each `a b` or `[a, b]`. */
  merges: unknown[]
}

function invalid(path: string, problem: string): LorafuseError {
  return new LorafuseError('TOKENIZER_INVALID', `Expected CLIP's byte-level BPE for ${path} but received ${problem}`)
}

async function readText(path: string): Promise<string | undefined> {
  return readFile(path, 'utf8').catch((cause: NodeJS.ErrnoException) => {
    if (cause.code !== 'ENOENT') throw cause
    return undefined
  })
}

function parse(text: string, path: string): Json {
  const value = parseRecord(text)
  if (!value) throw invalid(path, 'something that is not a JSON object')
  return value
}

function checkVocab(value: unknown, path: string): Record<string, number> {
  const ids = Object.values((value ?? {}) as Record<string, unknown>)
  if (ids.length === 0 || !ids.every(Number.isSafeInteger)) throw invalid(path, 'no vocabulary of token ids')
  return value as Record<string, number>
}

/** Reads `vocab.json` and `merges.txt`, or else `tokenizer.json`. */
async function readVocabulary(folder: string): Promise<Vocabulary> {
  const vocabPath = join(folder, 'vocab.json')
  const [vocab, merges] = await Promise.all([readText(vocabPath), readText(join(folder, 'merges.txt'))])
  if (vocab !== undefined && merges !== undefined) {
    const lines = merges.split(/\r?\n/).filter((line) => line !== '' && !line.startsWith('#version'))
    return { vocab: checkVocab(parse(vocab, vocabPath), vocabPath), merges: lines }
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
  return { vocab: checkVocab(model.vocab, path), merges: model.merges }
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

const WORDS = "'s|'t|'re|'ve|'m|'ll|'d|\\p{L}+|\\p{N}|[^\\p{White_Space}\\p{L}\\p{N}]+"
const split = (pattern: string) => ({ type: 'Split', pattern: { Regex: pattern }, behavior: 'Removed', invert: true })

/**
 * CLIP's pipeline in the form of a `tokenizer.json`. It differs from the published file where JavaScript differs from Rust: \s lacks U+0085
 * and has U+FEFF, and toLowerCase makes the last Σ of a word ς instead of σ. The second split, in Rust part of ByteLevel, takes apart the
 * special tokens that came about only by lower-casing.
 */
function clipPipeline({ vocab, merges }: Vocabulary, specials: string[], unknown: string): object {
  const added = specials.map((content) => ({ id: vocab[content], content, normalized: false, special: true }))
  const normalizers = [
    { type: 'NFC' },
    { type: 'Replace', pattern: { Regex: '\\p{White_Space}+' }, content: ' ' },
    { type: 'Replace', pattern: { String: 'Σ' }, content: 'σ' },
    { type: 'Lowercase' },
    // The split drops the blank. Without it, the library would take a text that is lower-cased to a special token for that token.
    { type: 'Prepend', prepend: ' ' },
  ]
  const words = [
    split(`<\\|(?:start|end)oftext\\|>|${WORDS}`),
    split(WORDS),
    { type: 'ByteLevel', add_prefix_space: false, use_regex: false },
  ]
  return {
    added_tokens: added,
    normalizer: { type: 'Sequence', normalizers },
    pre_tokenizer: { type: 'Sequence', pretokenizers: words },
    model: { type: 'BPE', unk_token: unknown, end_of_word_suffix: '</w>', vocab, merges },
    post_processor: null,
    decoder: null,
  }
}

/** Loads a model's `tokenizer` folder. Throws `MODEL_INCOMPLETE` where its files are missing, `TOKENIZER_INVALID`. */
export async function loadTokenizer(folder: string): Promise<Tokenizer> {
  const vocabulary = await readVocabulary(folder)
  const configs = await Promise.all(
    ['tokenizer_config.json', 'special_tokens_map.json'].map(async (name) =>
      parse((await readText(join(folder, name))) ?? '{}', join(folder, name)),
    ),
  )
  const idOf = (token: string): number => {
    const id = Object.hasOwn(vocabulary.vocab, token) ? vocabulary.vocab[token] : undefined
    if (id === undefined) throw invalid(folder, `a vocabulary without ${token}`)
    return id
  }
  const bos = special(configs, 'bos_token') ?? '<|startoftext|>'
  const eos = special(configs, 'eos_token') ?? '<|endoftext|>'
  const [bosId, eosId, padId] = [idOf(bos), idOf(eos), idOf(special(configs, 'pad_token') ?? eos)]
  const unknown = special(configs, 'unk_token') ?? eos
  const maximum = configs[0]?.model_max_length
  const length = typeof maximum === 'number' && maximum >= 2 && maximum < 1e6 ? maximum : 77
  const pipeline = new Pipeline(clipPipeline(vocabulary, [bos, eos], Object.hasOwn(vocabulary.vocab, unknown) ? unknown : eos), {})
  const idsOf = (text: string) => pipeline.encode(text).ids
  return {
    length,
    encode(text) {
      const encoded = new Int32Array(length).fill(padId)
      encoded.set([bosId, ...idsOf(text).slice(0, length - 2), eosId])
      return encoded
    },
    count: (text) => idsOf(text).length,
  }
}
