/** A command as data: help, parsing, completion and docs/options.md are made from its row in a table of commands. */
import type { Label } from '../options/resolve.js'
import type { Groups } from '../options/rows.js'
import type { Progress } from './progress.js'

/** A command line that has been read, its values not checked yet. */
export interface Arguments {
  command: string
  /** The options that were given, by their names in the rows. */
  values: Record<string, unknown>
  /** Names an option as the command line did. */
  label: Label
  /** The words after the command. */
  words: string[]
}

export interface Context extends Arguments {
  signal: AbortSignal
  /** Writes a line of the result to stdout. */
  print(text: string): void
  progress: Progress
  warn(code: string, message: string): void
}

export interface Command {
  /** One line of help. */
  summary: string
  options: Groups
  /** Returns whether all is well: false makes the exit code 1. Throws what the library throws. */
  run(context: Context): boolean | Promise<boolean>
}

/** By name, in the order of help. */
export type Commands = Record<string, Command>
