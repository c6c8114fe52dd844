/** Help of the commands, from the tables of options. */
import { kebab } from './config.js'
import { commandLine, generateGroups, type Row, type Table, trainGroups } from './options.js'

export type Command = 'train' | 'generate' | 'doctor'

interface CommandHelp {
  summary: string
  /** Titles and rows, in order. */
  groups: Record<string, Table>
}

export const commands: Record<Command, CommandHelp> = {
  train: { summary: 'Train a LoRA on a folder of images', groups: { ...trainGroups, 'Command line': commandLine.train } },
  generate: { summary: 'Draw a picture, with or without LoRAs', groups: { ...generateGroups, 'Command line': commandLine.generate } },
  doctor: { summary: 'Say what this machine can do', groups: { 'Command line': commandLine.doctor } },
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

function wrap(text: string, width: number): string[] {
  const lines = ['']
  for (const word of text.split(' ')) {
    const line = lines.at(-1) as string
    if (line !== '' && line.length + 1 + word.length > width) lines.push(word)
    else lines[lines.length - 1] = line === '' ? word : `${line} ${word}`
  }
  return lines
}

const COLUMN = 30

function option(name: string, row: Row, width: number): string {
  const notes = [
    row.presence === 'required' ? 'required' : '',
    defaultText(row) && !row.kind.flag && `default ${defaultText(row)}`,
    row.kohya && `kohya --${row.kohya.join(', --')}`,
  ].filter(Boolean)
  const lines = wrap(`${row.help}${notes.length > 0 ? ` (${notes.join('; ')})` : ''}`, Math.max(30, width - COLUMN))
  const left = `  ${usage(name, row)}`
  const first = left.length < COLUMN ? [left.padEnd(COLUMN) + lines.shift()] : [left]
  return [...first, ...lines.map((line) => ' '.repeat(COLUMN) + line)].join('\n')
}

export function commandHelp(command: Command, width: number): string {
  const { summary, groups } = commands[command]
  const needed = Object.values(groups).flatMap((table) => Object.entries(table).filter(([, { presence }]) => presence === 'required'))
  const sections = Object.entries(groups).map(([title, table]) =>
    [title, ...Object.entries(table).map(([name, row]) => option(name, row, width))].join('\n'),
  )
  return [
    `${summary}\n\n  lorafuse ${[command, ...needed.map(([name, row]) => usage(name, row)), '[options]'].join(' ')}`,
    ...sections,
  ].join('\n\n')
}

export function overview(): string {
  const lines = Object.entries(commands).map(([command, { summary }]) => `  ${command.padEnd(10)}${summary}`)
  return [
    'lorafuse COMMAND [options]',
    '',
    ...lines,
    '',
    'lorafuse COMMAND --help tells the options, lorafuse --version the version.',
  ].join('\n')
}
