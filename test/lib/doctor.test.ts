import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { cp, readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { type DoctorReport, describe, doctor } from '../../lib/doctor.js'
import { temporaryFolder } from '../fixtures/temporary.js'

test('the doctor tells versions, processor, memory and why CUDA is off, addon or not', () => {
  const report = doctor()
  assert.equal(report.node, process.versions.node)
  assert.match(report.version, /^\d+\.\d+\.\d+/)
  assert.ok(report.processor.threads >= 1)
  assert.ok(report.memory.totalBytes > 0 && report.memory.availableBytes <= report.memory.totalBytes)
  assert.equal(report.ok, report.addon.loaded)
  if (!report.cuda.available) assert.notEqual(report.cuda.reason, '')
  assert.deepEqual(JSON.parse(JSON.stringify(report)), report)
})

test('a build without nvcc says that it has no CUDA, why, and what adds it', async (t) => {
  const release = fileURLToPath(new URL('../../../build/Release', import.meta.url))
  const folder = await temporaryFolder(t)
  for (const file of await readdir(release)) {
    if (file === 'lorafuse.node' || file.startsWith('liblorafuse_cpu')) await cp(join(release, file), join(folder, file))
  }
  const { LORAFUSE_CUDA_LIBRARY: _, ...env } = process.env
  const code = `console.log(require(${JSON.stringify(join(folder, 'lorafuse.node'))}).info().cuda.reason)`
  const { stdout } = await promisify(execFile)(process.execPath, ['-e', code], { env })
  assert.match(
    stdout,
    /^Expected the CUDA backend but this build has none, as nvcc was not found.*; where nvcc .* is, run: npx lorafuse-build\n$/,
  )
})

test('the report for people says what is missing and what to do', () => {
  const report: DoctorReport = {
    ok: false,
    version: '1.2.3',
    node: '20.0.0',
    platform: 'linux-x64',
    glibc: '2.36',
    addon: { loaded: false, code: 'NATIVE_NOT_FOUND', reason: 'not found\n  1. Run: npx lorafuse-build' },
    processor: { model: 'Some CPU', threads: 2, backend: '', bf16Backend: '', features: [] },
    memory: { totalBytes: 2 ** 33, availableBytes: 2 ** 32 },
    cuda: { available: false, gpu: '', reason: 'no driver' },
  }
  const text = describe(report)
  for (const part of [
    '1.2.3',
    'glibc 2.36',
    'Some CPU, 2 threads',
    '4.0 GiB available of 8.0 GiB',
    'npx lorafuse-build',
    'off: no driver',
    'does not work',
  ]) {
    assert.ok(text.includes(part), part)
  }
  const well = {
    ...report,
    ok: true,
    addon: { loaded: true } as const,
    processor: { ...report.processor, backend: 'x86-64-v4', bf16Backend: 'x86-64-v4-bf16', features: ['avx512f'] },
  }
  assert.match(describe(well), /backend {4}cpu x86-64-v4, in bf16 x86-64-v4-bf16 \(avx512f\).*Training works on this machine\.$/s)
})
