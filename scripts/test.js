// Runs the compiled tests, as many files at once as there are cores.
//   npm run test:run                  all but those of test/gpu
//   npm run test:run -- --gpu         those of test/gpu
//   npm run test:run -- data cli/us   those whose path contains one of the words
import { spawnSync } from 'node:child_process'
import { readdirSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'

const { values, positionals } = parseArgs({ options: { gpu: { type: 'boolean', default: false } }, allowPositionals: true })
const folder = fileURLToPath(new URL('../dist/test', import.meta.url))
const files = readdirSync(folder, { recursive: true })
  .filter((file) => file.endsWith('.test.js'))
  .filter((file) => (positionals.length > 0 ? positionals.some((word) => file.includes(word)) : file.startsWith('gpu/') === values.gpu))
  // The many short ones of lib come last, so that the cores end together.
  .sort((a, b) => Number(a.startsWith('lib/')) - Number(b.startsWith('lib/')) || (a < b ? -1 : 1))
if (files.length === 0) {
  console.error(`Expected tests whose path contains ${positionals.join(' or ')} in ${folder} but found none`)
  process.exit(1)
}
const words = ['--test', '--test-reporter=spec', `--test-concurrency=${availableParallelism()}`]
const { status } = spawnSync(process.execPath, [...words, ...files.map((file) => join(folder, file))], { stdio: 'inherit' })
process.exit(status ?? 1)
