/** A command line's words to option values, by the rows of a table; kohya's names count as the option's own. */
import { kebab, type Label, unknownOption } from './config.js'
import { LorafuseError } from './events.js'
import type { Row, Table } from './options.js'

export interface Arguments {
  /** By the options' names; only what was given. */
  values: Record<string, unknown>
  /** Calls an option what the command line called it. */
  label: Label
}

const flagOf = (name: string) => `--${name}`

/** Every spelling of every option: `rank` and `network_dim`, `flip` and `no-flip`. */
function spellings(table: Table): Map<string, { name: string; row: Row; negated: boolean }> {
  const found = new Map<string, { name: string; row: Row; negated: boolean }>()
  for (const [name, row] of Object.entries(table)) {
    for (const spelling of [kebab(name), ...(row.kohya ?? [])]) found.set(spelling, { name, row, negated: false })
    if (row.kind.flag && !row.kind.placeholder) found.set(`no-${kebab(name)}`, { name, row, negated: true })
  }
  return found
}

/**
 * Reads `--name value`, `--name=value`, `--flag`, `--no-flag` and `-h`; a repeated option counts as last given, or adds to its list.
 * A word that begins with `--` is no value; write `--name=--value` for one. Throws `OPTION_UNKNOWN`, `OPTION_INVALID`.
 */
export function parseArguments(command: string, table: Table, words: string[]): Arguments {
  const known = spellings(table)
  const values: Record<string, unknown> = {}
  const typed = new Map<string, string>()
  const rest = [...words]
  for (let word = rest.shift(); word !== undefined; word = rest.shift()) {
    if (word === '-h') word = '--help'
    const [, spelling, inline] = /^--([^=]+)(?:=(.*))?$/s.exec(word) ?? []
    if (spelling === undefined)
      throw new LorafuseError('OPTION_INVALID', `Expected options of ${command} but received the word ${JSON.stringify(word)}`)
    const option = known.get(spelling)
    if (!option) throw unknownOption(command, spelling, [...known.keys()], flagOf)
    const { name, row, negated } = option
    const { flag, placeholder, repeatable, fromText, expected } = row.kind
    let value: unknown = inline
    if (value === undefined && placeholder && rest[0] !== undefined && !rest[0].startsWith('--')) value = rest.shift()
    if (value === undefined && !flag)
      throw new LorafuseError('OPTION_INVALID', `Expected ${expected} for ${flagOf(spelling)} but received none`)
    if (negated && inline !== undefined) {
      throw new LorafuseError('OPTION_INVALID', `Expected no value for ${flagOf(spelling)} but received ${JSON.stringify(inline)}`)
    }
    typed.set(name, flagOf(spelling))
    const read = value === undefined ? !negated : fromText(value as string)
    values[name] = repeatable ? [...((values[name] as unknown[]) ?? []), read] : read
  }
  return { values, label: (name) => typed.get(name) ?? flagOf(kebab(name)) }
}

/** A command line that a shell reads back as these words. */
export function quote(words: string[]): string {
  return words.map((word) => (/^[\w./:=@%+,-]+$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`)).join(' ')
}

/** The words without an option and its value. */
export function without(words: string[], option: string): string[] {
  return words.filter((word, i) => {
    if (word === option || word.startsWith(`${option}=`)) return false
    return words[i - 1] !== option || word.startsWith('--')
  })
}
