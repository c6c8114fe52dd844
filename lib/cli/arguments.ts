/** Reads command lines by yargs, from tables of commands and options; mistakes are reported in this package's own sentences. */
import yargs, { type Argv, type FallbackCompletionFunction, type Options } from 'yargs'
import { cut, LorafuseError, listed, shown } from '../errors.js'
import { describeCommand, describeOption, usage } from '../options/help.js'
import { withoutNetworkArgs } from '../options/kohya.js'
import { invalidOption, kebab, type Label, nearest, unknownOptions } from '../options/resolve.js'
import { type Row, rowsOf, type Table } from '../options/rows.js'
import { version } from '../version.js'
import type { Arguments, Command, Commands } from './command.js'

const COMPLETE = '--get-yargs-completions'

const flagOf = (name: string) => `--${name}`
const names = (name: string, { kohya = [] }: Row) => [kebab(name), ...kohya]
const isSwitch = ({ kind }: Row) => kind.type === 'boolean'
const wordsOf = ({ kind }: Row) => kind.words && [...kind.words, ...Object.keys(kind.aliases ?? {})]

/** Parses `--spelling` and `--spelling=inline`; a word that begins with `--` is never a value. */
function typed(word: string): { spelling?: string; inline?: string } {
  const [, spelling, inline] = /^--([^=]+)(?:=(.*))?$/s.exec(word) ?? []
  return { spelling, inline }
}

/** Lists every spelling of every option: `rank` and `network_dim`, `flip` and `no-flip`. */
function spellings(table: Table): Map<string, { row: Row; negated: boolean }> {
  const found = new Map<string, { row: Row; negated: boolean }>()
  for (const [name, row] of Object.entries(table)) {
    for (const spelling of names(name, row)) found.set(spelling, { row, negated: false })
    if (isSwitch(row)) found.set(`no-${kebab(name)}`, { row, negated: true })
  }
  return found
}

function strayWord(command: string, word: string): LorafuseError {
  return new LorafuseError('OPTION_INVALID', `Expected options of ${command} but received the word ${shown(word)}`)
}

/** Finds an option that takes one value but was given more than once, by any of its names. */
function repeated(known: ReturnType<typeof spellings>, words: string[]): LorafuseError | undefined {
  const given = new Map<Row, string[]>()
  for (const [i, word] of words.entries()) {
    const { spelling, inline } = typed(word)
    const row = spelling === undefined ? undefined : known.get(spelling)?.row
    if (!row || row.kind.repeatable) continue
    const next = words[i + 1]
    const value = inline === undefined && !isSwitch(row) && next?.startsWith('--') === false ? ` ${cut(next)}` : ''
    const all = given.get(row) ?? []
    all.push(cut(word) + value)
    given.set(row, all)
  }
  const [row, all] = [...given].find(([, all]) => all.length > 1) ?? []
  if (!row || !all) return undefined
  const [name] = [...known].find(([, one]) => one.row === row)!
  return new LorafuseError('OPTION_INVALID', `Expected ${flagOf(name)} once but received ${listed(all, ' and ')}`)
}

/** Finds a mistake in the options' names, a switch's value, which yargs would read as false, or a value too many. */
function misspelt(command: string, table: Table, words: string[]): LorafuseError | undefined {
  const known = spellings(table)
  // yargs would ignore what follows `--`.
  if (words.includes('--')) return strayWord(command, '--')
  const options = words.map(typed)
  const unknown = options.flatMap(({ spelling }) => (spelling === undefined || known.has(spelling) ? [] : [spelling]))
  if (unknown.length > 0) return unknownOptions(command, unknown, [...known.keys()], flagOf)
  for (const { spelling, inline } of options) {
    const option = spelling === undefined ? undefined : known.get(spelling)
    if (spelling === undefined || !option) continue
    if (inline === undefined || !isSwitch(option.row)) continue
    if (option.negated) return invalidOption('no value', flagOf(spelling), inline)
    if (inline !== 'true' && inline !== 'false') return invalidOption(option.row.kind.expected, flagOf(spelling), inline)
  }
  return repeated(known, words)
}

function unknownCommand(commands: Commands, word: string): LorafuseError {
  const known = Object.keys(commands)
  const received = cut(word)
  const meant = nearest(received, known)
  const hint = meant ? `; did you mean ${meant}?` : ''
  return new LorafuseError('COMMAND_UNKNOWN', `Expected ${known.join(', ')} for the command but received ${received}${hint}`)
}

