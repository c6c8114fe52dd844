/**
 * Runs a command line for each list of words in turn, all in this process, and prints the results:
 * `node together.js '[["train"],["--help"]]' [module that exports its commands]`.
 */

import type { Commands } from '../../lib/cli/command.js'
import { main } from '../../lib/cli/main.js'
import type { Result } from './run.js'

const [lists = '[]', module = '../../lib/cli/commands.js'] = process.argv.slice(2)
const { commands } = (await import(module)) as { commands: Commands }
const print = process.stdout.write.bind(process.stdout)
const results: Result[] = []
for (const words of JSON.parse(lists) as string[][]) {
  const result: Result = { code: 0, signal: null, stdout: '', stderr: '' }
  for (const name of ['stdout', 'stderr'] as const) {
    process[name].setMaxListeners(0)
    process[name].write = (piece: string | Uint8Array) => {
      result[name] += piece.toString()
      return true
    }
  }
  process.exitCode = 0
  await main(commands, words)
  results.push({ ...result, code: Number(process.exitCode) })
}
process.exitCode = 0
print(JSON.stringify(results))
