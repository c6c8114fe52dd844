/** What a row of a table of options says. */
import type { Kind } from './values.js'

/** An option with `default` always has a value; one that is `optional` may stay undefined. */
export type Presence = 'required' | 'default' | 'optional'

export interface Row<Input = unknown, Value = unknown, P extends Presence = Presence> {
  kind: Kind<Input, Value>
  presence: P
  default?: () => Value
  /** The default in words, for defaults that are not constants. */
  defaultText?: string
  help: string
  /** kohya's names for it (kohya-ss/sd-scripts:train_network.py, library/train_util.py). */
  kohya?: string[]
  /** Its name among those that kohya's `--network_args` sets, as `conv_dim=4` (kohya-ss/sd-scripts:networks/lora.py). */
  networkArg?: string
}

export type Table = Record<string, Row>

/** Tables by their titles, in the order of help and docs. */
export type Groups = Record<string, Table>

type Together<T> = (T extends unknown ? (one: T) => void : never) extends (all: infer All) => void ? All : never

/** Joins the tables of all groups. */
export function rowsOf<G extends Groups>(groups: G): Together<G[keyof G]> {
  return Object.assign({}, ...Object.values(groups)) as Together<G[keyof G]>
}

type Details = Pick<Row, 'kohya' | 'networkArg' | 'defaultText'>

export function required<Input, Value>(kind: Kind<Input, Value>, help: string, details: Details = {}): Row<Input, Value, 'required'> {
  return { kind, presence: 'required', help, ...details }
}

export function optional<Input, Value>(kind: Kind<Input, Value>, help: string, details: Details = {}): Row<Input, Value, 'optional'> {
  return { kind, presence: 'optional', help, ...details }
}

export function defaulted<Input, Value>(
  kind: Kind<Input, Value>,
  value: NoInfer<Value> | (() => Value),
  help: string,
  details: Details = {},
): Row<Input, Value, 'default'> {
  return { kind, presence: 'default', default: value instanceof Function ? value : () => value, help, ...details }
}