/** Says why yargs refuses a command line; `message` is yargs's own. */
function refusal(message: string, parser: Argv, command: string, table: Table, words: string[]): LorafuseError {
  const wrong = misspelt(command, table, words)
  if (wrong) return wrong
  const valueless = /^Not enough arguments following: (.+)$/s.exec(message)?.[1]
  const row = valueless === undefined ? undefined : spellings(table).get(valueless)?.row
  if (row) return invalidOption(row.kind.expected, flagOf(valueless as string))
  const argv = parser.parsed ? parser.parsed.argv : { _: [] }
  const stray = argv._[1] ?? words.find((word) => /^-[^-\d]/.test(word))
  if (stray !== undefined) return strayWord(command, String(stray))
  return new LorafuseError('OPTION_INVALID', `Expected options of ${command} but received what yargs refuses: ${cut(message)}`)
}

/** Finds the last spelling of an option among the words. */
function spelt(name: string, row: Row, words: string[]): string | undefined {
  const own = [...names(name, row), ...(isSwitch(row) ? [`no-${kebab(name)}`] : [])]
  return words.map((word) => typed(word).spelling).findLast((spelling) => spelling !== undefined && own.includes(spelling))
}

function labelled(table: Table, words: string[]): Label {
  return (name) => flagOf((Object.hasOwn(table, name) ? spelt(name, table[name]!, words) : undefined) ?? kebab(name))
}

/** Collects the values that were given; yargs makes a list of those of a repeated option. */
function valuesOf(table: Table, argv: Record<string, unknown>, words: string[]): Record<string, unknown> {
  const values: Record<string, unknown> = {}
  for (const [name, row] of Object.entries(table)) {
    if (spelt(name, row, words) === undefined) continue
    const read = [argv[kebab(name)]].flat().map((value) => (typeof value === 'string' ? (row.kind.fromText?.(value) ?? value) : value))
    values[name] = row.kind.repeatable ? read : read.at(-1)
  }
  return values
}

/** Describes a row to yargs: values stay texts. `--resume`, without a type, is true without a value. */
function optionOf(name: string, row: Row, group: string, purpose: Purpose): Options {
  const { kind, default: value } = row
  const shared: Options = { alias: (row.kohya ?? []).filter((alias) => alias !== kebab(name)), describe: describeOption(row), group }
  // The default only makes completion offer --no-buckets: valuesOf ignores what was not typed.
  if (isSwitch(row)) return { ...shared, boolean: true, ...(value?.() === true ? { default: true } : {}) }
  if (kind.valueOptional) return shared
  // `resolve` checks them.
  const choices = purpose === 'complete' ? wordsOf(row) : undefined
  return { ...shared, string: true, requiresArg: true, ...(kind.several ? { array: true } : {}), ...(choices ? { choices } : {}) }
}

/** No word with one dash is longer, unless it is an option's value. */
const LONGEST = 256

type Purpose = 'run' | 'help' | 'complete'

function build(parser: Argv, name: string, command: Command, purpose: Purpose): Argv {
  parser.usage(describeCommand(name, command)).version(false)
  // A value may begin with a dash, as in `--negative-prompt '-x'`; misspelt finds unknown options.
  if (purpose === 'run') parser.parserConfiguration({ ...PARSER, 'unknown-options-as-args': true })
  for (const [title, table] of Object.entries(command.options)) {
    for (const [name, row] of Object.entries(table)) {
      // yargs shows an option's key as it is, so in help the key carries the placeholder.
      if (purpose === 'help' && name !== 'help') parser.option(usage(name, row).slice(2), { describe: describeOption(row), group: title })
      else parser.option(kebab(name), optionOf(name, row, title, purpose))
    }
  }
  return parser
}

const PARSER = {
  'boolean-negation': true,
  'camel-case-expansion': false,
  'dot-notation': false,
  'parse-numbers': false,
  'parse-positional-numbers': false,
  'strip-aliased': true,
}

