// Estimates a step of SD1.5 at 512 px and of SDXL at 1024 px (batch 1, rank 16 on attention and on all layers) on an RTX 2080 Ti from what the emulator
// counts, and writes the tables into docs/gpu.md. Needs nvcc and 16 GB of memory.
//   npm run roofline
import { readFile, writeFile } from 'node:fs/promises'
import { count } from '../dist/test/gpu/roofline.js'
import { kernelTable, opTable, stepTable } from '../dist/test/gpu/roofline-tables.js'

const file = new URL('../docs/gpu.md', import.meta.url)
const counted = { 'attention, 128 layers': await count({ targets: 'attention' }), 'all 192 layers': await count({ targets: 'all' }) }
const xl = { model: 'sdxl', size: 1024, sample: 64 }
const countedXl = {
  'attention, 560 layers': await count({ ...xl, targets: 'attention' }),
  'all 722 layers, within 10 GiB': await count({ ...xl, fit: 10240 }),
}
const all = counted['all 192 layers']
let text = await readFile(file, 'utf8')
for (const [name, table] of Object.entries({
  steps: stepTable('sd15', counted),
  xl: stepTable('sdxl', countedXl),
  ops: opTable(all.ops),
  roofline: kernelTable(all),
})) {
  const [begin, end] = [`<!-- ${name} -->`, `<!-- /${name} -->`]
  const [from, to] = [text.indexOf(begin), text.indexOf(end)]
  if (from < 0 || to < from) throw new Error(`Expected ${begin} … ${end} in docs/gpu.md`)
  text = `${text.slice(0, from + begin.length)}\n${table}${text.slice(to)}`
  console.log(table)
}
await writeFile(file, text)
