/**
 * Prompts as A1111 reads them: `(more)`, `(much:1.4)`, `[less]`, `BREAK`, and chunks of as many tokens as the text encoder takes
 * (AUTOMATIC1111/stable-diffusion-webui:modules/prompt_parser.py, modules/sd_hijack_clip.py).
 */
import { LorafuseError, shown } from '../errors.js'
import { ownTokens, type Tokenizer } from '../models/tokenizer.js'

/** Words of a prompt, and what their embeddings are multiplied by. */
export interface Words {
  text: string
  weight: number
}

/** What a round bracket multiplies by, and a square one divides by. */
const STEP = 1.1
/** No prompt has more. */
const MOST_CHARACTERS = 50_000
/** No prompt has more brackets in one another: embeddings would be multiplied by more than 10⁴. */
const MOST_OPEN = 100

const TOKEN = /\\[()[\]\\]?|\(|\[|:\s*([+-]?[.\d]+)\s*\)|\)|\]|[^\\()[\]:]+|:/g
const BRACKET = /\[([^[\]]*)\]/g
/** `from:to:step` and `one|other` in a square bracket. */
const EDITING = /\||:\s*[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:e[+-]?\d+)?\s*$/i
/** Brackets in brackets are looked through so deep. */
const DEPTH = 8

/** Finds a word in capitals. For Python, letters of all scripts make words. */
const wholeWord = (word: string) => new RegExp(`(?<![\\p{L}\\p{N}_])${word}(?![\\p{L}\\p{N}_])`, 'u')
const [AND, BREAK] = [wholeWord('AND'), wholeWord('BREAK')]

function invalid(expected: string, received: string, advice = ''): LorafuseError {
  return new LorafuseError('PROMPT_INVALID', `Expected ${expected} but received ${received}${advice}`)
}

/** Throws `PROMPT_INVALID` for what A1111 would do and we do not, rather than draw it as words. */
function checkSupported(prompt: string): void {
  if (prompt.length > MOST_CHARACTERS) throw invalid(`at most ${MOST_CHARACTERS} characters for a prompt`, `${prompt.length}`)
  if (AND.test(prompt)) throw invalid('one prompt', `two that are joined with AND in ${shown(prompt)}`, '; for the word write and')
  let plain = prompt.replace(/\\./gs, '')
  for (let depth = 0; depth < DEPTH; depth++) {
    plain = plain.replace(BRACKET, (bracket, body: string) => {
      if (!EDITING.test(body)) return body
      throw invalid('a prompt that stays the same at all steps', shown(bracket), '; for a bracket as it is write \\[')
    })
  }
}

/** What stands for a BREAK between words. Brackets multiply its weight like that of words, and then it is a word: A1111's parser is followed. */
const MARK: Readonly<Words> = { text: 'BREAK', weight: -1 }

function isMark({ text, weight }: Words): boolean {
  return text === MARK.text && weight === MARK.weight
}

/** Splits a text at its BREAKs, which take the spaces around them. */
function splitAtBreaks(text: string): Words[] {
  const parts = text.split(BREAK)
  return parts.flatMap((part, i) => {
    const begun = i > 0 ? part.trimStart() : part
    const words = { text: i < parts.length - 1 ? begun.trimEnd() : begun, weight: 1 }
    return i > 0 ? [{ ...MARK }, words] : [words]
  })
}

/** Reads brackets; those that are never closed count, too. */
function readWords(prompt: string): Words[] {
  const words: Words[] = []
  /** Where the brackets that are open begin. */
  const open: Record<'(' | '[', number[]> = { '(': [], '[': [] }
  const multiply = (begin: number | undefined, factor: number) => {
    for (let i = begin as number; i < words.length; i++) words[i]!.weight *= factor
  }
  for (const [token, weight] of prompt.matchAll(TOKEN)) {
    if (token.startsWith('\\')) words.push({ text: token.slice(1), weight: 1 })
    else if (token === '(' || token === '[') {
      if (open[token].push(words.length) > MOST_OPEN) throw invalid(`at most ${MOST_OPEN} brackets in one another in a prompt`, 'more')
    } else if (weight !== undefined && open['('].length > 0) {
      const factor = Number(weight)
      if (Number.isNaN(factor)) throw invalid('a number after : in a bracket of the prompt', shown(weight))
      multiply(open['('].pop(), factor)
    } else if (token === ')' && open['('].length > 0) multiply(open['('].pop(), STEP)
    else if (token === ']' && open['['].length > 0) multiply(open['['].pop(), 1 / STEP)
    else words.push(...splitAtBreaks(token))
  }
  for (const begin of open['(']) multiply(begin, STEP)
  for (const begin of open['[']) multiply(begin, 1 / STEP)
  return words
}

