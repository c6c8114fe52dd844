/**
 * Prompts as A1111 reads them: `(more)`, `(much:1.4)`, `[less]`, `BREAK`, and chunks of as many tokens as the text encoder takes
 * (AUTOMATIC1111/stable-diffusion-webui:modules/prompt_parser.py, modules/sd_hijack_clip.py).
 */
import { LorafuseError, shown } from '../errors.js'
import type { Tokenizer } from '../models/tokenizer.js'

/** Words of a prompt, and what their embeddings are multiplied by. */
export interface Words {
  text: string
  weight: number
}

/** What a round bracket multiplies by, and a square one divides by. */
const STEP = 1.1
/** No prompt has more. */
const MOST_CHARACTERS = 50_000

const TOKEN = /\\[()[\]\\]?|\(|\[|:\s*([+-]?[.\d]+)\s*\)|\)|\]|[^\\()[\]:]+|:/g
const BRACKET = /\[([^[\]]*)\]/g
/** `from:to:step` and `one|other` in a square bracket. */
const EDITING = /\||:\s*[+-]?(?:\d+\.?\d*|\.\d+)\s*$/
/** Brackets in brackets are looked through so deep. */
const DEPTH = 8

function invalid(expected: string, received: string, advice = ''): LorafuseError {
  return new LorafuseError('PROMPT_INVALID', `Expected ${expected} but received ${received}${advice}`)
}

/** Throws `PROMPT_INVALID` for what A1111 would do and we do not, rather than draw it as words. */
function checkSupported(prompt: string): void {
  if (prompt.length > MOST_CHARACTERS) throw invalid(`at most ${MOST_CHARACTERS} characters for a prompt`, `${prompt.length}`)
  let plain = prompt.replace(/\\./gs, '')
  if (/\bAND\b/.test(plain)) throw invalid('one prompt', `two that are joined with AND in ${shown(prompt)}`, '; for the word write and')
  for (let depth = 0; depth < DEPTH; depth++) {
    plain = plain.replace(BRACKET, (bracket, body: string) => {
      if (!EDITING.test(body)) return body
      throw invalid('a prompt that stays the same at all steps', shown(bracket), '; for a bracket as it is write \\[')
    })
  }
}

/** A part of a prompt: words, BREAK, or a bracket that begins, whose factor its end tells, or ends. */
type Part = { text: string } | 'BREAK' | { bracket: '(' | '['; factor: number } | ')' | ']'

/** Reads brackets; those that are never closed count, too. */
function readParts(prompt: string): Part[] {
  const parts: Part[] = []
  const open: Record<'(' | '[', { bracket: '(' | '['; factor: number }[]> = { '(': [], '[': [] }
  const begin = (bracket: '(' | '[', factor: number) => {
    const part = { bracket, factor }
    open[bracket].push(part)
    parts.push(part)
  }
  for (const [token, weight] of prompt.matchAll(TOKEN)) {
    if (token.startsWith('\\')) parts.push({ text: token.slice(1) })
    else if (token === '(') begin('(', STEP)
    else if (token === '[') begin('[', 1 / STEP)
    else if ((token === ')' || weight !== undefined) && open['('].length > 0) {
      const bracket = open['('].pop()!
      if (weight !== undefined) bracket.factor = Number(weight)
      if (Number.isNaN(bracket.factor)) throw invalid('a number after : in a bracket of the prompt', shown(weight))
      parts.push(')')
    } else if (token === ']' && open['['].length > 0) {
      open['['].pop()
      parts.push(']')
    } else parts.push(...token.split(/\bBREAK\b/).flatMap((text, i): Part[] => (i > 0 ? ['BREAK', { text }] : [{ text }])))
  }
  return parts
}

/**
 * Reads a prompt without tags of LoRAs: what stands between its BREAKs, as words of one weight each. As in A1111, brackets multiply, `\(` is a
 * bracket as it is, and neighbours of the same weight become one text. Throws `PROMPT_INVALID` for prompt editing, AND, and numbers that are none.
 */
export function parseEmphasis(prompt: string): Words[][] {
  checkSupported(prompt)
  let section: Words[] = []
  const sections = [section]
  // Round and square brackets may overlap.
  const factors = { '(': [1], '[': [1] }
  for (const part of readParts(prompt)) {
    if (part === ')') factors['('].pop()
    else if (part === ']') factors['['].pop()
    else if (part === 'BREAK') {
      section = []
      sections.push(section)
    } else if ('bracket' in part) factors[part.bracket].push(factors[part.bracket].at(-1)! * part.factor)
    else {
      const weight = factors['('].at(-1)! * factors['['].at(-1)!
      const last = section.at(-1)
      if (last?.weight === weight) last.text += part.text
      else section.push({ text: part.text, weight })
    }
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
  const most = tokenizer.length - 2
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
