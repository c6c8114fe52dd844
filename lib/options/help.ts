/** What help and docs/options.md say about commands and options, from the tables of options. */
import { kebab } from './resolve.js'
import { commandLine, generateGroups, generateTable, type Row, type Table, trainGroups, trainTable } from './table.js'

export type Command = 'train' | 'generate' | 'doctor'

interface CommandHelp {
  summary: string
  /** Titles and rows, in order. */
  groups: Record<string, Table>
  /** All rows. */
  table: Table
}

export const commands: Record<Command, CommandHelp> = {
  train: {
    summary: 'Train a LoRA on a folder of images',
    groups: { ...trainGroups, 'Command line': commandLine.train },
    table: { ...trainTable, ...commandLine.train },
  },
  generate: {
    summary: 'Draw a picture, with or without LoRAs',
    groups: { ...generateGroups, 'Command line': commandLine.generate },
    table: { ...generateTable, ...commandLine.generate },
  },
  doctor: { summary: 'Say what this machine can do', groups: { 'Command line': commandLine.doctor }, table: commandLine.doctor },
}

/** The default as it is written on a command line; empty where there is none to tell. */
export function defaultText({ default: value, defaultText: words }: Row): string {
  if (words !== undefined) return words
  const constant = value?.()
  if (constant === undefined || constant === '') return ''
  return typeof constant === 'boolean' ? (constant ? 'on' : 'off') : String(constant)
}

/** `--rank N`, `--flip`, `--[no-]buckets`, `--resume [PATH]`. */
export function usage(name: string, { kind, default: value }: Row): string {
  if (kind.flag && value?.() === true) return `--[no-]${kebab(name)}`
  const placeholder = kind.placeholder && kind.flag ? ` [${kind.placeholder}]` : kind.placeholder ? ` ${kind.placeholder}` : ''
  return `--${kebab(name)}${placeholder}`
}

/** An option's help with its default and kohya's names. */
export function describeOption(row: Row): string {
  const notes = [
    row.presence === 'required' ? 'required' : '',
    defaultText(row) && !row.kind.flag && `default ${defaultText(row)}`,
    row.kohya && `kohya --${row.kohya.join(', --')}`,
  ].filter(Boolean)
  return `${row.help}${notes.length > 0 ? ` (${notes.join('; ')})` : ''}`
}

/** What a command is for and how it is called, above its options. */
export function describeCommand(command: Command): string {
  const { summary, table } = commands[command]
  const required = Object.entries(table).filter(([, { presence }]) => presence === 'required')
  return `${summary}\n\n  lorafuse ${[command, ...required.map(([name, row]) => usage(name, row)), '[options]'].join(' ')}`
}
