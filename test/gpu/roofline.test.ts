import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { before, test } from 'node:test'
import { built, emulatedLibrary, hasGpu } from './emulated.js'
import { blocksPerMultiprocessor, count, estimate, GPU, type Launch } from './roofline.js'
import { kernelTable } from './roofline-tables.js'

test('blocks of a multiprocessor are what cudaOccMaxActiveBlocksPerMultiprocessor says of compute capability 7.5', () => {
  // Registers, bytes of shared memory, threads: computed with the header of CUDA 13.0.
  for (const [registers, shared, threads, blocks] of [
    [128, 0, 256, 2],
    [126, 32768, 256, 2],
    [168, 33024, 128, 1],
    [255, 0, 256, 1],
    [230, 43008, 128, 1],
    [64, 0, 256, 4],
    [65, 0, 256, 3],
    [24, 0, 256, 4],
    [32, 0, 64, 16],
    [40, 0, 32, 16],
    [32, 49152, 1024, 1],
    [65, 0, 1024, 0],
    [80, 17000, 256, 3],
    [252, 0, 128, 2],
    [33, 10240, 96, 6],
    [16, 300, 128, 8],
    [255, 0, 288, 0],
    [96, 20000, 256, 2],
  ] as const) {
    assert.equal(blocksPerMultiprocessor(registers, shared, threads), blocks, `${registers} registers, ${shared} bytes, ${threads} threads`)
  }
})

const none = {
  blocks: 136,
  blocks_run: 136,
  warp_instructions: 0,
  special: 0,
  mma_k8: 0,
  shared_passes: 0,
  shared_conflicts: 0,
  global_load_bytes: 0,
  global_store_bytes: 0,
  global_load_sectors: 0,
  global_store_sectors: 0,
}
const launch = (counters: Partial<Launch['counters']>, grid = 136): Launch => ({
  kernel: 'k',
  grid: [grid, 1, 1],
  block: [256, 1, 1],
  dynamic_shared: 0,
  ptx_instructions: 100,
  counters: { ...none, blocks: grid, ...counters },
})
const code = { registers: 128, shared: 0, instructions: 90, padding: 10 }
const near = (a: number, b: number) => assert.ok(Math.abs(a / b - 1) < 1e-12, `expected ${b} but received ${a}`)

test('a launch takes as long as the part of the gpu that needs longest', () => {
  const products = estimate(launch({ mma_k8: 136e6 }), code, 0, 0)
  assert.equal(products.by, 'tensor')
  near(products.seconds, (136e6 * 2048) / (512 * 68 * 1.545e9))
  near(estimate(launch({ warp_instructions: 136e6 }), code, 0, 0).seconds, (0.8 * 136e6) / (4 * 68 * 1.545e9))
  near(estimate(launch({ special: 136e6 }), code, 0, 0).seconds, (2 * 136e6) / (68 * 1.545e9))
  near(estimate(launch({ shared_passes: 68e6, shared_conflicts: 68e6 }), code, 0, 0).seconds, 136e6 / (68 * 1.545e9))
  near(estimate(launch({ global_load_sectors: 136e6 }), code, 0, 0).seconds, (136e6 * 32) / (20 * 68 * 1.545e9))
  const copied = estimate(launch({ global_load_sectors: 1e6, global_store_sectors: 1e6 }), code, 64e6, 64e6)
  assert.equal(copied.by, 'memory')
  near(copied.seconds, 64e6 / 616e9)
})

test('blocks that are left over keep the multiprocessors waiting that have none', () => {
  const full = estimate(launch({ mma_k8: 136e6 }), code, 0, 0)
  const more = estimate(launch({ mma_k8: 137e6 }, 137), code, 0, 0)
  near(more.seconds / full.seconds, 3 / 2)
  near(estimate(launch({ mma_k8: 1e6 }, 1), code, 0, 0).seconds / full.seconds, 1 / 2)
  assert.equal(full.waves, 1)
  assert.equal(full.blocksPerMultiprocessor, 2)
})

