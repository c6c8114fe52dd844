// Measures what each CUDA kernel takes and writes test/card/budgets.json, which the tests compare with. Look at what changed.
//   npm run budgets
import { writeFile } from 'node:fs/promises'
import { budgetsFile, measure } from '../dist/test/card/budgets.js'

const budgets = await measure()
// A kernel a line.
const lines = (kernels) => Object.entries(kernels).map(([name, values]) => `      ${JSON.stringify(name)}: ${JSON.stringify(values)}`)
const block = (name, kernels, indent) => `${indent}${JSON.stringify(name)}: {\n${lines(kernels).join(',\n')}\n${indent}}`
const code = Object.entries(budgets.code).map(([architecture, kernels]) => block(architecture, kernels, '    '))
const text = `{\n  "nvcc": ${JSON.stringify(budgets.nvcc)},\n  "code": {\n${code.join(',\n')}\n  },\n${block('counted', budgets.counted, '  ')}\n}\n`
await writeFile(budgetsFile, text)