/** Whether the last word is the value of an option that takes any value: completion then offers nothing, and shells offer files. */
function takesFreeValue(commands: Commands, words: string[]): boolean {
  const command = words.find((word) => Object.hasOwn(commands, word))
  const { spelling } = typed(words.at(-2) ?? '')
  if (command === undefined || spelling === undefined || words.at(-1)?.startsWith('-')) return false
  const row = spellings(rowsOf(commands[command]!.options)).get(spelling)?.row
  return row !== undefined && !isSwitch(row) && !row.kind.words
}

/** Lists the options that kohya's `--network_args` sets, by kohya's names. */
function networkArgs(command: Command | undefined): Map<string, string> {
  const rows = Object.entries<Row>(command ? rowsOf(command.options) : {})
  return new Map(rows.flatMap(([name, { networkArg }]) => (networkArg === undefined ? [] : [[networkArg, kebab(name)]])))
}

/** Rewrites `help train` to `train --help`, `-h` to `--help`, `-V` and `version` to `--version`. */
function plain(words: string[]): string[] {
  const [first, ...rest] = words
  if (first === undefined) return ['--help']
  if (first === 'help') return [...rest.slice(0, 1), '--help']
  if (first === 'version' || first === '-V') return ['--version']
  return first === COMPLETE ? words : words.map((word) => (word === '-h' ? '--help' : word))
}

/**
 * Reads `COMMAND --name value --name=value --flag --no-flag`. Only an option that is a list is given more than once. A word
 * that begins with `--` is never a value; write `--name=--value` for one. Returns undefined if help, the version or completions were asked
 * for, which are then on stdout. Throws `COMMAND_UNKNOWN`, `OPTION_UNKNOWN`, `OPTION_INVALID`; `resolve` checks the values.
 */
export function parseArguments(commands: Commands, line: string[], columns?: number): Arguments | undefined {
  const typedWords = plain(line)
  const first = typedWords[0] ?? ''
  const isCommand = Object.hasOwn(commands, first)
  const purpose: Purpose = first === COMPLETE ? 'complete' : typedWords.includes('--help') ? 'help' : 'run'
  const words = purpose === 'run' ? withoutNetworkArgs(typedWords, networkArgs(isCommand ? commands[first] : undefined)) : typedWords
  const rest = words.slice(1)
  if (purpose === 'help' && first !== '--help' && !isCommand && first !== 'completion') throw unknownCommand(commands, first)
  // yargs would take each of its letters for an option, and ever longer for each.
  const endless = rest.find((word, i) => /^-[^-\d]/.test(word) && word.length > LONGEST && typed(rest[i - 1] ?? '').spelling === undefined)
  if (isCommand && endless !== undefined) throw strayWord(first, endless)
  let found: Arguments | undefined
  const parser = yargs()
  for (const [name, command] of Object.entries(commands)) {
    const table: Table = rowsOf(command.options)
    parser.command(
      name,
      command.summary,
      (own) => build(own, name, command, purpose),
      (argv) => {
        if (first !== name) throw unknownCommand(commands, first)
        const wrong = misspelt(name, table, rest)
        if (wrong) throw wrong
        found = { command: name, values: valuesOf(table, argv, rest), label: labelled(table, rest), words: rest }
      },
    )
  }
  const fallBackToFiles: FallbackCompletionFunction = (_current, _argv, defaults, done) => {
    if (takesFreeValue(commands, words)) done([])
    else defaults()
  }
  parser
    .scriptName('lorafuse')
    .usage('lorafuse COMMAND [options]\n\nlorafuse COMMAND --help lists the options of a command.')
    .completion('completion', 'Print a script that completes command lines: lorafuse completion >> ~/.bashrc', fallBackToFiles)
    .help('help', 'Show this help')
    .version(version())
    .locale('en')
    .wrap(Math.min(columns || 100, 120))
    .parserConfiguration(PARSER)
    .strict()
    .exitProcess(false)
    .fail((message, error) => {
      if (error instanceof LorafuseError) throw error
      if (!isCommand) throw unknownCommand(commands, first)
      throw refusal(message ?? error?.message ?? '', parser, first, rowsOf(commands[first]!.options), rest)
    })
  // yargs 18 has this, its types not yet.
  ;(parser as Argv & { usageConfiguration(configuration: { 'hide-types': boolean }): Argv }).usageConfiguration({ 'hide-types': true })
  // Trap: strict yargs refuses `completion` after it has answered.
  if (first === 'completion') parser.showCompletionScript()
  else parser.parse(words)
  return found
}
