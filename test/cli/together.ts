/** Runs the command line for each list of words in turn, all in this process: `node together.js '[["train"],["--help"]]'`; prints the results. */
import { commands } from '../../lib/cli/commands.js'
import { main } from '../../lib/cli/main.js'
import type { Result } from './run.js'

const print = process.stdout.write.bind(process.stdout)
const results: Result[] = []
for (const words of JSON.parse(process.argv[2]!) as string[][]) {
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
