// Plans steps of SD1.5, SD2.1 and SDXL for cards of 6 to 24 GB, and writes the table into docs/plan.md. Needs a build with the CUDA backend, and
// no GPU: models are made up, without weights.
//   npm run cards
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { plan } from '../dist/lib/index.js'
import { fullSizeModel } from '../dist/test/fixtures/full-size.js'

const CARDS = ['RTX 2060', 'RTX 2070', 'RTX 2080 Ti', 'RTX 3060', 'RTX 4060 Ti 16 GB', 'RTX 3090']
const MODELS = { sd1: ['SD1.5', 512], sd2: ['SD2.1', 768], sdxl: ['SDXL', 1024] }
const TARGETS = { attention: 'attention', default: 'all layers' }

const file = new URL('../docs/plan.md', import.meta.url)
const folder = await mkdtemp(join(tmpdir(), 'lorafuse-cards-'))

/** What a card gets of a training; `fit`: as much is kept as there is room for. */
async function cell(options) {
  try {
    const { bytes, recomputed, secondsPerStep, fits } = await plan({ ...options, fit: 'auto' })
    const again = recomputed > 0 ? `, ${recomputed} parts again` : ''
    return fits ? `${Math.round(bytes.total / 2 ** 20)} MiB${again}, ${secondsPerStep.toPrecision(2)} s` : 'too little'
  } catch (error) {
    if (error.code !== 'OUT_OF_MEMORY') throw error
    return `too little: ${/at least (\d+ MiB)/.exec(error.message)[1]}`
  }
}

const row = (cells) => `| ${cells.join(' | ')} |`
const heads = CARDS.map((name) => name.replace(/ \d+ GB$/, ''))
const sizes = []
const rows = []
try {
  for (const [name, [title, resolution]] of Object.entries(MODELS)) {
    const model = await fullSizeModel(folder, name)
    for (const [targets, layers] of Object.entries(TARGETS)) {
      const given = { model, imageCount: 1, steps: 1, resolution, targets }
      const cells = []
      for (const gpu of CARDS) cells.push(await cell({ ...given, gpu }))
      if (sizes.length === 0) for (const gpu of CARDS) sizes.push(Math.round((await plan({ ...given, gpu })).gpu.memory / 2 ** 30))
      rows.push(row([`${title}, ${resolution} px, ${layers}`, ...cells]))
      console.log(rows.at(-1))
    }
  }
} finally {
  await rm(folder, { recursive: true, force: true })
}
const head = row(['rank 16, batch 1', ...heads.map((name, i) => `${sizes[i]} GB (${name})`)])
const table = [head, row(['---', ...heads.map(() => '---')]), ...rows].join('\n')
const [begin, end] = ['<!-- cards -->', '<!-- /cards -->']
const text = await readFile(file, 'utf8')
const [from, to] = [text.indexOf(begin), text.indexOf(end)]
if (from < 0 || to < from) throw new Error(`Expected ${begin} … ${end} in docs/plan.md`)
await writeFile(file, `${text.slice(0, from + begin.length)}\n${table}\n${text.slice(to)}`)
