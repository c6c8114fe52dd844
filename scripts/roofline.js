// Estimates a step of SD1.5 (512 px, batch 1, rank 16 on all layers) on an RTX 2080 Ti from what the emulator counts, and writes the table
// into docs/gpu.md. Needs nvcc and 8 GB of memory.
//   npm run roofline
import { readFile, writeFile } from 'node:fs/promises'
import { count, markdown } from '../dist/test/card/roofline.js'

const file = new URL('../docs/gpu.md', import.meta.url)
const [begin, end] = ['<!-- roofline -->', '<!-- /roofline -->']
const text = await readFile(file, 'utf8')
const [from, to] = [text.indexOf(begin), text.indexOf(end)]
if (from < 0 || to < from) throw new Error(`Expected ${begin} … ${end} in docs/gpu.md`)
const table = markdown(await count())
await writeFile(file, `${text.slice(0, from + begin.length)}\n${table}${text.slice(to)}`)
console.log(table)
