// Runs the compiled tests, as many files at once as there are cores.
//   npm run test:run                  all but those of test/gpu
//   npm run test:run -- --long        those files that have more to do in npm run test:long (test/long.ts)
//   npm run test:run -- --gpu         those of test/gpu
//   npm run test:run -- data cli/us   those whose path contains one of the words
import { readdirSync, readFileSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { join } from 'node:path'
import { run } from 'node:test'
import { spec } from 'node:test/reporters'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'

const { values, positionals } = parseArgs({
  options: { gpu: { type: 'boolean', default: false }, long: { type: 'boolean', default: false } },
  allowPositionals: true,
})
if (values.long) process.env.LORAFUSE_TEST_LONG = '1'

// The longest come first, so that the cores end together.
const LONGEST = [
  'native/native',
  'train/torture',
  'package/pack',
  'train/text-sdxl',
  'models/single-file',
  'train/resume',
  'train/families',
  'cli/train',
]
const order = (file) => [...LONGEST, file].findIndex((name) => file.includes(name))

const folder = fileURLToPath(new URL('../dist/test', import.meta.url))
const hasLong = (file) => /from '[./]+\/long\.js'/.test(readFileSync(join(folder, file), 'utf8'))
const files = readdirSync(folder, { recursive: true })
  .filter((file) => file.endsWith('.test.js'))
  .filter((file) => (positionals.length > 0 ? positionals.some((word) => file.includes(word)) : file.startsWith('gpu/') === values.gpu))
  .filter((file) => !values.long || hasLong(file))
  .sort((a, b) => order(a) - order(b) || Number(a.startsWith('lib/')) - Number(b.startsWith('lib/')) || (a < b ? -1 : 1))
if (files.length === 0) {
  console.error(`Expected tests${positionals.map((word) => ` ${word}`).join(',')} in ${folder} but found none`)
  process.exit(1)
}
const events = run({ files: files.map((file) => join(folder, file)), concurrency: availableParallelism() })
events.on('test:fail', () => {
  process.exitCode = 1
})
events.compose(spec).pipe(process.stdout)
process.on('exit', () => {
  const more = values.long ? [] : files.filter(hasLong).map((file) => file.replace('.test.js', ''))
  if (more.length > 0) console.log(`\nnpm run test:long repeats more of ${more.length} files: ${more.join(', ')}`)
})
