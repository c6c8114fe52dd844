// Measures what each CUDA kernel takes and writes test/gpu/budgets.json, which the tests compare with. Look at what changed.
//   npm run budgets          of the architectures that the tests build
//   npm run budgets:all      of all that are shipped: the one to commit (it compiles for a quarter of an hour)
import { readFile, writeFile } from 'node:fs/promises'
import { budgetsFile, measure } from '../dist/test/gpu/budgets.js'
import { built } from '../dist/test/gpu/emulated.js'

const all = process.argv.includes('--all')
const budgets = await measure(all ? built('liblorafuse_cuda.so') : undefined)
if (!all) {
  const before = JSON.parse(await readFile(budgetsFile, 'utf8'))
  if (before.nvcc === budgets.nvcc) budgets.code = { ...before.code, ...budgets.code }
}
// A kernel a line.
const lines = (kernels) => Object.entries(kernels).map(([name, values]) => `      ${JSON.stringify(name)}: ${JSON.stringify(values)}`)
const block = (name, kernels, indent) => `${indent}${JSON.stringify(name)}: {\n${lines(kernels).join(',\n')}\n${indent}}`
const code = Object.entries(budgets.code).map(([architecture, kernels]) => block(architecture, kernels, '    '))
const text = `{\n  "nvcc": ${JSON.stringify(budgets.nvcc)},\n  "code": {\n${code.join(',\n')}\n  },\n${block('counted', budgets.counted, '  ')}\n}\n`
await writeFile(budgetsFile, text)
