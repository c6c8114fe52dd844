/**
 * Tokens that were added to a vocabulary, such as those of textual inversions: they are found in a text before it is taken apart into words
 * (huggingface/tokenizers:tokenizers/src/tokenizer/added_vocabulary.rs). `@huggingface/tokenizers` 0.2 does not heed `single_word`, and would
 * take a word that becomes a special token by being normalized for that token.
 */
import { type LorafuseError, shown } from '../errors.js'
import { isCount, isRecord, type Json } from '../files/json.js'

/** Ids are i32. */
const MOST_ID = 2 ** 31 - 2
/** In characters: of one token, and of all, which are looked for at once. */
const MOST_TOKEN = 1024
const MOST_TOKENS = 2 ** 20

export const isId = (value: unknown): value is number => isCount(value) && value <= MOST_ID

export interface AddedToken {
  id: number
  content: string
  /** Looked for in the normalized text, itself normalized. */
  normalized: boolean
  /** Takes the blanks before it, and behind it. */
  lstrip: boolean
  rstrip: boolean
  /** Only where no letter or digit is beside it. */
  single: boolean
}

/** The files of a tokenizer: `tokenizer.json`, `added_tokens.json`, and those that hold settings. */
export interface AddedFiles {
  whole: Json
  added: Json
  configs: Json[]
}

const contentOf = (token: unknown) => (isRecord(token) ? token.content : token)

/** Lists what the files say of tokens: an id, and an object with flags or a content alone. Of two that say something the later counts. */
function described({ whole, added, configs }: AddedFiles): [id: unknown, token: unknown][] {
  const listed = Array.isArray(whole.added_tokens) ? (whole.added_tokens as unknown[]) : []
  const decoders = configs.flatMap(({ added_tokens_decoder: decoder }) => (isRecord(decoder) ? Object.entries(decoder) : []))
  return [
    ...listed.map((token): [unknown, unknown] => [isRecord(token) ? token.id : undefined, token]),
    ...Object.entries(added).map(([content, id]): [unknown, unknown] => [id, content]),
    ...decoders.map(([id, token]): [unknown, unknown] => [Number(id), token]),
  ]
}

/** Reads the tokens that files add to a vocabulary. `invalid`: makes the error of one that makes no sense. */
export function readAddedTokens(
  files: AddedFiles,
  vocab: Record<string, number>,
  invalid: (problem: string) => LorafuseError,
): AddedToken[] {
  const named = files.configs.flatMap(({ additional_special_tokens, extra_special_tokens }) => [
    additional_special_tokens,
    extra_special_tokens,
  ])
  const specials = named.filter((list) => Array.isArray(list)).flatMap((list: unknown[]) => list.map(contentOf))
  const ids = new Map<unknown, number>(Object.entries(vocab))
  const tokens = new Map<string, AddedToken>()
  for (const [id, token] of described(files)) {
    const content = contentOf(token)
    if (typeof content !== 'string' || content.trim() === '') throw invalid(`${shown(content)} as an added token`)
    if (!isId(id)) throw invalid(`${shown(id)} as the id of the added token ${shown(content)}`)
    const other = ids.get(content) ?? id
    if (other !== id) throw invalid(`two ids, ${other} and ${id}, of the added token ${shown(content)}`)
    ids.set(content, id)
    const { special, normalized, lstrip, rstrip, single_word: single } = isRecord(token) ? token : ({} as Json)
    const flags = { lstrip: lstrip === true, rstrip: rstrip === true, single: single === true }
    tokens.set(content, { id, content, normalized: typeof normalized === 'boolean' ? normalized : special !== true, ...flags })
  }
  const lacking = specials.find((content) => !ids.has(content))
  if (lacking !== undefined) throw invalid(`the special token ${shown(lacking)} without an id`)
  const lengths = [...tokens.keys()].map(({ length }) => length)
  const longest = lengths.reduce((most, length) => Math.max(most, length), 0)
  const all = lengths.reduce((sum, length) => sum + length, 0)
  if (longest > MOST_TOKEN) throw invalid(`an added token of ${longest} characters, which may have ${MOST_TOKEN},`)
  if (all > MOST_TOKENS) throw invalid(`added tokens of ${all} characters, which together may have ${MOST_TOKENS},`)
  return [...tokens.values()]
}

const WORD = '[\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}]'
const escaped = (text: string) => text.replace(/[\\^$.*+?()[\]{}|/]/g, '\\$&')

/** Returns a function that takes a text apart into ids of these tokens and the texts between them. Of several the longest is taken. */
export function splitter(tokens: AddedToken[]): (text: string) => (string | number)[] {
  if (tokens.length === 0) return (text) => [text]
  const byContent = new Map(tokens.map((token) => [token.content, token]))
  const patterns = [...byContent.values()]
    .sort((a, b) => b.content.length - a.content.length)
    .map(({ content, single }) => (single ? `(?<!${WORD})${escaped(content)}(?!${WORD})` : escaped(content)))
  const pattern = new RegExp(`(${patterns.join('|')})`, 'u')
  return (text) => {
    // The odd ones are tokens.
    const pieces = text.split(pattern)
    const tokenAt = (i: number) => (i % 2 === 1 ? byContent.get(pieces[i]!) : undefined)
    return pieces.map((piece, i) => {
      const token = tokenAt(i)
      if (token) return token.id
      const begun = tokenAt(i - 1)?.rstrip ? piece.trimStart() : piece
      return tokenAt(i + 1)?.lstrip ? begun.trimEnd() : begun
    })
  }
}
