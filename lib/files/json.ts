/** JSON objects, as files of any origin hold them. */
import type { LorafuseError } from '../errors.js'
import { disguiseOf } from './disguise.js'
import { readWhole } from './read.js'

export type Json = Record<string, unknown>

/** More than any config or vocabulary has. */
const MOST_BYTES = 2 ** 26

export function isRecord(value: unknown): value is Json {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

/** Arrays and objects in one another; the files' own have four. */
const DEPTH = 64

/**
 * Measures a JSON text, of which `JSON.parse` would make many times its bytes: how deep arrays and objects lie in one another, and how many
 * values they hold.
 */
export function measured(text: string): { depth: number; values: number } {
  let [depth, deepest, values] = [0, 0, 0]
  let isText = false
  for (let i = 0; i < text.length; i++) {
    const character = text[i]
    if (character === '"') isText = !isText
    else if (isText) i += Number(character === '\\')
    else if (character === ',') values += 1
    else if (character === ']' || character === '}') depth -= 1
    else if (character === '[' || character === '{') {
      // One more than the commas behind it.
      values += 1
      depth += 1
      deepest = Math.max(deepest, depth)
    }
  }
  return { depth: deepest, values }
}

/** Parses the text of a JSON object; undefined if it is anything else. */
export function parseRecord(text: string): Json | undefined {
  if (measured(text).depth > DEPTH) return undefined
  try {
    const value: unknown = JSON.parse(text)
    return isRecord(value) ? value : undefined
  } catch {
    return undefined
  }
}

/** Whether a value is a whole number from 0. */
export function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0
}

/** Reads a JSON object from the bytes of a file. `invalid`: makes the error of another content. */
export function recordOf(bytes: Uint8Array, invalid: (received: string) => LorafuseError): Json {
  let text = ''
  try {
    text = new TextDecoder('utf-8', { fatal: true }).decode(bytes)
  } catch {}
  const record = parseRecord(text)
  if (record) return record
  const disguise = disguiseOf(bytes)
  throw invalid(disguise ? `${disguise.kind}; ${disguise.advice}` : 'something else')
}

/** Reads a file that holds a JSON object. `what`: what was expected; `invalid`: as in `recordOf`. Throws as `readWhole`. */
export async function readRecord(path: string, what: string, invalid: (received: string) => LorafuseError): Promise<Json> {
  return recordOf(await readWhole(path, what, MOST_BYTES), invalid)
}
