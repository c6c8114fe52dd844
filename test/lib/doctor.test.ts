import assert from 'node:assert/strict'
import { test } from 'node:test'
import { type DoctorReport, describe, doctor } from '../../lib/doctor.js'

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

test('the report for people says what is missing and what to do', () => {
  const report: DoctorReport = {
    ok: false,
    version: '1.2.3',
    node: '20.0.0',
    platform: 'linux-x64',
    glibc: '2.36',
    addon: { loaded: false, code: 'NATIVE_NOT_FOUND', reason: 'not found\n  1. Run: npx lorafuse-build' },
    processor: { model: 'Some CPU', threads: 2, backend: '', features: [] },
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
    processor: { ...report.processor, backend: 'x86-64-v4', features: ['avx512f'] },
  }
  assert.match(describe(well), /backend {4}cpu x86-64-v4 \(avx512f\).*Training works on this machine\.$/s)
})
