/** Help and docs/options.md, made from the tables of options. */
import { kebab } from './resolve.js'
import { type Groups, type Row, rowsOf } from './rows.js'

/** Writes a default as on a command line; empty if there is none. */
export function defaultText({ default: value, defaultText: words }: Row): string {
  if (words !== undefined) return words
  const constant = value?.()
  if (constant === undefined || constant === '') return ''
  return typeof constant === 'boolean' ? (constant ? 'on' : 'off') : String(constant)
}

/** Writes how an option is given: `--rank N`, `--flip`, `--[no-]buckets`, `--resume [PATH]`. */
export function usage(name: string, { kind, default: value }: Row): string {
  const { type, placeholder, valueOptional } = kind
  if (type === 'boolean') return `--${value?.() === true ? '[no-]' : ''}${kebab(name)}`
  return `--${kebab(name)} ${valueOptional ? `[${placeholder}]` : placeholder}`
}

/** Lists how kohya's command lines give an option: `--network_dim`, `--network_args conv_dim=`. */
export function kohyaSpellings({ kohya = [], networkArg }: Row): string[] {
  return [...kohya.map((name) => `--${name}`), ...(networkArg === undefined ? [] : [`--network_args ${networkArg}=`])]
}

/** Lists other tools' words for the values of a choice: `float and fp32 for f32, f16 for fp16`; empty if there are none. */
export function aliasText({ kind: { aliases = {} } }: Row): string {
  const values = [...new Set(Object.values(aliases).map(String))]
  const others = (value: string) => Object.keys(aliases).filter((alias) => aliases[alias] === value)
  return values.map((value) => `${others(value).join(' and ')} for ${value}`).join(', ')
}

/** Writes an option's help with its default and kohya's names. */
export function describeOption(row: Row): string {
  const notes = [
    row.presence === 'required' ? 'required' : '',
    defaultText(row) && row.kind.type !== 'boolean' && `default ${defaultText(row)}`,
    aliasText(row) && `also ${aliasText(row)}`,
    kohyaSpellings(row).length > 0 && `kohya ${kohyaSpellings(row).join(', ')}`,
  ].filter(Boolean)
  return `${row.help}${notes.length > 0 ? ` (${notes.join('; ')})` : ''}`
}

/** Writes what stands above a command's options: what it does and how to call it. */
export function describeCommand(name: string, { summary, options }: { summary: string; options: Groups }): string {
  const required = Object.entries<Row>(rowsOf(options)).filter(([, { presence }]) => presence === 'required')
  return `${summary}\n\n  lorafuse ${[name, ...required.map(([option, row]) => usage(option, row)), '[options]'].join(' ')}`
}
