// On a machine with an NVIDIA GPU: builds for it, runs every check there is for GPUs and the timings, and writes one report, gpu-report.md.
//   npm ci --ignore-scripts && npm run gpu-check [-- --quick]
// It needs nvcc, and for the comparison PyTorch with CUDA, diffusers and peft in LORAFUSE_PYTHON or python3.
// --quick: fewer ops and steps, and no timings; to try this script, also without a GPU: LORAFUSE_CUDA_LIBRARY=build/Release/emulated/liblorafuse_cuda.so
import { spawnSync } from 'node:child_process'
import { rmSync, writeFileSync } from 'node:fs'
import { cpus } from 'node:os'
import { join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'

const { quick } = parseArgs({ options: { quick: { type: 'boolean', default: false } } }).values
const root = fileURLToPath(new URL('..', import.meta.url))
const given = process.env.LORAFUSE_CUDA_LIBRARY
const library = given ? resolve(given) : join(root, 'build/Release/liblorafuse_cuda.so')
const python = process.env.LORAFUSE_PYTHON || 'python3'
const environment = { ...process.env, LORAFUSE_CUDA_LIBRARY: library, LORAFUSE_PYTHON: python }
const gpuCheck = join(root, 'build/Release/gpu_check')
const report = [
  `# lorafuse on a GPU, ${new Date().toISOString()}`,
  '',
  `Processor: ${cpus()[0]?.model.trim()}; Node ${process.versions.node}`,
  ...(given ? ['', `The CUDA backend was ${library}, as LORAFUSE_CUDA_LIBRARY says.`] : []),
  ...(quick ? ['', '--quick: fewer ops and steps than there are, and no timings.'] : []),
  '',
]
let failed = 0

function write(title, lines) {
  report.push(`## ${title}`, '', ...lines, '')
  writeFileSync(join(root, 'gpu-report.md'), report.join('\n'))
}

function run(command, words, options = {}) {
  return spawnSync(command, words, { cwd: root, encoding: 'utf8', maxBuffer: 2 ** 28, env: environment, ...options })
}

/** Runs a command and puts what it prints into the report; `keep` picks the lines that stay. */
function section(title, command, words, keep = () => true) {
  console.log(`${title} …`)
  const begin = performance.now()
  const { status, stdout, stderr, error } = run(command, words)
  // A pattern that no test's name matches is no success.
  const done = status === 0 && !/^ℹ pass 0$/m.test(stdout)
  const printed = error ? String(error) : done ? stdout : stdout + stderr
  const lines = printed
    .trim()
    .split('\n')
    .filter((line) => !done || keep(line))
  const took = `${((performance.now() - begin) / 1000).toFixed(0)} s`
  if (!done) failed++
  write(`${title}${done ? '' : ': FAILED'}`, ['```', ...lines.slice(-2000), '```'])
  console.log(`${title}: ${done ? 'done' : 'FAILED'}, ${took}`)
  return done
}

function leftOut(title, why) {
  console.log(`${title}: left out, ${why}`)
  write(title, [`Left out: ${why}.`])
}

/** Whether there is a GPU. The build is for it. */
function describeGpu() {
  const title = 'The GPU'
  const query = '--query-gpu=name,driver_version,compute_cap,memory.total,clocks.max.sm,power.limit'
  const { status, stdout, stderr, error } = run('nvidia-smi', [query, '--format=csv'])
  if (status === 0) write(title, ['```', stdout.trim(), '```'])
  else leftOut(title, error ? 'nvidia-smi was not found' : `nvidia-smi says: ${(stdout + stderr).trim().split('\n')[0]}`)
  return status === 0
}

/** Why there is nothing to compare with, or nothing. */
function withoutPyTorch() {
  const probe = 'import torch, diffusers, peft; assert torch.cuda.is_available(), "PyTorch finds no GPU"'
  const { status, stderr, error } = run(python, ['-c', probe])
  return error ? `${python} was not found` : status === 0 ? '' : `${python}: ${stderr.trim().split('\n').at(-1)}`
}

const gpu = describeGpu()
if (!gpu && !given) {
  console.error(
    'Expected an NVIDIA GPU, or LORAFUSE_CUDA_LIBRARY that names a backend on something else; gpu-report.md says what was found',
  )
  process.exit(1)
}
const built =
  section('Build', process.execPath, ['scripts/build-native.js', '--tests', '--target', 'gpu_check'], (line) => /CUDA|error/i.test(line)) &&
  section('TypeScript', 'npx', ['tsc'])
if (built) {
  const summary = (line) => !line.startsWith('ok ')
  if (quick) section('Whole networks against f64, steps against diffusers and peft', gpuCheck, ['tests', ' the GPU in '], summary)
  else section('Every op and whole networks against f64, steps against diffusers and peft', gpuCheck, ['tests'], summary)
  const chosen = (line) => !line.includes('does not match pattern')
  const tests = ['--test', '--test-reporter=spec', '--test-name-pattern']
  const goldens = quick ? 'random SD1.*on a GPU' : 'on a GPU'
  section('Goldens of diffusers and peft', process.execPath, [...tests, goldens, 'dist/test/train/golden.test.js'], chosen)
  const trainings = quick ? 'in fp16 has the losses' : 'has the losses|ends in the bits'
  section('Losses, adapters, resuming and killing', process.execPath, [...tests, trainings, 'dist/test/gpu/train.test.js'], chosen)
  const output = join(root, 'build/gpu-check')
  rmSync(output, { recursive: true, force: true })
  const train = ['dist/lib/cli/cli.js', 'train', '--model', 'examples/tiny-sd', '--images', 'examples/emoji', '--device', 'cuda', '--json']
  const size = quick ? ['--resolution', '64', '--steps', '2'] : ['--resolution', '128', '--steps', '300', '--batch-size', '4']
  section('The bundled training', process.execPath, [...train, ...size, '--output', output, '--name', 'gpu'], (line) =>
    /"type":"(start|checkpoint|done)"|"step":(1|2|100|200|300),/.test(line),
  )
  if (quick) leftOut('Timings', 'as --quick was given')
  else section('Timings', gpuCheck, ['timings'])
  const title = "PyTorch's step beside ours"
  const why = quick ? 'as --quick was given' : withoutPyTorch()
  if (why) leftOut(title, why)
  else section(title, process.execPath, ['scripts/bench/bench.js', '--device', 'cuda', '--steps', '50', '--warmups', '5'])
}
console.log(`gpu-report.md written${failed > 0 ? `; ${failed} of its parts failed` : ''}`)
process.exit(failed > 0 ? 1 : 0)
