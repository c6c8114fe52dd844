#!/usr/bin/env node
// Builds the native addon and its backends into build/Release with cmake-js (headers come from npm, nothing is downloaded).
//   lorafuse-build [--tests] [--target name] [--sanitize] [--release] [--cuda-architectures "75;80"]
// --tests: build/Release/native_tests too, and with --target gpu_tests all that npm run test:gpu needs.
// --sanitize: into build/sanitize, with ASan and UBSan, instead: native_tests, and the addon, which npm run torture -- --asan loads.
// --release: as it is shipped. --cuda-architectures: where nvcc is, all of them or a list; by default that of this machine's GPU.
// LORAFUSE_CUDA=off in the environment: without the CUDA backend, even where nvcc is. ccache is used where it is installed.
import { spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { createRequire } from 'node:module'
import { availableParallelism } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'

const { values } = parseArgs({
  options: {
    tests: { type: 'boolean', default: false },
    target: { type: 'string' },
    sanitize: { type: 'boolean', default: false },
    release: { type: 'boolean', default: false },
    'cuda-architectures': { type: 'string' },
  },
})
const root = fileURLToPath(new URL('..', import.meta.url))
const require = createRequire(import.meta.url)
const manifest = require.resolve('cmake-js/package.json')
const cmakeJs = join(dirname(manifest), require(manifest).bin['cmake-js'])
// Our checkout, and not a project which installs the package.
const ours = existsSync(join(root, 'test/native'))
const onOff = (on) => (on ? 'ON' : 'OFF')
const output = (command, words) => spawnSync(command, words, { encoding: 'utf8' }).stdout ?? ''

/** The GPU in this machine. Without one: PTX for which the tests have every kernel, or machine code for any machine that may have one. */
function architectures() {
  const [, major, minor] = /^(\d+)\.(\d)/.exec(output('nvidia-smi', ['--query-gpu=compute_cap', '--format=csv,noheader'])) ?? []
  return major ? `${major}${minor}` : ours ? '80-virtual' : '75;80'
}

const definitions = {
  LORAFUSE_TESTS: onOff(values.tests || values.sanitize),
  LORAFUSE_SANITIZE: onOff(values.sanitize),
  LORAFUSE_RELEASE: onOff(values.release || !ours),
  LORAFUSE_CUDA: onOff(process.env.LORAFUSE_CUDA !== 'off'),
  LORAFUSE_CUDA_ARCHITECTURES: values['cuda-architectures'] ?? architectures(),
  LORAFUSE_WERROR: onOff(process.env.CI && ours),
  LORAFUSE_OUTPUT: join(root, 'build', values.sanitize ? 'sanitize' : 'Release'),
}
if (output('ccache', ['--version'])) {
  definitions.CMAKE_CXX_COMPILER_LAUNCHER = 'ccache'
  definitions.CMAKE_CUDA_COMPILER_LAUNCHER = 'ccache'
}
const where = ['--directory', root, '--out', join(root, 'build', values.sanitize ? 'cmake-sanitize' : 'cmake'), '--log-level', 'warn']
const configure = ['configure', ...where, '--generator', 'Unix Makefiles', ...Object.entries(definitions).map(([k, v]) => `--CD${k}=${v}`)]
const target = values.target ? ['--target', values.target] : []
for (const command of [configure, ['build', ...where, ...target, '--parallel', String(availableParallelism())]]) {
  const { status } = spawnSync(process.execPath, [cmakeJs, ...command], { stdio: 'inherit', cwd: root })
  if (status !== 0) {
    console.error('lorafuse: the native build failed. It needs cmake 3.22, make and g++ 11 or newer: apt-get install cmake make g++')
    process.exit(status ?? 1)
  }
}
