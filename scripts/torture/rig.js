// What all parts share: random numbers of a case, the documented codes, verdicts on errors, and the report.
import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

export const root = fileURLToPath(new URL('../..', import.meta.url))
const LONGEST_MESSAGE = 500

/** Random numbers that follow from a key alone. */
export class Random {
  constructor(...key) {
    this.key = key.join(' ')
    this.drawn = 0
  }

  /** In [0, 1). */
  next() {
    this.drawn += 1
    return createHash('sha256').update(`${this.key} ${this.drawn}`).digest().readUIntBE(0, 6) / 2 ** 48
  }

  below(count) {
    return Math.floor(this.next() * count)
  }

  pick(list) {
    return list[this.below(list.length)]
  }

  chance(probability) {
    return this.next() < probability
  }
}

/** The codes in docs/errors.md, but for those that only a bug of the package gives. */
function documented() {
  const [given] = readFileSync(`${root}docs/errors.md`, 'utf8').split('## Bugs')
  return new Set(Array.from(given.matchAll(/^\| `(\w+)` \|/gm), ([, code]) => code))
}

const codes = documented()

/** What is wrong with a code and its sentence, as a user sees them; undefined if nothing is. */
export function judge(code, message) {
  const start = String(message).slice(0, 300)
  if (!codes.has(code)) return `the code ${code}, which no input should give: ${start}`
  if (message.length > LONGEST_MESSAGE) return `a message of ${message.length} characters: ${code}: ${start}`
  // A list has its items on indented lines.
  if (/\n(?! )/.test(message)) return `a line break in a message: ${code}: ${start}`
  return undefined
}

/** What is wrong with something thrown; undefined if it is one of the package's errors, documented and short. */
export function judgeError(error) {
  if (!(error instanceof Error)) return `${String(error)} was thrown`
  const problem = judge(error.code, error.message)
  if (problem) return `${problem} (${error.stack?.split('\n')[1]?.trim()})`
  return undefined
}

/** Counts what was tried, and prints each failure with the line that repeats it. */
export class Report {
  constructor(seed) {
    this.seed = seed
    this.counts = new Map()
    this.failures = 0
  }

  count(what, more = 1) {
    this.counts.set(what, (this.counts.get(what) ?? 0) + more)
  }

  fail(part, index, problem) {
    this.failures += 1
    this.count('FAILED')
    console.log(`FAILED ${part} ${index}: ${problem}\n  again: npm run torture -- --only ${part} --seed ${this.seed} --case ${index}`)
  }

  /** Prints the counts since the last call. */
  close(part, seconds) {
    const listed = [...this.counts].sort(([a], [b]) => (a < b ? -1 : 1)).map(([what, count]) => `${count} ${what}`)
    console.log(`${part}: ${listed.join(', ') || 'nothing'} (${Math.round(seconds)} s)`)
    this.counts.clear()
  }
}
