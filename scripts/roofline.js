// Estimates a step of SD1.5 (512 px, batch 1, rank 16 on attention and on all layers) on an RTX 2080 Ti from what the emulator counts, and writes the tables
// into docs/gpu.md. Needs nvcc and 8 GB of memory.
//   npm run roofline
import { readFile, writeFile } from 'node:fs/promises'
import { count } from '../dist/test/gpu/roofline.js'
import { kernelTable, opTable, stepTable } from '../dist/test/gpu/roofline-tables.js'

const file = new URL('../docs/gpu.md', import.meta.url)
const counted = { 'attention, 128 layers': await count({ targets: 'attention' }), 'all 192 layers': await count({ targets: 'all' }) }
const all = counted['all 192 layers']
let text = await readFile(file, 'utf8')
for (const [name, table] of Object.entries({ steps: stepTable(counted), ops: opTable(all.ops), roofline: kernelTable(all) })) {
  const [begin, end] = [`<!-- ${name} -->`, `<!-- /${name} -->`]
  const [from, to] = [text.indexOf(begin), text.indexOf(end)]
  if (from < 0 || to < from) throw new Error(`Expected ${begin} … ${end} in docs/gpu.md`)
  text = `${text.slice(0, from + begin.length)}\n${table}${text.slice(to)}`
  console.log(table)
}
await writeFile(file, text)
