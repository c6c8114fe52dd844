// On a machine with an NVIDIA card: builds for it, runs every check there is for cards and the timings, and writes one report.
//   npm ci --ignore-scripts && npm run gpu-check          needs nvcc, and for the comparison PyTorch + diffusers + peft (LORAFUSE_PYTHON)
import { spawnSync } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { cpus } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('..', import.meta.url))
const library = join(root, 'build/Release/liblorafuse_cuda.so')
const report = [
  `# lorafuse on a card, ${new Date().toISOString()}`,
  '',
  `Processor: ${cpus()[0]?.model}; Node ${process.versions.node}`,
  '',
]
let failed = 0

/** Runs a command and puts what it prints into the report; `keep` picks the lines that stay. */
function section(title, command, words, keep = () => true) {
  console.log(`${title} …`)
  const { status, stdout, stderr, error } = spawnSync(command, words, {
    cwd: root,
    encoding: 'utf8',
    maxBuffer: 2 ** 28,
    env: { ...process.env, LORAFUSE_CUDA_LIBRARY: library },
  })
  const printed = error ? String(error) : status === 0 ? stdout : stdout + stderr
  const lines = printed.trim().split('\n').filter(keep)
  if (status !== 0) failed++
  report.push(`## ${title}${status === 0 ? '' : ': FAILED'}`, '', '```', ...lines.slice(-400), '```', '')
  writeFileSync(join(root, 'gpu-report.md'), `${report.join('\n')}\n`)
  console.log(`${title}: ${status === 0 ? 'done' : 'FAILED'}`)
  return status === 0
}

section('The card', 'nvidia-smi', ['--query-gpu=name,driver_version,compute_cap,memory.total,clocks.max.sm,power.limit', '--format=csv'])
const built =
  section('Build', process.execPath, ['scripts/build-native.js', '--tests', '--cuda-architectures', 'native'], (line) =>
    /CUDA|error/i.test(line),
  ) && section('TypeScript', 'npx', ['tsc'])
if (built) {
  const summary = (line) => !line.startsWith('ok ')
  section('Every op and whole networks against f64', join(root, 'build/Release/gpu_check'), ['tests'], summary)
  section('Goldens of diffusers and peft', process.execPath, ['--test', '--test-reporter=spec', 'dist/test/train/golden.test.js'])
  section('Losses, adapters, resuming and killing', process.execPath, [
    ...['--test', '--test-reporter=spec', '--test-name-pattern=has the losses|ends in the bits', 'dist/test/card/train.test.js'],
  ])
  const training = [
    'dist/lib/cli.js',
    'train',
    '--model',
    'examples/tiny-sd',
    '--images',
    'examples/emoji',
    '--resolution',
    '128',
    '--device',
    'cuda',
  ]
  const bundled = ['--output', 'build/gpu-check', '--name', 'card', '--steps', '300', '--batch-size', '4', '--json']
  section('The bundled training', process.execPath, [...training, ...bundled], (line) =>
    /"(start|checkpoint|done)"|"step":(1|100|200|300),/.test(line),
  )
  section('Timings', join(root, 'build/Release/gpu_check'), ['bench', '--ops'])
  for (const words of [
    ['--targets', 'attention'],
    ['--batch', '4'],
    ['--size', '768'],
  ])
    section(`Timings ${words.join(' ')}`, join(root, 'build/Release/gpu_check'), ['bench', ...words])
}
console.log(`gpu-report.md written${failed > 0 ? `; ${failed} of its parts failed` : ''}`)
process.exit(failed > 0 ? 1 : 0)