test('the cautious figure is never the smaller one, and nearer with more warps', () => {
  const of = (grid: number) =>
    estimate(launch({ mma_k8: 1e6 * grid, warp_instructions: 30e6 * grid, shared_passes: 2e6 * grid }, grid), code, 0, 0)
  const [alone, two] = [of(68), of(136)]
  assert.ok(two.cautious > two.seconds && alone.cautious > alone.seconds)
  assert.ok(alone.cautious / alone.seconds > two.cautious / two.seconds, `${alone.cautious} ${two.cautious}`)
})

if (hasGpu()) {
  const settings = { size: 64, sample: 8 }
  let counted: Awaited<ReturnType<typeof count>>
  before(async () => {
    counted = await count(settings)
  })

  test('a sample of the blocks of a step is counted as all of them', async (t) => {
    const folder = await mkdtemp(join(tmpdir(), 'lorafuse-sample-'))
    try {
      const file = join(folder, 'counters.json')
      const { status, stderr } = spawnSync(built('gpu_check'), ['bench', '--size', `${settings.size}`, '--zeros', '--steps', '1'], {
        encoding: 'utf8',
        env: {
          ...process.env,
          LORAFUSE_CUDA_LIBRARY: emulatedLibrary,
          PTXEMU_COUNTERS: file,
          PTXEMU_CHECKS: 'none',
          PTXEMU_MEMORY: '4G',
          PTXEMU_MULTIPROCESSORS: `${GPU.multiprocessors}`,
        },
      })
      assert.equal(status, 0, stderr)
      const all = JSON.parse(await readFile(file, 'utf8')) as Record<string, Record<string, number>>
      const some: typeof all = {}
      for (const { kernel, counters } of counted.ops.flatMap((op) => op.launches)) {
        some[kernel] ??= {}
        const sum = some[kernel]
        for (const [name, value] of Object.entries(counters)) sum[name] = (sum[name] ?? 0) + value
      }
      assert.deepEqual(Object.keys(some).sort(), Object.keys(all).sort())
      for (const [kernel, expected] of Object.entries(all)) {
        for (const name of ['launches', 'blocks', 'warps', 'local_requests', 'atomics']) {
          assert.equal(some[kernel]![name], expected[name], `${name} of ${kernel}`)
        }
      }
      // What depends on where a tile is cut off or an image has its border is an estimate, kernel by kernel; it evens out.
      const total = (of: typeof all, name: string) => Object.values(of).reduce((sum, each) => sum + each[name]!, 0)
      for (const name of [
        'warp_instructions',
        'mma_k8',
        'special',
        'barriers',
        'global_load_sectors',
        'global_store_sectors',
        'shared_passes',
      ]) {
        const [received, expected] = [total(some, name), total(all, name)]
        assert.ok(Math.abs(received / expected - 1) < 0.01, `${name}: ${received} of a sample, ${expected} of all blocks`)
      }
      t.diagnostic(`${total(some, 'blocks_run')} of ${total(all, 'blocks')} blocks were run`)
    } finally {
      await rm(folder, { recursive: true })
    }
  })

  test('the table has every launch in it', () => {
    const table = kernelTable(counted)
    const cells = table.split('\n').map((line) => line.split('|').map((cell) => cell.trim()))
    const rows = cells.filter(([, kernel]) => kernel?.startsWith('`') || kernel?.endsWith('others'))
    const launches = counted.ops.reduce((sum, op) => sum + op.launches.length, 0)
    assert.equal(
      rows.reduce((sum, row) => sum + Number(row[2]), 0),
      launches,
    )
    assert.ok(launches > 1000, `${launches} launches`)
    const [ms, cautious] = ['ms', 'cautious ms'].map((name) =>
      Number(cells.find(([, kernel]) => kernel === '**a step**')![cells[0]!.indexOf(name)]!.replaceAll('*', '')),
    )
    assert.ok(ms! > 0 && cautious! > ms!, `${ms} ms, ${cautious} with caution`)
  })
}