/**
 * Reads a prompt without tags of LoRAs: what stands between its BREAKs, as words of one weight each. As in A1111, brackets multiply, `\(` is a
 * bracket as it is, and neighbours of the same weight become one text. Throws `PROMPT_INVALID` for prompt editing, AND, and numbers that are none.
 */
export function parseEmphasis(prompt: string): Words[][] {
  checkSupported(prompt)
  const merged: Words[] = []
  for (const words of readWords(prompt)) {
    const last = merged.at(-1)
    if (last?.weight === words.weight) last.text += words.text
    else merged.push(words)
  }
  const sections: Words[][] = [[]]
  for (const words of merged) {
    if (isMark(words)) sections.push([])
    else if (words.text !== '') sections.at(-1)!.push(words)
  }
  return sections
}

/** As many tokens as a text encoder takes at once, BOS and EOS included, and what each one's embedding is multiplied by. */
export interface Chunk {
  ids: Int32Array
  weights: Float32Array
}

interface Token {
  id: number
  weight: number
}

/** How many tokens behind the last comma go into the next chunk with what follows, as A1111 has it set. */
const BACKTRACK = 20
/** A longer prompt is cut. */
export const MOST_CHUNKS = 32

function toChunk(tokens: Token[], { length, bosId, eosId, padId }: Tokenizer): Chunk {
  const [ids, weights] = [new Int32Array(length).fill(padId), new Float32Array(length).fill(1)]
  ids.set([bosId, ...tokens.map(({ id }) => id), eosId])
  weights.set(
    tokens.map(({ weight }) => weight),
    1,
  )
  return { ids, weights }
}

/** Splits tokens between two BREAKs where a chunk is full, or behind the last comma before that. */
function split(tokens: Token[], comma: number | undefined, most: number): Token[][] {
  const chunks: Token[][] = []
  let chunk: Token[] = []
  let afterComma = 0
  for (const token of tokens) {
    if (chunk.length === most) {
      const kept = token.id !== comma && afterComma > 0 && most - afterComma < BACKTRACK ? afterComma : most
      chunks.push(chunk.slice(0, kept))
      chunk = chunk.slice(kept)
      afterComma = 0
    }
    chunk.push(token)
    if (token.id === comma) afterComma = chunk.length
  }
  if (chunk.length > 0) chunks.push(chunk)
  return chunks
}

/** Makes the chunks of a prompt, at least one; `cut`: it has more than `MOST_CHUNKS`, and the rest is left out. */
export function toChunks(sections: Words[][], tokenizer: Tokenizer): { chunks: Chunk[]; cut: boolean } {
  const most = ownTokens(tokenizer)
  const room = MOST_CHUNKS * most + 1
  const [comma] = tokenizer.ids(',', 1)
  const found: Token[][] = []
  for (const [i, section] of sections.entries()) {
    const tokens = section.flatMap(({ text, weight }) => tokenizer.ids(text, room).map((id) => ({ id, weight })))
    const chunks = split(tokens, comma, most)
    // A BREAK ends a chunk, even an empty one.
    const isEmpty = chunks.length === 0 && (i < sections.length - 1 || found.length === 0)
    found.push(...(isEmpty ? [[]] : chunks))
  }
  return { chunks: found.slice(0, MOST_CHUNKS).map((tokens) => toChunk(tokens, tokenizer)), cut: found.length > MOST_CHUNKS }
}
