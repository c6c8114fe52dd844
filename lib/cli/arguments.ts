/** The command line, read by yargs: commands and options from their tables, all that is wrong told in sentences of our own. */
import yargs, { type Argv, type FallbackCompletionFunction, type Options } from 'yargs'
import { LorafuseError } from '../errors.js'
import { type Command, commands, describeCommand, describeOption, usage } from '../options/help.js'
import { invalidOption, kebab, type Label, nearest, unknownOption } from '../options/resolve.js'
import type { Row, Table } from '../options/table.js'
import { version } from '../version.js'

export interface Arguments {
  command: Command
  /** By the options' names; only what was given. */
  values: Record<string, unknown>
  /** Calls an option what the command line called it. */
  label: Label
  /** The words after the command. */
  words: string[]
}

const COMPLETE = '--get-yargs-completions'

const flagOf = (name: string) => `--${name}`
const names = (name: string, { kohya = [] }: Row) => [kebab(name), ...kohya]
/** `--flip`; not `--resume`, which may have a value. */
const isSwitch = ({ kind }: Row) => Boolean(kind.flag && !kind.placeholder)
const isCommand = (word: string | undefined): word is Command => word !== undefined && Object.hasOwn(commands, word)

/** An option as it was typed: `--spelling`, `--spelling=inline`. A word that begins with `--` is never a value. */
function typed(word: string): { spelling?: string; inline?: string } {
  const [, spelling, inline] = /^--([^=]+)(?:=(.*))?$/s.exec(word) ?? []
  return { spelling, inline }
}

/** Every spelling of every option: `rank` and `network_dim`, `flip` and `no-flip`. */
function spellings(table: Table): Map<string, { row: Row; negated: boolean }> {
  const found = new Map<string, { row: Row; negated: boolean }>()
  for (const [name, row] of Object.entries(table)) {
    for (const spelling of names(name, row)) found.set(spelling, { row, negated: false })
    if (isSwitch(row)) found.set(`no-${kebab(name)}`, { row, negated: true })
  }
  return found
}

function strayWord(command: Command, word: string): LorafuseError {
  return new LorafuseError('OPTION_INVALID', `Expected options of ${command} but received the word ${JSON.stringify(word)}`)
}

/** What is wrong with the options' names, and with values of switches, which yargs would read as false. */
function misspelt(command: Command, words: string[]): LorafuseError | undefined {
  const known = spellings(commands[command].table)
  // yargs would pass over what follows `--`.
  if (words.includes('--')) return strayWord(command, '--')
  for (const { spelling, inline } of words.map(typed)) {
    if (spelling === undefined) continue
    const option = known.get(spelling)
    if (!option) return unknownOption(command, spelling, [...known.keys()], flagOf)
    if (inline === undefined || !isSwitch(option.row)) continue
    if (option.negated) return invalidOption('no value', flagOf(spelling), inline)
    if (inline !== 'true' && inline !== 'false') return invalidOption(option.row.kind.expected, flagOf(spelling), inline)
  }
  return undefined
}

function unknownCommand(word: string): LorafuseError {
  const meant = nearest(word, Object.keys(commands))
  const hint = meant ? `; did you mean ${meant}?` : ''
  return new LorafuseError('COMMAND_UNKNOWN', `Expected ${Object.keys(commands).join(', ')} for the command but received ${word}${hint}`)
}

/** Why yargs refuses a command line, in our words; `message` is yargs's. */
function refusal(message: string, parser: Argv, command: string | undefined, words: string[]): LorafuseError {
  if (!isCommand(command)) return unknownCommand(command ?? '')
  const wrong = misspelt(command, words)
  if (wrong) return wrong
  const { table } = commands[command]
  const valueless = /^Not enough arguments following: (.+)$/s.exec(message)?.[1]
  const row = valueless === undefined ? undefined : spellings(table).get(valueless)?.row
  if (row) return invalidOption(row.kind.expected, flagOf(valueless as string))
  const argv = parser.parsed ? parser.parsed.argv : { _: [] }
  const stray = argv._[1] ?? words.find((word) => /^-[^-\d]/.test(word))
  if (stray !== undefined) return strayWord(command, String(stray))
  for (const [name, { kind }] of Object.entries(table)) {
    const value = [argv[kebab(name)]].flat().find((word) => word !== undefined && kind.words?.includes(word) === false)
    if (value !== undefined) return invalidOption(kind.expected, labelled(table, words)(name), value)
  }
  return new LorafuseError('OPTION_INVALID', `Expected options of ${command} but received what yargs refuses: ${message}`)
}

/** The last spelling of an option among the words. */
function spelt(name: string, row: Row, words: string[]): string | undefined {
  const own = [...names(name, row), ...(isSwitch(row) ? [`no-${kebab(name)}`] : [])]
  return words.map((word) => typed(word).spelling).findLast((spelling) => spelling !== undefined && own.includes(spelling))
}

function labelled(table: Table, words: string[]): Label {
  return (name) => flagOf((table[name] && spelt(name, table[name], words)) ?? kebab(name))
}

