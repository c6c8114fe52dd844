import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { cp, mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { availableParallelism } from 'node:os'
import { dirname, join } from 'node:path'
import { describe, test } from 'node:test'
import { promisify } from 'node:util'
import { built, hasGpu, root } from './emulated.js'
import { type Mutation, mutations } from './mutations.js'

const objects = join(root, 'build/cmake/CMakeFiles/cuda_kernels_75_80.dir/native/cuda')
const emulated = built('emulated')
const tests = built('native_tests')
const scratch = join(root, 'build/mutations')
const run = promisify(execFile)

async function nvcc(): Promise<string> {
  const cache = await readFile(join(root, 'build/cmake/CMakeCache.txt'), 'utf8')
  return /^CMAKE_CUDA_COMPILER:\w+=(.+)$/m.exec(cache)?.[1] ?? 'nvcc'
}

/** The file with the fault in it. */
function mutated(text: string, { what, after, from, to }: Mutation): string {
  const start = after === undefined ? 0 : text.indexOf(after)
  assert.ok(start >= 0, `${what}: expected the source to contain ${JSON.stringify(after)}`)
  const place = text.indexOf(from, start)
  assert.ok(place >= 0, `${what}: expected the source to contain ${JSON.stringify(from)}`)
  return text.slice(0, place) + to + text.slice(place + from.length)
}

/** A library whose one unit has the fault; only the PTX of that unit, for sm_75. */
async function build(mutation: Mutation, folder: string): Promise<string> {
  await cp(join(root, 'native'), join(folder, 'native'), { recursive: true })
  const file = join(folder, 'native/cuda', mutation.file)
  await writeFile(file, mutated(await readFile(file, 'utf8'), mutation))
  const object = join(folder, `${mutation.unit}.o`)
  const source = join(folder, 'native/cuda', mutation.unit)
  const flags = ['-std=c++20', '-O3', '-lineinfo', '-gencode', 'arch=compute_75,code=compute_75', '--no-compress', '-Xcompiler', '-fPIC']
  await run(await nvcc(), [...flags, '-c', source, '-o', object])
  const units = (await readdir(join(root, 'native/cuda'))).filter((name) => name.endsWith('.cu') && name !== mutation.unit)
  const library = join(folder, 'liblorafuse_cuda.so')
  const inputs = [object, ...units.map((name) => join(objects, `${name}.o`)), join(emulated, 'libcudart.so')]
  await run('g++', ['-shared', '-o', library, ...inputs, `-Wl,-rpath,${emulated}`, '-lpthread'])
  return library
}

describe('a fault in the CUDA sources is found', { concurrency: availableParallelism() }, () => {
  for (const [i, mutation] of hasGpu() ? mutations.entries() : []) {
    test(mutation.what, async (t) => {
      const folder = join(scratch, String(i))
      await mkdir(dirname(folder), { recursive: true })
      t.after(() => rm(folder, { recursive: true, force: true }))
      const library = await build(mutation, folder)
      // One thread each: as many faults are tried at once as there are cores.
      const env = { ...process.env, LORAFUSE_CUDA_LIBRARY: library, PTXEMU_GPU: '75', PTXEMU_THREADS: '1' }
      const words = [mutation.cases, ' gpu ', '--until-failure']
      const { stdout, code } = await run(tests, words, { env, maxBuffer: 2 ** 28 }).then(
        ({ stdout }) => ({ stdout, code: 0 }),
        (error: { stdout: string; code: number }) => error,
      )
      assert.equal(code, 1, `no case that contains "${mutation.cases}" fails`)
      assert.match(stdout, /^FAILED .* gpu (in )?f(16|32)$/m)
    })
  }
})
