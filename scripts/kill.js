// Kills a training with SIGKILL at random moments and resumes it: after each kill every file there is must be whole, and at the
// end the adapters must have the bits of a run that was left alone.
//   npm run build && node scripts/kill.js --kills 20 [--steps 60] [--device cuda]
import { spawn } from 'node:child_process'
import { cp, mkdtemp, readdir, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { readTensors } from '../dist/lib/files/safetensors.js'
import { newestState } from '../dist/lib/train/state.js'

const root = fileURLToPath(new URL('..', import.meta.url))
const { values: options } = parseArgs({
  options: {
    kills: { type: 'string', default: '20' },
    steps: { type: 'string', default: '60' },
    images: { type: 'string', default: '24' },
    device: { type: 'string', default: 'cpu' },
  },
})
const kills = Number(options.kills)
const folder = await mkdtemp(join(tmpdir(), 'lorafuse-kill-'))

// biome-ignore format: an option a line
const words = [
  join(root, 'dist/lib/cli/cli.js'), 'train',
  '--model', join(root, 'examples/tiny-sd'),
  '--images', join(folder, 'images'),
  '--name', 'killed',
  '--resolution', '64',
  '--rank', '4',
  '--batch-size', '2',
  '--steps', options.steps,
  '--lr-scheduler', 'cosine',
  '--flip',
  '--save-every', '1',
  '--threads', '1',
  '--device', options.device,
  '--resume',
]

/** Runs the training; kills it `delay` milliseconds after it began, if it is given. Resolves to whether it finished. */
function train(output, delay) {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [...words, '--output', output, '--json'], { stdio: ['ignore', 'pipe', 'pipe'] })
    const timer = delay === undefined ? undefined : setTimeout(() => child.kill('SIGKILL'), delay)
    let printed = ''
    for (const stream of [child.stdout, child.stderr]) stream.on('data', (piece) => (printed += piece))
    child.on('close', (code, signal) => {
      clearTimeout(timer)
      if (code === 0 || signal === 'SIGKILL') resolve(code === 0)
      else reject(new Error(`exit code ${code}: ${printed.split('\n').slice(-3).join('\n')}`))
    })
  })
}

/** Reads every file that is no temporary. */
async function readAll(output) {
  const names = (await readdir(output).catch(() => [])).filter((name) => name.endsWith('.safetensors'))
  for (const name of names) await readTensors(join(output, name))
  if (names.length > 0) await newestState(output, 'killed')
  return names.length
}

async function bits(output) {
  const tensors = [
    ...(await readTensors(join(output, 'killed-state.safetensors'))),
    ...(await readTensors(join(output, 'killed.safetensors'))),
  ]
  return Buffer.concat(tensors.map(([, { data }]) => Buffer.from(data.buffer, data.byteOffset, data.byteLength)))
}

try {
  const emoji = (await readdir(join(root, 'examples/emoji'))).sort()
  for (const name of emoji.slice(0, 2 * Number(options.images))) await cp(join(root, 'examples/emoji', name), join(folder, 'images', name))
  const whole = join(folder, 'whole')
  const began = performance.now()
  await train(whole)
  const span = performance.now() - began
  const expected = await bits(whole)
  let killed = 0
  for (let run = 0; killed < kills; run++) {
    const output = join(folder, String(run))
    while (!(await train(output, killed < kills ? Math.random() * span : undefined))) {
      killed += 1
      const files = await readAll(output)
      console.log(`kill ${killed}: ${files} whole files`)
    }
    const left = (await readdir(output)).filter((name) => name.includes('.tmp-'))
    if (left.length > 0) throw new Error(`temporaries are left: ${left}`)
    if (!(await bits(output)).equals(expected)) throw new Error(`run ${run} ended in other bits`)
    console.log(`run ${run}: the same ${expected.length} bytes`)
    await rm(output, { recursive: true })
  }
} finally {
  await rm(folder, { recursive: true })
}