/** The values that were given; yargs has made a list of what was repeated. */
function valuesOf(table: Table, argv: Record<string, unknown>, words: string[]): Record<string, unknown> {
  const values: Record<string, unknown> = {}
  for (const [name, row] of Object.entries(table)) {
    if (spelt(name, row, words) === undefined) continue
    const read = [argv[kebab(name)]].flat().map((value) => (typeof value === 'string' ? row.kind.fromText(value) : value))
    values[name] = row.kind.repeatable ? read : read.at(-1)
  }
  return values
}

/** A row for yargs: values stay texts. `--resume`, of no type, is true without a value. */
function optionOf(name: string, row: Row, group: string): Options {
  const { kind, default: value } = row
  const shared: Options = { alias: (row.kohya ?? []).filter((alias) => alias !== kebab(name)), describe: describeOption(row), group }
  // The default only makes completion offer --no-buckets: what was not typed is no value.
  if (isSwitch(row)) return { ...shared, boolean: true, ...(value?.() === true ? { default: true } : {}) }
  if (kind.flag) return shared
  return { ...shared, string: true, requiresArg: true, ...(kind.words ? { choices: kind.words } : {}) }
}

type Purpose = 'run' | 'help' | 'complete'

function build(parser: Argv, command: Command, purpose: Purpose): Argv {
  parser.usage(describeCommand(command)).version(false)
  // A value may begin with a dash, `--negative-prompt '-x'`; an unknown option is found by misspelt.
  if (purpose === 'run') parser.parserConfiguration({ ...PARSER, 'unknown-options-as-args': true })
  for (const [title, table] of Object.entries(commands[command].groups)) {
    for (const [name, row] of Object.entries(table)) {
      // In help, yargs shows an option's key as it is: there it carries the placeholder.
      if (purpose === 'help' && name !== 'help') parser.option(usage(name, row).slice(2), { describe: describeOption(row), group: title })
      else parser.option(kebab(name), optionOf(name, row, title))
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

/** Shells complete file names where nothing else is offered: after an option that takes a free value. */
function takesFreeValue(words: string[]): boolean {
  const command = words.find(isCommand)
  const { spelling } = typed(words.at(-2) ?? '')
  const kind = command && spelling !== undefined ? spellings(commands[command].table).get(spelling)?.row.kind : undefined
  return Boolean(kind?.placeholder && !kind.words && !words.at(-1)?.startsWith('-'))
}

const fallBackToFiles =
  (words: string[]): FallbackCompletionFunction =>
  (_current, _argv, defaults, done) => {
    if (takesFreeValue(words)) done([])
    else defaults()
  }

/** `help train` → `train --help`, `-h` → `--help`, `-V` and `version` → `--version`. */
function plain(words: string[]): string[] {
  const [first, ...rest] = words
  if (first === undefined) return ['--help']
  if (first === 'help') return [...rest.slice(0, 1), '--help']
  if (first === 'version' || first === '-V') return ['--version']
  return first === COMPLETE ? words : words.map((word) => (word === '-h' ? '--help' : word))
}

/**
 * Reads `COMMAND --name value --name=value --flag --no-flag`; a repeated option counts as last given, or adds to its list. A word that
 * begins with `--` is no value; write `--name=--value` for one. Undefined: help, the version or completions were asked for and are on
 * stdout. Throws `COMMAND_UNKNOWN`, `OPTION_UNKNOWN`, `OPTION_INVALID`; values are left for `resolve` to check.
 */
export function parseArguments(line: string[], columns?: number): Arguments | undefined {
  const words = plain(line)
  const rest = words.slice(1)
  const purpose: Purpose = words[0] === COMPLETE ? 'complete' : words.includes('--help') ? 'help' : 'run'
  if (purpose === 'help' && words[0] !== '--help' && !isCommand(words[0]) && words[0] !== 'completion') {
    throw unknownCommand(words[0] as string)
  }
  let found: Arguments | undefined
  const parser = yargs()
  for (const [command, { summary, table }] of Object.entries(commands) as [Command, (typeof commands)[Command]][]) {
    parser.command(
      command,
      summary,
      (own) => build(own, command, purpose),
      (argv) => {
        if (words[0] !== command) throw unknownCommand(words[0] as string)
        const wrong = misspelt(command, rest)
        if (wrong) throw wrong
        found = { command, values: valuesOf(table, argv, rest), label: labelled(table, rest), words: rest }
      },
    )
  }
  parser
    .scriptName('lorafuse')
    .usage('lorafuse COMMAND [options]\n\nlorafuse COMMAND --help tells the options.')
    .completion('completion', 'Print a script that completes command lines: lorafuse completion >> ~/.bashrc', fallBackToFiles(words))
    .help('help', 'Show this')
    .version(version())
    .locale('en')
    .wrap(Math.min(columns || 100, 120))
    .parserConfiguration(PARSER)
    .strict()
    .exitProcess(false)
    .fail((message, error) => {
      throw error instanceof LorafuseError ? error : refusal(message ?? error?.message ?? '', parser, words[0], rest)
    })
  // Of yargs 18, not yet among its types.
  ;(parser as Argv & { usageConfiguration(configuration: { 'hide-types': boolean }): Argv }).usageConfiguration({ 'hide-types': true })
  // Strict as it is, yargs would refuse the command after having answered it.
  if (words[0] === 'completion') parser.showCompletionScript()
  else parser.parse(words)
  return found
}
