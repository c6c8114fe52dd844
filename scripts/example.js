// The bundled example: teaches the small model a 3d style from 24 emoji, then draws things that were not among them, without
// and with the LoRA.
//   npm run example
import { spawnSync } from 'node:child_process'
import { join, relative } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('..', import.meta.url))
const here = (path) => relative(process.cwd(), join(root, path)) || '.'

/** Shows and runs a command line of lorafuse; ends where it fails. */
function lorafuse(...words) {
  console.log(`\n$ lorafuse ${words.map((word) => (word.includes(' ') ? `'${word}'` : word)).join(' ')}`)
  const { status } = spawnSync(process.execPath, [join(root, 'dist/lib/cli/cli.js'), ...words], { stdio: 'inherit' })
  if (status !== 0) process.exit(status ?? 1)
}

// biome-ignore format: an option a line
lorafuse(
  'train',
  '--model', here('examples/tiny-sd'),
  '--images', here('examples/emoji'),
  '--output', 'output',
  '--name', '3d-style',
  '--loss-curve', 'output/loss.png',
  '--resolution', '128',
  '--bucket-min', '128',
  '--steps', '1000',
  '--batch-size', '4',
  '--rank', '16',
  '--learning-rate', '2e-3',
  '--lr-scheduler', 'cosine',
  '--lr-warmup-steps', '20',
  '--flip',
  '--save-every', '0',
)
const things = [
  'banana on a blue',
  'tomato on a white',
  'house on a sky blue',
  'fox on a white',
  'balloon on a sky blue',
  'robot on a yellow',
]
// biome-ignore format: an option a line
lorafuse(
  'generate',
  '--model', here('examples/tiny-sd'),
  ...things.flatMap((thing) => ['--prompt', `a 3d emoji of a ${thing} background`]),
  '--lora', 'output/3d-style.safetensors',
  '--cfg', '4',
  '--seed', '7',
  '--compare',
  '--output', 'output/compare.png',
)
console.log(`
output/3d-style.safetensors  the LoRA
output/loss.png              its loss, step by step
output/compare.png           things that were not trained, without and with the LoRA`)
